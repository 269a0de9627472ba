package server

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// submodule finds the repository of this server that a URL in the .gitmodules of
// another names. What is checked out of it is seen by all who read the other's
// logs and artifacts: so only when all of them may read it too, whoever pushes. One
// sentence is said of what nobody may read and of what there is not.
func (s *Server) submodule(of, address string) (r *repo.Repository, why string) {
	name, ok := s.ownRepository(address)
	if !ok {
		return nil, fmt.Sprintf("%s is not of this server", address)
	}
	no := fmt.Sprintf("this server has no repository %s that everybody who may read %s may read", name, of)
	a := s.access.Load()
	theirs, known := a.Repository(name)
	mine, _ := a.Repository(of)
	if !known || mine.Public && !theirs.Public {
		return nil, no
	}
	for _, user := range a.Who(access.Read, of) {
		if !a.May(access.Recorded(user), access.Read, name) {
			return nil, no
		}
	}
	r, err := s.store.Repository(name)
	if err != nil {
		s.log.Warn("a submodule's repository cannot be opened", "repo", name, "err", err)
		return nil, no
	}
	return r, ""
}

// ownRepository is the name in a URL that leads to a repository of this server: one
// relative to another of its repositories, or one with its own address.
func (s *Server) ownRepository(address string) (name string, ok bool) {
	rest, own := strings.CutPrefix(address, "../")
	for _, base := range []string{s.about.GitHTTP, s.about.HTTP} {
		if !own && base != "" {
			rest, own = strings.CutPrefix(address, base+"/")
		}
	}
	switch {
	case own:
		name = rest
	default:
		if host, path, short := strings.Cut(address, ":"); short && !strings.Contains(address, "://") { // git@host:name
			address = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
		}
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "ssh" {
			return "", false
		}
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "22")
		}
		if host != s.about.SSH {
			return "", false
		}
		name = strings.TrimPrefix(u.Path, "/")
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, "/"), ".git")
	return name, repo.CheckName(name) == nil
}
