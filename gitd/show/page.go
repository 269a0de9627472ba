package show

import "strings"

// Part says which part of a numbered list is wanted: what is before a number, or what
// follows one. The zero Part is the newest.
type Part struct {
	Before int
	After  int
}

// Beside says where a numbered list goes on: Older is the Before of the part before
// one, Newer the After of the part behind it; 0 where there is none.
type Beside struct {
	Older int `json:"older,omitempty"`
	Newer int `json:"newer,omitempty"`
}

// How long lists are.
const (
	Newest      = 50  // changes and releases a part
	MaxLooked   = 500 // of them, and of deployments, are looked at for those that a path or an author narrows them to
	Deployments = 100 // a part
)

// ChangePage is a part of a repository's changes, newest first.
type ChangePage struct {
	Changes []Change `json:"changes"`
	Total   int      `json:"total"` // of all changes
	Beside
}

// ReleasePage is a part of a repository's releases, newest first.
type ReleasePage struct {
	Releases []Release `json:"releases"`
	Total    int       `json:"total"` // of all releases
	Beside
}

// ReleaseFilter narrows Backend.Releases. The zero filter means the newest.
type ReleaseFilter struct {
	Part
	Author string // who pushed a revision of what landed, or whom its commit names
	Path   string // file or directory that the landing changed
	All    bool   // not a part
}

// DeploymentPage is a part of an environment's history, newest first.
type DeploymentPage struct {
	Deployments []Deployed `json:"deployments"`
	Total       int        `json:"total"`           // of all deployments
	Older       string     `json:"older,omitempty"` // the From of the part before
	Newer       string     `json:"newer,omitempty"` // the After of the part behind
}

// DeploymentFilter narrows Backend.Deployments. The zero filter means the newest.
type DeploymentFilter struct {
	From    string // a commit of the environment, with which the part begins
	After   string // another, and the part is what came after it, the nearest; From is nothing then
	Outcome State
	By      string // who approved, or rolled back; or policy
	Author  string // of a release that it brought, as in ReleaseFilter
	Path    string // file or directory in which it differs from what was declared before
}

// Narrows reports whether it leaves out any.
func (f DeploymentFilter) Narrows() bool { return f != DeploymentFilter{From: f.From, After: f.After} }

// Outcomes are what may have come of a deployment.
var Outcomes = []State{Healthy, Failed, Converging, Drift, Unknown}

// Words lists states for people.
func Words(states []State) string {
	var words []string
	for _, s := range states {
		words = append(words, string(s))
	}
	return strings.Join(words, ", ")
}
