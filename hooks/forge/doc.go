// Package forge is Headgate's side of GitHub, GitLab, and Gitea or Forgejo.
//
// A webhook is a hint. Receiver checks its signature over the raw bytes, a
// delivery.Log syncs it to disk, and only then is it answered; HintsOf reduces it
// to keys of what to look at again. Whoever works on a key reads the forge's
// present state and compares, so that order, doubling and loss of webhooks change
// nothing but latency.
package forge

import "fmt"

// Kind is the software that a forge runs. It is chosen by the connection's
// configuration, never by a request's headers: Forgejo also sends GitHub's.
type Kind string

const (
	GitHub Kind = "github"
	GitLab Kind = "gitlab"
	Gitea  Kind = "gitea" // and Forgejo
)

// ParseKind is the Kind that is written s.
func ParseKind(s string) (Kind, error) {
	switch k := Kind(s); k {
	case GitHub, GitLab, Gitea:
		return k, nil
	case "forgejo":
		return Gitea, nil
	}
	return "", fmt.Errorf("unknown forge %q: choose one of github, gitlab, gitea, forgejo", s)
}
