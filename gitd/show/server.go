package show

import (
	"net"
	"strings"
	"time"
)

// ConsoleHost is the name of the console of a server that listens on loopback:
// cookies know no ports, and what is set for this name no service of the machine
// is sent. Browsers take it for this machine without asking anybody.
const ConsoleHost = "console.localhost"

// Server is what the server says of itself.
type Server struct {
	Name           string    `json:"name"`     // host name people know it by
	SSH            string    `json:"ssh"`      // host:port as a client reaches it
	HTTP           string    `json:"http"`     // base URL of the console, no slash at the end
	GitHTTP        string    `json:"git_http"` // base URL of git over HTTP, and of webhooks
	HostKey        string    `json:"host_key"` // SHA256:… fingerprint
	Signers        string    `json:"-"`        // allowed-signers file for git log --show-signature
	Version        string    `json:"version"`
	Workers        int       `json:"workers"` // for builds on the machine itself
	WorkersBusy    int       `json:"workers_busy"`
	Containers     int       `json:"container_workers,omitempty"` // for builds in containers; 0: there is no engine
	ContainersBusy int       `json:"container_workers_busy,omitempty"`
	Started        time.Time `json:"started"`
	// Key is the file of the private key that was made for its only user, who has none
	// of their own that ssh finds by itself. Empty: everybody knows their key.
	Key string `json:"-"`
}

// Command is a command of the server as it is typed, to be pasted.
func (s Server) Command(words string) string { return "ssh " + s.Login() + " " + words }

// Login is what stands behind "ssh" to reach the server: "-p 2222 host".
func (s Server) Login() string {
	login := ""
	if s.Key != "" {
		login = "-i " + s.Key + " "
	}
	host, port, err := net.SplitHostPort(s.SSH)
	switch {
	case err != nil:
		return login + s.SSH
	case port == "22":
		return login + host
	}
	return login + "-p " + port + " " + host
}

// Commands is a text that was recorded with "ssh host" in it, for people to paste.
func (s Server) Commands(text string) string {
	return strings.ReplaceAll(text, "ssh host ", "ssh "+s.Login()+" ")
}

// CloneURL is where repository name is cloned from over SSH.
func (s Server) CloneURL(name string) string { return "ssh://" + s.SSH + "/" + name }
