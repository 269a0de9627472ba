package server

import (
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
)

// Actor is a user with the rights of now; the zero Actor if there is none.
func (s *Server) Actor(name, via string) show.Actor {
	c := s.access.Load()
	if _, ok := c.User(name); !ok {
		return show.Actor{}
	}
	return show.Actor{Name: name, Groups: c.Groups(name), Admin: c.IsAdmin(name), Via: via}
}

// policyUser is what policies are told of a user.
func (s *Server) policyUser(repository, name string) policies.User {
	c := s.access.Load()
	return policies.User{Name: name, Groups: c.Groups(name), Admin: c.IsAdmin(name), MayRead: c.MayRead(name, repository), MayWrite: c.MayWrite(name, repository)}
}

// Admits reports whether an SSH public key is a user's.
func (s *Server) Admits(key string) bool {
	k, err := access.ParseKey(key)
	if err != nil {
		return false
	}
	_, known := s.access.Load().UserByKey(k.Fingerprint)
	return known
}
