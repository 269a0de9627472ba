package server

import "github.com/headgate-cd/headgate/gitd/access"

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
