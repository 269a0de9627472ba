package access

import (
	"cmp"
	"crypto/rsa"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// The file's shape. Its rules are checked on the nodes, which have lines.
type document struct {
	Address yaml.Node `yaml:"address"`
	Users   map[string]struct {
		Name  string            `yaml:"name"`
		Email []string          `yaml:"email"`
		Keys  []string          `yaml:"keys"`
		Forge map[string]string `yaml:"forge"`
		Quota string            `yaml:"quota"`
	} `yaml:"users"`
	Groups       map[string][]string `yaml:"groups"`
	Repositories map[string]struct {
		Description string    `yaml:"description"`
		Read        []string  `yaml:"read"`
		Write       []string  `yaml:"write"`
		Public      bool      `yaml:"public"`
		Gate        yaml.Node `yaml:"gate"`
		Policies    yaml.Node `yaml:"policies"`
		Ports       yaml.Node `yaml:"ports"`
		Quota       string    `yaml:"quota"`
		Build       yaml.Node `yaml:"build"`
	} `yaml:"repositories"`
	Builds      yaml.Node `yaml:"builds"`
	Connections map[string]struct {
		Forge       string   `yaml:"forge"`
		Repository  string   `yaml:"repository"`
		URL         string   `yaml:"url"`
		Mirror      string   `yaml:"mirror"`
		Secrets     []string `yaml:"secrets"`
		Token       string   `yaml:"token"`
		App         appShape `yaml:"app"`
		Key         string   `yaml:"key"`
		HostKeys    []string `yaml:"host_keys"`
		Requests    bool     `yaml:"requests"`
		Promotions  bool     `yaml:"promotions"`
		Deployments bool     `yaml:"deployments"`
	} `yaml:"connections"`
	Publish map[string]struct {
		Forge      string   `yaml:"forge"`
		Repository string   `yaml:"repository"`
		URL        string   `yaml:"url"`
		Token      string   `yaml:"token"`
		App        appShape `yaml:"app"`
		Key        string   `yaml:"key"`
		HostKeys   []string `yaml:"host_keys"`
		Branches   []string `yaml:"branches"`
	} `yaml:"publish"`
	Events map[string]struct {
		URL          string   `yaml:"url"`
		Secret       string   `yaml:"secret"`
		Repositories []string `yaml:"repositories"`
		Only         []string `yaml:"only"`
		Allow        []string `yaml:"allow"`
	} `yaml:"events"`
	Agents map[string]struct {
		Key          string            `yaml:"key"`
		Tags         map[string]string `yaml:"tags"`
		Repositories []string          `yaml:"repositories"`
		Drained      bool              `yaml:"drained"`
	} `yaml:"agents"`
}

type appShape struct {
	ID           int64  `yaml:"id"`
	Installation int64  `yaml:"installation"`
	Key          string `yaml:"key"`
}

// Parse checks a server.yaml. file is what its problems call it. The error is
// yamlfile.Problems, all that were found at once.
func Parse(file string, data []byte) (*Config, error) {
	top, err := yamlfile.Parse(file, data)
	if err != nil {
		return nil, err
	}
	var shape document
	if err := yamlfile.DecodeNode(file, top, &shape); err != nil {
		return nil, err
	}
	r := reader{file: file, config: &Config{
		users:        map[string]User{},
		keys:         map[string]string{},
		emails:       map[string]string{},
		forges:       map[string]string{},
		groups:       map[string][]string{},
		repositories: map[string]Repository{},
		connections:  map[string]Connection{},
		publications: map[string]Publication{},
		endpoints:    map[string]EventEndpoint{},
		agents:       map[string]Agent{},
		agentKeys:    map[string]string{},
	}}
	section := func(name string) *yaml.Node { _, v := lookup(top, name); return v }
	r.address(section("address"))
	r.names(section("users"), section("groups"))
	for key, value := range yamlfile.Pairs(section("users")) {
		r.user(key, value)
	}
	for key, value := range yamlfile.Pairs(section("groups")) {
		r.group(key, value)
	}
	for key, value := range yamlfile.Pairs(section("repositories")) {
		r.repository(key, value)
	}
	_, repositories := lookup(top, "repositories")
	for key, value := range yamlfile.Pairs(section("connections")) {
		r.connection(key, value, repositories)
	}
	r.identities(section("users"))
	for key, value := range yamlfile.Pairs(section("publish")) {
		r.publication(key, value)
	}
	for key, value := range yamlfile.Pairs(section("events")) {
		r.endpoint(key, value)
	}
	for key, value := range yamlfile.Pairs(section("agents")) {
		r.agent(key, value)
	}
	r.config.builds = r.builds(section("builds"), "builds", "variables", "limits", "secrets")
	r.config.buildSecrets = r.buildSecrets(section("builds"), "builds")
	r.config.repositories[Own] = Repository{
		Name:        Own,
		Description: "users, keys, groups and repositories of this server",
		Read:        []string{Administrators},
		Write:       []string{Administrators},
		Gated:       true,
		Policies:    true,
	}
	r.administrators(top)
	if err := r.problems.Err(); err != nil {
		return nil, err
	}
	return r.config, nil
}

// reader checks one file and collects what is wrong with it.
type reader struct {
	file     string
	config   *Config
	problems yamlfile.Problems
	users    []string       // all names, for suggestions and for what comes later in the file
	groups   []string       // all names
	keyLines map[string]int // fingerprint → line
	reserved []reservedPorts
}

func (r *reader) problem(at *yaml.Node, fix, format string, args ...any) {
	r.problems = append(r.problems, yamlfile.Problem{
		File: r.file,
		Line: at.Line,
		What: fmt.Sprintf(format, args...),
		Fix:  fix,
	})
}

// lookup finds a key and its value in a mapping.
func lookup(mapping *yaml.Node, name string) (key, value *yaml.Node) {
	for k, v := range yamlfile.Pairs(mapping) {
		if k.Value == name {
			return k, v
		}
	}
	return nil, nil
}

func (r *reader) names(users, groups *yaml.Node) {
	lines := map[string]int{}
	for key := range yamlfile.Pairs(users) {
		r.users = append(r.users, key.Value)
		lines[key.Value] = key.Line
		if err := CheckUserName(key.Value); err != nil {
			r.problem(key, "", "%s", err)
		}
		if key.Value == Everyone {
			r.problem(key, "choose another name", "%q means every user and can name none", Everyone)
		}
	}
	for key := range yamlfile.Pairs(groups) {
		r.groups = append(r.groups, key.Value)
		if err := CheckUserName(key.Value); err != nil {
			r.problem(key, "", "%s", err)
		}
		if key.Value == Everyone {
			r.problem(key, "remove it", "%q is always the group of every user", Everyone)
		}
		if line, ok := lines[key.Value]; ok {
			r.problem(key, "rename one of them", "%q is a group here and a user on line %d", key.Value, line)
		}
	}
	r.keyLines = map[string]int{}
}

func (r *reader) user(key, value *yaml.Node) {
	u := User{Name: key.Value, FullName: key.Value}
	if _, name := lookup(value, "name"); name != nil && name.Value != "" {
		u.FullName = name.Value
		if what := badLine(name.Value, 100); what != "" || strings.ContainsAny(name.Value, "<>") {
			r.problem(name, "write it as in a commit: Ada Lovelace", "the name of %s does not fit into a commit: %s", u.Name,
				cmp.Or(what, "it holds < or >"))
		}
	}
	_, emails := lookup(value, "email")
	for _, n := range items(emails) {
		if !emailForm().MatchString(n.Value) {
			r.problem(n, "write it like ada@example.com", "%q is not an e-mail address", n.Value)
			continue
		}
		lower := strings.ToLower(n.Value)
		if other, taken := r.config.emails[lower]; taken {
			r.problem(n, "keep it at one of them", "%s is already the address of %s", n.Value, other)
			continue
		}
		r.config.emails[lower] = u.Name
		u.Email = append(u.Email, n.Value)
	}
	r.atForges(&u, value)
	_, keys := lookup(value, "keys")
	for _, n := range items(keys) {
		k, err := ParseKey(n.Value)
		if err != nil {
			r.problem(n, "paste the one line of a .pub file", "a key of %s %s", u.Name, err)
			continue
		}
		if other, taken := r.config.keys[k.Fingerprint]; taken {
			r.problem(n, "a key says who somebody is: keep it at one of them",
				"the key %s of %s is already the key of %s on line %d", k.Fingerprint, u.Name, other, r.keyLines[k.Fingerprint])
			continue
		}
		r.config.keys[k.Fingerprint], r.keyLines[k.Fingerprint] = u.Name, n.Line
		u.Keys = append(u.Keys, k)
	}
	u.Quota = r.quota(value, u.Name)
	r.config.users[u.Name] = u
}

// quota is the quota of a user or repository, 0 when there is none.
func (r *reader) quota(value *yaml.Node, name string) int64 {
	_, n := lookup(value, "quota")
	if n == nil {
		return 0
	}
	size, ok := buildsettings.Bytes(n.Value)
	if !ok || n.Kind != yaml.ScalarNode {
		r.problem(n, "write a number of MiB or GiB, such as 500 MiB or 2 GiB",
			"the quota of %s is %q, which is no size", name, n.Value)
	}
	return size
}

var emailForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[^\s@<>"\\,;:\pC]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?$`)
})

func (r *reader) group(key, value *yaml.Node) {
	members := []string{}
	for _, n := range items(value) {
		switch {
		case slices.Contains(r.groups, n.Value):
			r.problem(n, "list its users", "group %q holds the group %q; groups hold users", key.Value, n.Value)
		case n.Value == Everyone:
			r.problem(n, "name "+Everyone+" where the group is used", "group %q holds %q; groups hold users",
				key.Value, Everyone)
		case !slices.Contains(r.users, n.Value):
			r.problem(n, suggest(n.Value, r.users, "add the user under users"), "group %q holds %q, which is not a user",
				key.Value, n.Value)
		case slices.Contains(members, n.Value):
			r.problem(n, "keep one of them", "group %q holds %q twice", key.Value, n.Value)
		default:
			members = append(members, n.Value)
		}
	}
	r.config.groups[key.Value] = members
}

func (r *reader) administrators(top *yaml.Node) {
	for _, name := range r.config.groups[Administrators] {
		if len(r.config.users[name].Keys) > 0 {
			return
		}
	}
	at := top
	if key, groups := lookup(top, "groups"); key != nil {
		at = key
		if key, _ := lookup(groups, Administrators); key != nil {
			at = key
		}
	}
	r.problem(at, fmt.Sprintf("add to groups: %s: [<a user who has a key>]", Administrators),
		"there is no administrator with a key, so nobody could ever change this file again")
}

func (r *reader) repository(key, value *yaml.Node) {
	name := key.Value
	if err := CheckRepositoryName(name); err != nil {
		r.problem(key, "", "%s", err)
		return
	}
	repository := Repository{Name: name, Gated: true, Policies: true}
	if _, n := lookup(value, "description"); n != nil {
		repository.Description = n.Value
		if what := badLine(n.Value, 1000); what != "" {
			r.problem(n, "keep it to one line", "the description of %s does not fit: %s", name, what)
		}
	}
	read, reads := r.list(value, "read", name)
	write, writes := r.list(value, "write", name)
	switch { // what is left out is never wider than what is given
	case !reads && !writes:
		read, write = []string{Everyone}, []string{Everyone}
	case !reads:
		read = write
	case !writes:
		write = read
	}
	repository.Read, repository.Write = read, write
	if _, n := lookup(value, "public"); n != nil {
		if err := n.Decode(&repository.Public); err != nil {
			r.problem(n, "", "public of %s is %q; it is true or false", name, n.Value)
		}
	}
	for _, s := range []Switch{Gate, OwnPolicies} {
		if _, n := lookup(value, string(s)); n != nil {
			on, by, ok := switched(n.Value)
			if !ok || n.Kind != yaml.ScalarNode {
				r.problem(n, "", "the %s of %s: %q is not on, off, or \"off by <who, and when>\"", s, name, n.Value)
			}
			s.of(&repository, on, by)
		}
	}
	if _, n := lookup(value, "ports"); n != nil {
		repository.Ports = r.ports(n, name)
	}
	repository.Quota = r.quota(value, name)
	if _, n := lookup(value, "build"); n != nil {
		under := "repositories." + name + ".build"
		repository.Build = r.builds(n, under, append(slices.Clone(buildsettings.Keys), "secrets", "aws")...)
		repository.BuildSecrets = r.buildSecrets(n, under)
		repository.AWS = r.awsStores(n, under)
	}
	r.config.repositories[name] = repository
}

// builds reads settings of builds, which may hold some keys.
func (r *reader) builds(n *yaml.Node, under string, known ...string) buildsettings.Settings {
	if n == nil || n.Tag == "!!null" {
		return buildsettings.Settings{}
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n, "write "+under+": {variables: {AWS_REGION: eu-north-1}}", "%s is not a mapping", under)
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for key := range yamlfile.Pairs(n) {
		if !slices.Contains(known, key.Value) {
			r.problems = append(r.problems, yamlfile.UnknownKey(r.file, key, under, slices.Clone(known)))
		}
	}
	s, problems := buildsettings.Read(r.file, n, under)
	r.problems = append(r.problems, problems...)
	return s
}

// buildSecrets reads which secrets of the server builds may name.
func (r *reader) buildSecrets(n *yaml.Node, under string) (names []string) {
	_, list := lookup(n, "secrets")
	if list == nil || list.Tag == "!!null" {
		return nil
	}
	if list.Kind != yaml.SequenceNode || len(list.Content) > maxBuildSecrets {
		r.problem(list, "write a list of names, such as [nexus-token]", "%s.secrets is not a list of at most %d names", under,
			maxBuildSecrets)
		return nil
	}
	for _, name := range list.Content {
		if err := (secret.ID{Name: name.Value}).Check(); err != nil || name.Kind != yaml.ScalarNode {
			r.problem(name, "name a secret of the server, as secret list shows it",
				"%s.secrets has %q, which is not the name of a secret", under, name.Value)
			continue
		}
		names = append(names, strings.TrimPrefix(name.Value, "/"))
	}
	return names
}

// maxBuildSecrets bounds how many secrets of the server builds may name.
const maxBuildSecrets = 100

var offForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^off by ([A-Za-z0-9][A-Za-z0-9 ._@+-]{0,98}[A-Za-z0-9]|[A-Za-z0-9])$`)
})

// Switch is a setting of a repository that is on, or off by somebody.
type Switch string

// The switches, as they are called in the file.
const (
	Gate        Switch = "gate"
	OwnPolicies Switch = "policies"
)

// of sets it.
func (s Switch) of(r *Repository, on bool, by string) {
	switch s {
	case Gate:
		r.Gated, r.UngatedBy = on, by
	case OwnPolicies:
		r.Policies, r.PoliciesOffBy = on, by
	}
}

// switched reads the value of a Switch.
func switched(value string) (on bool, by string, ok bool) {
	switch value {
	case "on", "true":
		return true, "", true
	case "off", "false":
		return false, "", true
	}
	if m := offForm().FindStringSubmatch(value); m != nil {
		return false, m[1], true
	}
	return true, "", false
}

// list reads who may read or write, an empty list meaning nobody; false when it
// is left out.
func (r *reader) list(value *yaml.Node, what, repository string) (names []string, given bool) {
	_, list := lookup(value, what)
	if list == nil {
		return nil, false
	}
	names = []string{}
	known := append(append([]string{Everyone}, r.users...), r.groups...)
	for _, n := range items(list) {
		if !slices.Contains(known, n.Value) {
			r.problem(n, suggest(n.Value, known, "add the user or group"), "%s of %s names %q, which is not a user or a group",
				what, repository, n.Value)
			continue
		}
		names = append(names, n.Value)
	}
	return names, true
}

// CheckRepositoryName says what is wrong with a name for a new repository.
func CheckRepositoryName(name string) error {
	if err := repo.CheckName(name); err != nil {
		return err
	}
	for _, word := range Reserved() {
		if strings.EqualFold(name, word) {
			return fmt.Errorf("%q is the server's own name for something; choose another", name)
		}
	}
	return nil
}

// ParseKey reads one line of a .pub or authorized_keys file. Its error goes on
// from "the key …".
func ParseKey(line string) (Key, error) {
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\n\r") {
		return Key{}, errors.New("has more than one line")
	}
	if strings.Contains(line, "PRIVATE KEY") {
		return Key{}, errors.New("is a private key: make a new pair, this one is no secret any more")
	}
	if strings.HasPrefix(line, "ssh-dss") {
		return Key{}, errors.New("is a DSA key, which is too weak; make another with ssh-keygen -t ed25519")
	}
	public, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return Key{}, errors.New("is not an SSH public key")
	}
	if len(options) > 0 {
		return Key{}, fmt.Errorf("has the option %s, and options have no meaning here", options[0])
	}
	switch public.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		crypto, ok := public.(ssh.CryptoPublicKey)
		if !ok {
			return Key{}, errors.New("is an unreadable RSA key")
		}
		pub, ok := crypto.CryptoPublicKey().(*rsa.PublicKey)
		if !ok {
			return Key{}, errors.New("is an unreadable RSA key")
		}
		if bits := pub.N.BitLen(); bits < 2048 || bits > 8192 {
			return Key{}, fmt.Errorf("is an RSA key of %d bits, outside 2048 to 8192; make another with ssh-keygen -t ed25519",
				bits)
		}
	default:
		return Key{}, fmt.Errorf("is of type %s, which this server does not take; make another with ssh-keygen -t ed25519",
			public.Type())
	}
	if what := badLine(comment, 200); what != "" {
		return Key{}, fmt.Errorf("has a comment that does not fit: %s", what)
	}
	return Key{Fingerprint: ssh.FingerprintSHA256(public), Type: public.Type(), Comment: comment, Public: public}, nil
}

// items are the entries of a list; nil and an empty value have none.
func items(list *yaml.Node) []*yaml.Node {
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	return list.Content
}

// badLine says why s is not one printable line of at most max characters.
func badLine(s string, max int) string {
	if n := utf8.RuneCountInString(s); n > max {
		return fmt.Sprintf("it has %d characters, at most %d are kept", n, max)
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return fmt.Sprintf("it holds the character %U", c)
		}
	}
	return ""
}

func suggest(got string, known []string, otherwise string) string {
	if near, ok := yamlfile.Nearest(got, known); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return otherwise
}
