package show

import (
	"encoding/json"
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

	// Its own page only.
	Branch     string      `json:"branch,omitempty"`
	Tree       string      `json:"tree,omitempty"`
	Before     int         `json:"before,omitempty"`     // the release before it, 0: it is the first
	Invalid    string      `json:"invalid,omitempty"`    // what of it the server's key does not prove; "" is all proven
	Provenance *Provenance `json:"provenance,omitempty"` // nil: it cannot be read
}

// Provenance is how a release was built, as its signed statement says.
type Provenance struct {
	Buildspec string          `json:"buildspec"`
	Image     string          `json:"image"` // host, or an image with its digest
	Network   bool            `json:"network,omitempty"`
	Key       string          `json:"key"`   // of the verdict
	Built     string          `json:"built"` // the commit that was built: another one with the same tree may have landed
	Builder   string          `json:"builder"`
	Log       string          `json:"log,omitempty"`
	Started   time.Time       `json:"started"`
	Finished  time.Time       `json:"finished"`
	Envelope  json.RawMessage `json:"envelope"` // DSSE around an in-toto statement
}

// Artifact is named by digest in the artifact store.
type Artifact struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size,omitempty"`
	Type   string `json:"type,omitempty"` // "" for files, or image
}
