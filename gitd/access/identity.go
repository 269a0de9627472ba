package access

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Right is something that may be done with a repository. The zero Right is one
// that nobody has.
type Right int

const (
	Read       Right = iota + 1
	Write            // push to it; which refs is for the policies
	Approve          // say yes or no to a promotion; whose counts is for its rules
	Administer       // set its gate; of Own: users, keys, groups and repositories
)

func (r Right) String() string {
	switch r {
	case Read:
		return "read"
	case Write:
		return "write"
	case Approve:
		return "approve"
	case Administer:
		return "administer"
	}
	return "unknown right"
}

// Via is the way by which somebody came, as records name it.
type Via string

const (
	ViaSSH     Via = "ssh"
	ViaPush    Via = "push"
	ViaConsole Via = "console"
	ViaToken   Via = "token"
	ViaForge   Via = "forge"     // a forge says who: see ByForge
	ViaStart   Via = "start"     // the operator, at a start of the server
	ViaEnrol   Via = "enrolment" // a machine shows the one-time token that a user made: see ByEnrolment
	viaNobody  Via = "anonymous" // who gave no name: see Anonymous
	viaRecord  Via = "record"    // nobody came: see Recorded
)

// Identity is who acts: a user, how they came, and what narrows their rights
// this time. It is made of proven facts only: Config.ByKey of a key whose
// possession SSH has proven, Config.BySession of a session that such a user has
// opened, Config.ByToken of a token that such a user has made. The zero Identity is nobody, who may do nothing.
type Identity struct {
	User  string // name in server.yaml
	Via   Via
	Scope Scope
}

// Scope narrows the rights of an identity, for a token, a deploy key or an agent.
// It never adds one: what the user may not do, nothing in a Scope makes allowed.
// The zero Scope takes nothing away.
type Scope struct {
	Repositories []string  // these and no others; nil: all of the user's
	Highest      Right     // this right and lower ones; 0: all of the user's
	Until        time.Time // no right from then on; zero: it does not expire
}

// Allows reports whether the scope leaves a right to a repository to a user who
// has it.
func (s Scope) Allows(right Right, repository string) bool {
	switch {
	case repository == Own && right > Read && s.Highest != 0 && s.Highest < Administer &&
		!slices.Contains(s.Repositories, Own):
		return false // who may write there can make themselves a key: only a scope that names it leaves that
	case s.Repositories != nil && !slices.Contains(s.Repositories, repository):
		return false
	case s.Highest != 0 && right > s.Highest:
		return false
	case !s.Until.IsZero() && !time.Now().Before(s.Until):
		return false
	}
	return true
}

// ByKey is whoever holds a key, by its SHA256 fingerprint. That it was proven is
// for the caller to know; false when the key is nobody's.
func (c *Config) ByKey(fingerprint string, via Via) (Identity, bool) {
	if c == nil {
		return Identity{}, false
	}
	return c.identity(c.keys[fingerprint], via)
}

// BySession is the user of a session that a proven user has opened; false when
// there is no such user any more.
func (c *Config) BySession(user string) (Identity, bool) { return c.identity(user, ViaConsole) }

// ByToken is the user who has made a token, within its scope. That its secret was
// shown is for the caller to know; false when there is no such user any more.
func (c *Config) ByToken(user string, scope Scope) (Identity, bool) {
	who, ok := c.identity(user, ViaToken)
	who.Scope = scope
	return who, ok
}

// ByEnrolment is the user who has made the token of a machine that enrols, which is
// all that it is good for. That its secret was shown is for the caller to know; false
// when there is no such user any more.
func (c *Config) ByEnrolment(user string) (Identity, bool) {
	who, ok := c.identity(user, ViaEnrol)
	who.Scope = Scope{Repositories: []string{Own}}
	return who, ok
}

// ByForge is somebody at a connection's forge, as that calls them: "ann@hub", which
// is no user's name here, and has no rights of its own.
func ByForge(connection, login string) Identity {
	return Identity{User: login + "@" + connection, Via: ViaForge}
}

// OfForge is the user who somebody at a connection's forge is, as server.yaml says: by
// login, or by number. That the forge has proven it is for the caller to know. They say
// yes there and do nothing else, and only in the connection's mirror.
func (c *Config) OfForge(connection, login string, id int64) (Identity, bool) {
	conf, ok := c.Connection(connection)
	if !ok {
		return Identity{}, false
	}
	for _, name := range []string{fmt.Sprintf("id:%d", id), login} {
		if user, known := c.forges[forgeKey(connection, name)]; known {
			who, ok := c.identity(user, ViaForge)
			who.Scope = Scope{Repositories: []string{conf.Mirror}, Highest: Approve}
			return who, ok
		}
	}
	return Identity{}, false
}

// UserOfForge is whom ByForge calls so: "ann-gh@hub" is ann.
func (c *Config) UserOfForge(name string) (User, bool) {
	login, connection, ok := strings.Cut(name, "@")
	if c == nil || !ok || login == "" {
		return User{}, false
	}
	return c.User(c.forges[forgeKey(connection, login)])
}

// forgeKey is somebody at a connection's forge. Case does not count there.
func forgeKey(connection, login string) string { return connection + " " + strings.ToLower(login) }

// Anonymous is who has proven nothing, and may read what is public.
func Anonymous() Identity { return Identity{Via: viaNobody} }

func (c *Config) identity(user string, via Via) (Identity, bool) {
	if _, ok := c.User(user); !ok {
		return Identity{}, false
	}
	return Identity{User: user, Via: via}, true
}

// Recorded is a user whom a record names: who pushed what is about to land, who
// gave an approval. It serves to ask what they may do now, and proves nothing:
// nobody acts by it.
func Recorded(user string) Identity { return Identity{User: user, Via: viaRecord} }

// May reports whether somebody has a right to a repository: as the file says of
// the user, and as far as the scope goes.
//
// Readers are those whom read or write names, all of what is public, and the administrators, who could
// make themselves readers at any time; writers are those of write. Every reader with
// a name may be asked to approve, but not by what came to read or to write alone: a
// yes is a person's. Nobody has
// rights to a repository that the file does not name.
func (c *Config) May(who Identity, right Right, repository string) bool {
	r, ok := c.Repository(repository)
	if !ok || !who.Scope.Allows(right, repository) {
		return false
	}
	switch right {
	case Read:
		return r.Public && (who.Via == viaNobody || c.within(who.User, []string{Everyone})) ||
			c.within(who.User, r.Read) || c.within(who.User, r.Write) || c.administers(who.User)
	case Write:
		return c.within(who.User, r.Write)
	case Approve:
		return c.within(who.User, []string{Everyone}) && c.May(who, Read, repository)
	case Administer:
		return c.administers(who.User)
	}
	return false
}

// Who lists the users that have a right to a repository, sorted.
func (c *Config) Who(right Right, repository string) []string {
	var names []string
	for _, u := range c.Users() {
		if c.May(Recorded(u.Name), right, repository) {
			names = append(names, u.Name)
		}
	}
	return names
}

// Rights is what the file comes to for a repository, in words: "read: everyone;
// write: release". Administrators may read every repository, which it leaves out.
func (r Repository) Rights() string {
	readers := slices.Clone(r.Read)
	for _, name := range r.Write { // who may write may read
		if !slices.Contains(readers, name) {
			readers = append(readers, name)
		}
	}
	read := names(readers)
	if r.Public {
		read = "everybody, without a name too"
	}
	return "read: " + read + "; write: " + names(r.Write)
}

func names(list []string) string {
	switch {
	case len(list) == 0:
		return "nobody"
	case slices.Contains(list, Everyone):
		return Everyone
	}
	return strings.Join(list, ", ")
}

// RightsSince says of each repository to which rights are others than in an
// earlier Config, or which is new, what they come to now.
func (c *Config) RightsSince(earlier *Config) []string {
	var lines []string
	for _, r := range c.Repositories() {
		was, known := earlier.Repository(r.Name)
		switch {
		case r.Name == Own:
		case !known:
			lines = append(lines, r.Name+": "+r.Rights())
		case was.Rights() != r.Rights():
			lines = append(lines, r.Name+": "+r.Rights()+" (was "+was.Rights()+")")
		}
	}
	return lines
}

// administers reports whether a user is one of the administrators.
func (c *Config) administers(user string) bool {
	return slices.Contains(c.groups[Administrators], user)
}

// Standing is what somebody is and may do in one repository. It has the shape in
// which policies are told of users (policies.User), and is made here only.
type Standing struct {
	Name     string
	Groups   []string // not nil
	Admin    bool
	MayRead  bool
	MayWrite bool
}

// Standing says what somebody is and may do in a repository. A scope that takes the right
// to administer away takes the group of administrators with it.
func (c *Config) Standing(who Identity, repository string) Standing {
	s := Standing{
		Name:     who.User,
		Groups:   []string{},
		Admin:    c.May(who, Administer, repository),
		MayRead:  c.May(who, Read, repository),
		MayWrite: c.May(who, Write, repository),
	}
	for _, group := range c.Groups(who.User) {
		if group != Administrators || s.Admin {
			s.Groups = append(s.Groups, group)
		}
	}
	return s
}
