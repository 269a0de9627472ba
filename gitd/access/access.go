// Package access reads server.yaml, the file of headgate.git that says who may
// do what: users with their keys, groups, and repositories with their readers
// and writers.
//
//   - Parse checks a file and makes a Config of it, or says what is wrong with
//     it, with file and line.
//   - Config never changes. It makes an Identity of a proven key or a session, and
//     answers May for it: every right is asked of an identity (identity.go).
//   - Initial writes the first file; AddRepository, Set (edit.go), AddUser, AddMember,
//     AddAgent and their opposites (members.go, agent.go) edit the text of one and leave everything
//     else in it as it was, comments included.
//
// Where the file is kept, and when a new one comes into force, is for others:
// it is a repository like any other. Whether a push or a promotion is allowed
// is for the policies; this package knows only what the file says.
package access

import (
	_ "embed"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
)

// Names that mean something by themselves.
const (
	FileName       = "server.yaml"    // in the top directory of headgate.git
	Own            = "headgate"       // the repository that holds this file
	Administrators = "administrators" // the group that must not be empty
	Everyone       = "everyone"       // every user of the file; not written in groups
)

// Schema is the JSON Schema of server.yaml, for editors.
//
//go:embed server.schema.json
var Schema []byte

// Reserved are the names that no repository may have, for they stand where a
// repository's name could: what the server answers over HTTP beside
// repositories, or may answer one day, and the server's own repository. This is
// the one list; the test of gitd/web holds its addresses against it.
func Reserved() []string {
	return []string{
		"allowed-signers", "api", "artifacts", "assets", "events", "favicon.ico", "healthz", "metrics",
		"robots.txt", "search", "sign-in", "sign-out", "v2", "webhooks", Own,
	}
}

var userForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`) })

// CheckUserName says what is wrong with the name of a user or group.
func CheckUserName(name string) error {
	if !userForm().MatchString(name) {
		return fmt.Errorf(
			"%q is not a name for a user or group: use 1 to 32 small letters, digits and '-', starting with a letter", name)
	}
	return nil
}

// User is one person or machine that has keys.
type User struct {
	Name     string   // what the server calls them, unique
	FullName string   // what their commits may call them; Name when the file says nothing
	Email    []string // unproven; which commits are theirs
	Keys     []Key
	Quota    int64 // bytes of objects that they may push in a day, 0 for any number
	// Forge is who they are at connections' forges: a login, or "id:" and its number
	// there, which outlives a change of name.
	Forge map[string]string
}

// Key is one public key of a user.
type Key struct {
	Fingerprint string // "SHA256:…", as ssh.FingerprintSHA256 and ssh-keygen -l have it
	Type        string // "ssh-ed25519"
	Comment     string
	Public      ssh.PublicKey
}

// Repository is what the file says of a repository.
type Repository struct {
	Name        string
	Description string
	Read        []string // users and groups; as Write when the file gives that alone
	Write       []string // users and groups, who may read, too; as Read when the file gives that alone
	Public      bool     // everybody may read it, over HTTP without a token too
	Gated       bool
	UngatedBy   string // who switched the gate off, as it is written; "" while it is on

	// Policies reports whether its own policies/ judge beside the server's; off is a way
	// out of those that deny their own change.
	Policies      bool
	PoliciesOffBy string // who switched them off, as it is written; "" while they are on

	// Mirror is the connection whose forge moves this repository's branches and
	// tags, "" for none. Nobody pushes to a mirror, and it has no gate of its own: what
	// lands is decided at the forge. Who may write it acts on its environments.
	Mirror string
	Quota  int64                  // bytes of objects that it may hold, 0 for any number
	Build  buildsettings.Settings // of its builds; they win over its headgate.yaml

	BuildSecrets []string // of the server, that its builds may name besides
	AWS          AWSStores

	// Ports of this machine are for this repository's environments alone.
	Ports []Ports
}

// Connection is a repository of a forge that this server hears of by webhooks.
type Connection struct {
	Name        string   // in the address of its webhook: /webhooks/<name>
	Forge       string   // github, gitlab, gitea or forgejo
	Repository  string   // at the forge: "owner/name", with GitLab "group/…/name"
	URL         string   // to fetch it from, without credentials
	Mirror      string   // repository here that follows it
	Secrets     []string // names of secrets of the server that sign its webhook, 1 to 3
	Credentials          // to fetch with, and to ask its API
	Requests    bool     // its pull or merge requests are built and landed, and its forge is told so
	Deployments bool     // what environments declare is shown there as deployments
	Promotions  bool     // promotions that wait for people are proposed there, as requests
}

// Config is one server.yaml that was found good. It never changes and is safe
// for concurrent use. The nil Config knows nobody and allows nothing.
type Config struct {
	users        map[string]User
	keys         map[string]string // fingerprint → user
	emails       map[string]string // lower case → user
	forges       map[string]string // connection and login or number at its forge, see forgeKey → user
	groups       map[string][]string
	repositories map[string]Repository
	connections  map[string]Connection
	publications map[string]Publication
	endpoints    map[string]EventEndpoint
	agents       map[string]Agent
	agentKeys    map[string]string // fingerprint → agent
	address      netip.Addr
	builds       buildsettings.Settings // of all repositories; their headgate.yaml wins over it
	buildSecrets []string               // of the server, that builds of all repositories may name
}

// SharesSecret reports whether builds of a repository may name a secret of the server.
func (c *Config) SharesSecret(repository, name string) bool {
	return c != nil && repository != "" &&
		(slices.Contains(c.buildSecrets, name) || slices.Contains(c.repositories[repository].BuildSecrets, name))
}

// AWS is what of AWS's own stores the builds of a repository are given.
func (c *Config) AWS(repository string) AWSStores {
	if c == nil {
		return AWSStores{}
	}
	return c.repositories[repository].AWS
}

// Builds is what the server says of the builds of a repository: of all, which the
// repository's own settings win over, and of this one, which wins over them.
func (c *Config) Builds(repository string) (all, own buildsettings.Settings) {
	if c == nil {
		return all, own
	}
	return c.builds, c.repositories[repository].Build
}

// User finds a user by name.
func (c *Config) User(name string) (User, bool) {
	if c == nil {
		return User{}, false
	}
	u, ok := c.users[name]
	return u, ok
}

// UserByEmail finds whose address an unproven e-mail address is.
func (c *Config) UserByEmail(email string) (User, bool) {
	if c == nil {
		return User{}, false
	}
	return c.User(c.emails[strings.ToLower(email)])
}

// Users lists all users by name.
func (c *Config) Users() []User {
	if c == nil {
		return nil
	}
	users := make([]User, 0, len(c.users))
	for _, name := range sorted(c.users) {
		users = append(users, c.users[name])
	}
	return users
}

// Groups lists the groups a user is in, sorted, without Everyone.
func (c *Config) Groups(user string) []string {
	if c == nil {
		return nil
	}
	var groups []string
	for _, name := range sorted(c.groups) {
		if slices.Contains(c.groups[name], user) {
			groups = append(groups, name)
		}
	}
	return groups
}

// AllGroups lists the names of all groups, Everyone among them.
func (c *Config) AllGroups() []string {
	if c == nil {
		return nil
	}
	return append(sorted(c.groups), Everyone)
}

// Members lists the users of a group, sorted. The members of Everyone are all
// users; an unknown group has none.
func (c *Config) Members(group string) []string {
	switch {
	case c == nil:
		return nil
	case group == Everyone:
		return sorted(c.users)
	}
	return slices.Sorted(slices.Values(c.groups[group]))
}

// Gated reports whether the gated branches of a repository are gated. What the
// file does not name is gated.
func (c *Config) Gated(repository string) bool {
	r, ok := c.Repository(repository)
	return !ok || r.Gated
}

// Policies reports whether the policies of a repository's own judge beside the server's.
func (c *Config) Policies(repository string) bool {
	r, ok := c.Repository(repository)
	return !ok || r.Policies
}

// Repository is what the file says of one repository. Own is always there.
func (c *Config) Repository(name string) (Repository, bool) {
	if c == nil {
		return Repository{}, false
	}
	r, ok := c.repositories[name]
	return r, ok
}

// Repositories lists all repositories by name, Own among them.
func (c *Config) Repositories() []Repository {
	if c == nil {
		return nil
	}
	all := make([]Repository, 0, len(c.repositories))
	for _, name := range sorted(c.repositories) {
		all = append(all, c.repositories[name])
	}
	return all
}

// Connection finds a connection by name.
func (c *Config) Connection(name string) (Connection, bool) {
	if c == nil {
		return Connection{}, false
	}
	conn, ok := c.connections[name]
	return conn, ok
}

// Connections lists all connections by name.
func (c *Config) Connections() []Connection {
	if c == nil {
		return nil
	}
	var all []Connection
	for _, name := range sorted(c.connections) {
		all = append(all, c.connections[name])
	}
	return all
}

// within reports whether a user is meant by a list of users and groups.
func (c *Config) within(user string, list []string) bool {
	if _, ok := c.users[user]; !ok {
		return false
	}
	for _, name := range list {
		if name == Everyone || name == user || slices.Contains(c.groups[name], user) {
			return true
		}
	}
	return false
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
