package server

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Appointed says, at the first start, who became administrator, and by which keys:
// a line each; at every other start nothing.
func (s *Server) Appointed() (lines []string) {
	if !s.first {
		return nil
	}
	config := s.access.Load()
	for _, name := range config.Members(access.Administrators) {
		lines = append(lines, name+" is the administrator now, and is known by:")
		user, _ := config.User(name)
		for _, k := range user.Keys {
			lines = append(lines, strings.TrimRight("  "+k.Fingerprint+" "+k.Comment, " "))
		}
	}
	return lines
}

// Operator is the user who holds an SSH public key that the operator of the
// server has named; false if it is nobody's.
func (s *Server) Operator(key string) (access.Identity, bool) { return operator(s.access.Load(), key) }

func operator(config *access.Config, key string) (access.Identity, bool) {
	k, err := access.ParseKey(key)
	if err != nil {
		return access.Identity{}, false
	}
	return config.ByKey(k.Fingerprint, access.ViaStart)
}
