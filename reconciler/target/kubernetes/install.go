package kubernetes

import (
	_ "embed"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// Installation is what installs an agent in a cluster.
type Installation struct {
	Name        string   // of the agent, for people; "": it says
	Namespaces  []string // that applications have: what it may change
	Image       string   // of the agent
	Token       string   // that it enrols with
	Expires     time.Time
	Server      string // host:port of the server's SSH
	Loopback    bool   // only the server's own machine reaches that
	HostKey     string
	SigningKeys string
	Registry    string // host of the server's registry
}

// OwnNamespace is the agent's own, in which no application has anything.
const OwnNamespace = "headgate"

//go:embed install.yaml
var installation string

// Manifest is what kubectl applies: with no more rights than the agent needs.
func (i Installation) Manifest() (string, error) {
	// What is a string of YAML in quotes has no other meaning than Go gives it.
	t, err := template.New("install").Funcs(template.FuncMap{"quote": strconv.QuoteToASCII}).Parse(installation)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, i)
	return b.String(), err
}
