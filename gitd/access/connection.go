package access

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

var (
	forges         = []string{"github", "gitlab", "gitea", "forgejo"}
	repositoryForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}(/[A-Za-z0-9_.-]{1,100}){1,9}$`)
	})
)

const maxURL = 500

// connection checks one connection, and makes a mirror of the repository that it
// names, which stands in the file before or behind it.
func (r *reader) connection(key, value, repositories *yaml.Node) {
	name := key.Value
	if !userForm().MatchString(name) {
		r.problem(key, "use 1 to 32 small letters, digits and '-', starting with a letter",
			"%q is not a name for a connection", name)
	}
	scalar := func(what, example string) (string, *yaml.Node) {
		_, n := lookup(value, what)
		if n == nil || n.Value == "" {
			r.problem(key, "for example: "+what+": "+example, "connection %s has no %s", name, what)
			return "", nil
		}
		return n.Value, n
	}
	c := Connection{Name: name}

	var n *yaml.Node
	if c.Forge, n = scalar("forge", "github"); n != nil && !slices.Contains(forges, c.Forge) {
		r.problem(n, suggest(c.Forge, forges, "choose one of "+strings.Join(forges, ", ")),
			"connection %s is to the forge %q", name, c.Forge)
	}
	if c.Repository, n = scalar("repository", "owner/name"); n != nil {
		if !repositoryForm().MatchString(c.Repository) || c.Forge != "gitlab" && strings.Count(c.Repository, "/") > 1 {
			r.problem(n, "write it as at the forge: owner/name", "%q is not the name of a repository at a forge", c.Repository)
		}
	}
	if c.URL, n = scalar("url", "https://github.com/owner/name.git"); n != nil {
		if what, fix := badURL(c.URL); what != "" {
			r.problem(n, fix, "the url of connection %s %s", name, what)
		}
	}
	if c.Mirror, n = scalar("mirror", "a repository of this server"); n != nil {
		r.mirror(n, &c, repositories)
	}

	_, list := lookup(value, "secrets")
	given := items(list)
	if len(given) < 1 || len(given) > 3 {
		r.problem(key, "for example: secrets: ["+name+"-webhook], and ssh host secret set "+name+"-webhook",
			"connection %s has %d secrets: its webhook is signed with 1 to 3", name, len(given))
	}
	for _, n := range given {
		r.secretName(n, "connection "+name)
		if slices.Contains(c.Secrets, n.Value) {
			r.problem(n, "keep one of them", "connection %s has the secret %q twice", name, n.Value)
		}
		c.Secrets = append(c.Secrets, n.Value)
	}
	c.Credentials = r.credentials(key, value, "connection "+name, c.Forge, c.URL)
	_, requests := lookup(value, "requests")
	c.Requests = requests != nil && requests.Value == "true"
	if _, n := lookup(value, "promotions"); n != nil && n.Value == "true" {
		if c.Promotions = true; !c.Requests {
			r.problem(n, "add requests: true",
				"connection %s proposes promotions as requests, and does not follow requests", name)
		}
	}
	if _, n := lookup(value, "deployments"); n != nil && n.Value == "true" {
		switch c.Deployments = true; {
		case !c.Requests:
			r.problem(n, "add requests: true", "connection %s shows deployments, and does not follow requests", name)
		case c.Forge == "gitea" || c.Forge == "forgejo":
			r.problem(n, "leave deployments out",
				"connection %s shows deployments, and a forge of the kind %s has none", name, c.Forge)
		}
	}
	if n := requests; c.Requests {
		if !c.HasAPI() {
			r.problem(n, "set a secret, and name it: token: "+name+"-token; or with GitHub an app: {id: …, key: …}",
				"connection %s builds and lands requests, and has no token to read and answer them with", name)
		}
		if strings.HasPrefix(c.URL, "ssh://") {
			r.problem(n, "write the https url, with a token", "connection %s follows requests, which ssh does not show", name)
		}
		if !strings.HasSuffix(strings.TrimSuffix(c.URL, ".git"), "/"+c.Repository) {
			r.problem(n, "end the url in /"+c.Repository+".git",
				"the url of connection %s does not say where its forge's API is", name)
		}
	}
	r.config.connections[name] = c
}

var loginForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_.-]{0,99}|id:[1-9][0-9]{0,17})$`)
})

// atForges reads who a user is at forges.
func (r *reader) atForges(u *User, value *yaml.Node) {
	_, at := lookup(value, "forge")
	for key, n := range yamlfile.Pairs(at) {
		if !loginForm().MatchString(n.Value) {
			r.problem(n, "write the login, or id: and the number that the forge gives for it",
				"%q does not name somebody at a forge", n.Value)
			continue
		}
		if u.Forge == nil {
			u.Forge = map[string]string{}
		}
		u.Forge[key.Value] = n.Value
		name := forgeKey(key.Value, n.Value)
		if other, taken := r.config.forges[name]; taken {
			r.problem(n, "it says who somebody is: keep it at one of them", "%s at %s is %s already", n.Value, key.Value, other)
			continue
		}
		r.config.forges[name] = u.Name
	}
}

// identities wants the connections that users are known by, which stand behind them.
func (r *reader) identities(users *yaml.Node) {
	var known []string
	for name := range r.config.connections {
		known = append(known, name)
	}
	for key, value := range yamlfile.Pairs(users) {
		_, at := lookup(value, "forge")
		for connection := range yamlfile.Pairs(at) {
			if _, there := r.config.connections[connection.Value]; !there {
				r.problem(connection, suggest(connection.Value, known, "add it under connections"),
					"%s is known at %q, which is not a connection", key.Value, connection.Value)
			}
		}
	}
}

// secretName wants the name of a secret, and not one itself.
func (r *reader) secretName(n *yaml.Node, of string) {
	if (secret.ID{Name: n.Value}).Check() != nil {
		// It is not repeated: it may be the secret.
		r.problem(n, "set it with: ssh host secret set <name>, and write the name here",
			"%s has something that is not the name of a secret", of)
	}
}

// mirror makes the repository of a connection its mirror.
func (r *reader) mirror(n *yaml.Node, c *Connection, repositories *yaml.Node) {
	repository, ok := r.config.repositories[c.Mirror]
	if !ok {
		var known []string
		for name := range r.config.repositories {
			known = append(known, name)
		}
		r.problem(n, suggest(c.Mirror, known, "add it under repositories"),
			"connection %s mirrors to %q, which is not a repository of this server", c.Name, c.Mirror)
		return
	}
	if repository.Mirror != "" {
		r.problem(n, "mirror each to a repository of its own", "%s is a mirror of connection %s already", c.Mirror,
			repository.Mirror)
		return
	}
	_, entry := lookup(repositories, c.Mirror)
	if _, gate := lookup(entry, "gate"); gate != nil {
		r.problem(gate, "leave gate out", "%s is a mirror of connection %s: what lands is decided at the forge",
			c.Mirror, c.Name)
	}
	repository.Mirror = c.Name
	if _, write := lookup(entry, "write"); len(items(write)) == 0 {
		repository.Write = []string{} // not those of read
	}
	repository.Gated, repository.UngatedBy = false, "the forge of connection "+c.Name
	r.config.repositories[c.Mirror] = repository
}

// badURL says what is wrong with an address to fetch from, and what to do.
func badURL(s string) (what, fix string) {
	const write = "write it like https://github.com/owner/name.git"
	if what := badLine(s, maxURL); what != "" {
		return "does not fit: " + what, write
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || strings.ContainsAny(s, " \\"):
		return "is not an address", write
	case u.Scheme == "ssh" && u.RawQuery == "" && !strings.ContainsAny(s, "?#"):
		return sshURL(u)
	case u.User != nil:
		return "holds a user or password", "leave them out, and name a secret as token"
	case u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(s, "?#"):
		return "holds a query or fragment", write
	case u.Scheme == "https":
		return "", ""
	case u.Scheme == "http":
		if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
			return "", ""
		}
		return "would send everything in the clear", "use https"
	}
	return "is of a scheme that is not fetched from", "use https, or ssh with a key"
}
