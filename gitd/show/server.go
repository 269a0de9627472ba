package show

import (
	"time"
)

// Server is what the server says of itself.
type Server struct {
	Name        string    `json:"name"`     // host name people know it by
	SSH         string    `json:"ssh"`      // host:port as a client reaches it
	HTTP        string    `json:"http"`     // base URL of the console, no slash at the end
	HostKey     string    `json:"host_key"` // SHA256:… fingerprint
	Signers     string    `json:"-"`        // allowed-signers file for git log --show-signature
	Version     string    `json:"version"`
	Workers     int       `json:"workers"`
	WorkersBusy int       `json:"workers_busy"`
	Started     time.Time `json:"started"`
}

// CloneURL is where repository name is cloned from over SSH.
func (s Server) CloneURL(name string) string { return "ssh://" + s.SSH + "/" + name }
