package access

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// EventKind is what events are about; endpoints choose by it.
type EventKind string

const (
	ChangeEvents     EventKind = "change"     // pushed, waiting, refused, withdrawn
	BuildEvents      EventKind = "build"      // ended
	LandingEvents    EventKind = "landing"    // a change has landed
	ReleaseEvents    EventKind = "release"    // made, its artifacts with it
	PromotionEvents  EventKind = "promotion"  // a release is declared somewhere, or what was there is not any more
	DeploymentEvents EventKind = "deployment" // under way, healthy, failed
	DriftEvents      EventKind = "drift"      // what is declared serves, but something of it is broken
)

// EventKinds are all of them.
func EventKinds() []EventKind {
	return []EventKind{ChangeEvents, BuildEvents, LandingEvents, ReleaseEvents, PromotionEvents,
		DeploymentEvents, DriftEvents}
}

// EventEndpoint is an address that is told what happens.
type EventEndpoint struct {
	Name         string
	URL          string
	Secret       string         // name of the secret of the server that signs
	Repositories []string       // that it is told of; none: all
	Kinds        []EventKind    // that it is told; none: all
	Allow        []netip.Prefix // addresses inside that it may have
}

// Wants reports whether an endpoint is told of an event.
func (e EventEndpoint) Wants(repository string, kind EventKind) bool {
	return (len(e.Repositories) == 0 || slices.Contains(e.Repositories, repository)) &&
		(len(e.Kinds) == 0 || slices.Contains(e.Kinds, kind))
}

// EventEndpoint finds an endpoint by its name.
func (c *Config) EventEndpoint(name string) (EventEndpoint, bool) {
	if c == nil {
		return EventEndpoint{}, false
	}
	e, ok := c.endpoints[name]
	return e, ok
}

// EventEndpoints are all endpoints by name.
func (c *Config) EventEndpoints() []EventEndpoint {
	if c == nil {
		return nil
	}
	var list []EventEndpoint
	for _, e := range c.endpoints {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b EventEndpoint) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// maxEndpoints bounds how often everything is told.
const maxEndpoints = 20

// endpoint checks one endpoint.
func (r *reader) endpoint(key, value *yaml.Node) {
	name := key.Value
	if !userForm().MatchString(name) {
		r.problem(key, "use 1 to 32 small letters, digits and '-', starting with a letter",
			"%q is not a name for an endpoint", name)
	}
	if len(r.config.endpoints) == maxEndpoints {
		r.problem(key, "have one of them pass events on", "there are more than %d endpoints", maxEndpoints)
	}
	e := EventEndpoint{Name: name}

	_, allow := lookup(value, "allow")
	for _, n := range items(allow) {
		prefix, err := netip.ParsePrefix(n.Value)
		if err != nil {
			r.problem(n, "for example: allow: [10.1.0.0/16]", "%q is not a network", n.Value)
		}
		e.Allow = append(e.Allow, prefix.Masked())
	}
	if _, n := lookup(value, "url"); n == nil || n.Value == "" {
		r.problem(key, "for example: url: https://example.org/headgate", "endpoint %s has no url", name)
	} else if what, fix := badEndpoint(n.Value, len(e.Allow) > 0); what != "" {
		r.problem(n, fix, "the url of endpoint %s %s", name, what)
	} else {
		e.URL = n.Value
	}
	if _, n := lookup(value, "secret"); n == nil || n.Value == "" {
		r.problem(key, "for example: secret: "+name+"-events, and ssh host secret set "+name+"-events",
			"endpoint %s has no secret: events are signed", name)
	} else {
		r.secretName(n, "endpoint "+name)
		e.Secret = n.Value
	}
	_, repositories := lookup(value, "repositories")
	for _, n := range items(repositories) {
		if _, ok := r.config.repositories[n.Value]; !ok && n.Value != Own {
			var known []string
			for name := range r.config.repositories {
				known = append(known, name)
			}
			r.problem(n, suggest(n.Value, known, "add it under repositories"),
				"endpoint %s is told of %q, which is not a repository of this server", name, n.Value)
		}
		e.Repositories = append(e.Repositories, n.Value)
	}
	_, kinds := lookup(value, "only")
	for _, n := range items(kinds) {
		var known []string
		for _, k := range EventKinds() {
			known = append(known, string(k))
		}
		if !slices.Contains(known, n.Value) {
			r.problem(n, suggest(n.Value, known, "choose of "+strings.Join(known, ", ")), "%q is not a kind of events", n.Value)
		}
		e.Kinds = append(e.Kinds, EventKind(n.Value))
	}
	r.config.endpoints[name] = e
}

// badEndpoint says what is wrong with an address to deliver to, and what to do.
// It may be plain http where it says which addresses inside it may have.
func badEndpoint(s string, inside bool) (what, fix string) {
	const write = "write it like https://example.org/headgate"
	if what := badLine(s, maxURL); what != "" {
		return "does not fit: " + what, write
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || strings.ContainsAny(s, " \\"):
		return "is not an address", write
	case u.User != nil:
		return "holds a user or password", "leave them out: events are signed"
	case u.Fragment != "" || strings.Contains(s, "#"):
		return "holds a fragment", write
	case u.Scheme == "https", u.Scheme == "http" && inside:
		return "", ""
	case u.Scheme == "http":
		return "would send everything in the clear", "use https; http is for addresses inside, given as allow"
	}
	return "is of a scheme that is not spoken", write
}
