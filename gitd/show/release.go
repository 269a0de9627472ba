package show

import (
	"time"
)

// Release is a landed commit with its artifacts.
type Release struct {
	Repository string     `json:"repository"`
	Number     int        `json:"release"`
	Commit     string     `json:"commit"`
	Subject    string     `json:"subject"`
	Change     int        `json:"change,omitempty"`
	By         string     `json:"by,omitempty"`
	At         time.Time  `json:"at"`
	Artifacts  []Artifact `json:"artifacts"`
	SBOM       *Artifact  `json:"sbom,omitempty"` // at its own address /sbom.json; nil: there is none
	RunsIn     []string   `json:"runs_in,omitempty"`
}

// Artifact is named by digest in the artifact store.
type Artifact struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size,omitempty"`
	Type   string `json:"type,omitempty"` // "" for files, or image
}
