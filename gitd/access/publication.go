package access

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
)

// Publication is a repository of this server that is pushed to a forge.
type Publication struct {
	Name        string
	Forge       string   // github, gitlab, gitea or forgejo
	Repository  string   // here
	URL         string   // to push to, without credentials
	Credentials          // to push with
	Branches    []string // patterns of those that are pushed; nil: all but the server's own
}

// Publishes reports whether a ref of the repository is pushed: tags, and branches.
// Where environments are is the server's own, and goes nowhere.
func (p Publication) Publishes(ref string) bool {
	if strings.HasPrefix(ref, "refs/tags/") {
		return true
	}
	branch, is := strings.CutPrefix(ref, "refs/heads/")
	if !is || strings.HasPrefix(branch, "env/") || strings.HasPrefix(branch, "promote/") {
		return false
	}
	return p.Branches == nil || slices.ContainsFunc(p.Branches, func(pattern string) bool {
		ok, _ := path.Match(pattern, branch) // which was tried when it was read
		return ok
	})
}

// Publication finds one by its name.
func (c *Config) Publication(name string) (Publication, bool) {
	if c == nil {
		return Publication{}, false
	}
	p, ok := c.publications[name]
	return p, ok
}

// Publications lists all by name.
func (c *Config) Publications() (all []Publication) {
	if c == nil {
		return nil
	}
	for _, name := range sorted(c.publications) {
		all = append(all, c.publications[name])
	}
	return all
}

// publication checks one of them.
func (r *reader) publication(key, value *yaml.Node) {
	p := Publication{Name: key.Value}
	what := "publication " + p.Name
	if !userForm().MatchString(p.Name) {
		r.problem(key, "use 1 to 32 small letters, digits and '-', starting with a letter",
			"%q is not a name for a publication", p.Name)
	}
	if _, taken := r.config.connections[p.Name]; taken {
		r.problem(key, "give it another name: both are shown by forge show", "%s is a connection, too", p.Name)
	}
	text := func(name, example string) (string, *yaml.Node) {
		_, n := lookup(value, name)
		if n == nil || n.Value == "" {
			r.problem(key, "for example: "+name+": "+example, "%s has no %s", what, name)
			return "", nil
		}
		return n.Value, n
	}
	var n *yaml.Node
	if p.Forge, n = text("forge", "github"); n != nil && !slices.Contains(forges, p.Forge) {
		r.problem(n, suggest(p.Forge, forges, "choose one of "+strings.Join(forges, ", ")), "%s is to the forge %q", what,
			p.Forge)
	}
	if p.Repository, n = text("repository", "a repository of this server"); n != nil {
		r.published(n, what, p.Repository)
	}
	if p.URL, n = text("url", "https://github.com/owner/name.git"); n != nil {
		if wrong, fix := badURL(p.URL); wrong != "" {
			r.problem(n, fix, "the url of %s %s", what, wrong)
		}
		for name, c := range r.config.connections {
			if sameURL(c.URL, p.URL) {
				r.problem(n, "leave one of them out", "%s pushes to what connection %s follows", what, name)
			}
		}
		for name, other := range r.config.publications {
			if sameURL(other.URL, p.URL) {
				r.problem(n, "push each repository to one of its own", "%s pushes to where %s does", what, name)
			}
		}
	}
	p.Credentials = r.credentials(key, value, what, p.Forge, p.URL)
	if _, n := lookup(value, "branches"); n != nil && n.Tag != "!!null" {
		p.Branches = []string{}
		for _, n := range items(n) {
			if _, err := path.Match(n.Value, "x"); err != nil || n.Value == "" {
				r.problem(n, `write a name, or a pattern such as "release/*"`, "%q is not a pattern of branches", n.Value)
			}
			p.Branches = append(p.Branches, n.Value)
		}
	}
	r.config.publications[p.Name] = p
}

// published wants a repository that may be pushed elsewhere.
func (r *reader) published(n *yaml.Node, what, name string) {
	if name == Own {
		r.problem(n, "back the server up with: headgate backup", "%s publishes the server's own configuration", what)
		return
	}
	if _, ok := r.config.repositories[name]; !ok {
		r.problem(n, suggest(name, sorted(r.config.repositories), "add it under repositories"),
			"%s publishes %q, which is not a repository of this server", what, name)
	}
}

// sameURL compares where two addresses lead.
func sameURL(a, b string) bool {
	place := func(s string) string {
		u, err := url.Parse(s)
		if err != nil {
			return s
		}
		return strings.ToLower(u.Hostname()) + strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), ".git") + ":" + u.Port()
	}
	return place(a) == place(b)
}

var hostForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$`) })

// sshURL says what is wrong with an address of ssh, which names who logs in.
func sshURL(u *url.URL) (what, fix string) {
	const write = "write it like ssh://git@github.com/owner/name.git"
	_, password := u.User.Password()
	switch {
	case u.User == nil || u.User.Username() == "":
		return "does not say who logs in", write
	case password:
		return "holds a password", "leave it out, and name a private key as key"
	case !loginForm().MatchString(u.User.Username()) || strings.HasPrefix(u.User.Username(), "id:"):
		return "has a user that ssh does not take", write
	case !hostForm().MatchString(u.Hostname()):
		return "has a host that ssh does not take", write
	case len(u.Path) < 2 || strings.HasPrefix(u.Path, "/-"):
		return "names no repository", write
	}
	return "", ""
}
