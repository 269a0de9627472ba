// Package verdict keeps what builds said about trees: notes on tree objects at
// refs/notes/verdicts, one JSON line per verdict.
//
//   - Key names a build by content: equal keys mean equal builds, so a verdict
//     holds for every commit and change with that tree.
//   - Verdict is one answer, green or red, with what is needed to believe it.
//
// A green verdict is final: nothing overwrites it. A red one may be followed by
// a green one, when somebody asked for another build. A build that was stopped
// or could not run leaves no verdict at all.
package verdict

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// Ref is where the notes are.
const Ref = "refs/notes/verdicts"

// Result is green or red.
type Result string

const (
	Green Result = "green"
	Red   Result = "red"
)

// Inputs is everything that a build's answer may depend on.
type Inputs struct {
	Tree      repo.Hash
	Buildspec string    // path, or "builtin:…"
	Blob      repo.Hash // of the buildspec in Tree; Zero for a built-in one
	Image     string
	Variables map[string]string // without those that name the run itself
	Network   bool
	Server    string // digest of what the server's own settings add; "" for nothing
	Services  []Service
}

// Service is a container beside that of a build.
type Service struct {
	Name     string `json:"name"`
	Image    string `json:"image"`
	Settings string `json:"settings"` // digest of what else it is made of
}

// Key is the digest of inputs, "sha256:…".
func (in Inputs) Key() string {
	h := sha256.New()
	field := func(s string) { fmt.Fprintf(h, "%d:%s,", len(s), s) } // no two lists of fields read the same
	field("headgate build 1")
	field(in.Tree.String())
	field(in.Buildspec)
	field(in.Blob.String())
	field(in.Image)
	field(in.VariablesDigest())
	field(fmt.Sprint(in.Network))
	if in.Server != "" {
		field(in.Server)
	}
	if len(in.Services) > 0 {
		field("services")
		for _, s := range in.Services {
			field(s.Name)
			field(s.Image)
			field(s.Settings)
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// VariablesDigest is the digest of the variables, empty when there are none.
func (in Inputs) VariablesDigest() string {
	if len(in.Variables) == 0 {
		return ""
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(in.Variables)) {
		fmt.Fprintf(h, "%d:%s,%d:%s,", len(name), name, len(in.Variables[name]), in.Variables[name])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Artifact is something the build made, in the artifact store.
type Artifact struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size,omitempty"` // bytes
	Type   string `json:"type,omitempty"` // as package artifact has it: "" for files
}

// Verdict is one line of a note.
type Verdict struct {
	Result    Result     `json:"result"`
	Key       string     `json:"key"`
	Buildspec string     `json:"buildspec"`
	Blob      string     `json:"buildspec_blob,omitempty"`
	Image     string     `json:"image"`
	Variables string     `json:"variables,omitempty"` // their digest
	Network   bool       `json:"network,omitempty"`
	Server    string     `json:"server,omitempty"`     // digest of what the server's settings added
	Services  []Service  `json:"services,omitempty"`   // beside the build
	Log       string     `json:"log,omitempty"`        // id, for whoever keeps the logs
	LogDigest string     `json:"log_digest,omitempty"` // sha256:… of the closed log
	Artifacts []Artifact `json:"artifacts,omitempty"`
	SBOM      *Artifact  `json:"sbom,omitempty"`   // the bill of materials, a blob in the artifact store; nil: none
	Reason    string     `json:"reason,omitempty"` // red: one line
	Phase     string     `json:"phase,omitempty"`
	Command   string     `json:"command,omitempty"`
	Exit      int        `json:"exit,omitempty"`
	LogLine   int        `json:"log_line,omitempty"` // from 1
	Flaky     []string   `json:"flaky,omitempty"`    // red: the tests that failed, where all of them are known to be flaky
	Started   time.Time  `json:"started"`
	Finished  time.Time  `json:"finished"`
	Change    int        `json:"change"` // for which it was built; 0: for a tip that came from a forge
	Revision  int        `json:"revision"`
	Candidate string     `json:"candidate"` // commit
}

// LogName is the name under which the log is found: the digest of the closed
// log, which outlives the server, or its id.
func (v Verdict) LogName() string {
	if v.LogDigest != "" {
		return v.LogDigest
	}
	return v.Log
}

// maxRed bounds how many red verdicts one note keeps; greens are all kept.
const maxRed = 20

// Note adds v to the verdicts on a tree, durably. Adding one that is there
// already, or any for a key that is green already, changes nothing.
func Note(ctx context.Context, r *repo.Repository, tree repo.Hash, v Verdict) error {
	if v.Key == "" || v.Result != Green && v.Result != Red {
		return fmt.Errorf("note verdict on %s of %s: result %q, key %q", tree, r.Name(), v.Result, v.Key)
	}
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("note verdict on %s of %s: %w", tree, r.Name(), err)
	}
	crash.Point("verdict.known")
	subject := fmt.Sprintf("%s: tree %s", v.Result, tree.String()[:7])
	if v.Change > 0 {
		subject += fmt.Sprintf(", change %d", v.Change)
	}
	err = r.EditNote(ctx, Ref, tree, v.Finished, subject, func(old []byte) ([]byte, error) {
		vs, err := parse(old)
		if err != nil {
			return nil, err
		}
		if g := vs.Of(v.Key); g != nil && g.Result == Green {
			return old, nil
		}
		reds := 0
		for _, o := range vs {
			if o.Result == Red {
				reds++
			}
			if same, err := json.Marshal(o); err == nil && bytes.Equal(same, line) {
				return old, nil
			}
		}
		var b bytes.Buffer
		for raw := range bytes.Lines(old) {
			var o Verdict
			if json.Unmarshal(raw, &o) == nil && o.Result == Red && reds >= maxRed {
				reds--
				continue
			}
			b.Write(raw)
		}
		b.Write(line)
		b.WriteByte('\n')
		return b.Bytes(), nil
	})
	if err != nil {
		return fmt.Errorf("note verdict on %s of %s: %w", tree, r.Name(), err)
	}
	crash.Point("verdict.noted")
	return nil
}

// List is the verdicts on one tree, in the order they were noted.
type List []Verdict

// On reads the verdicts on a tree.
func On(r *repo.Repository, tree repo.Hash) (List, error) {
	content, err := r.Note(Ref, tree)
	if err != nil {
		return nil, fmt.Errorf("read verdicts on %s of %s: %w", tree, r.Name(), err)
	}
	vs, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("read verdicts on %s of %s: %w", tree, r.Name(), err)
	}
	return vs, nil
}

func parse(content []byte) (List, error) {
	var vs List
	for line := range bytes.Lines(content) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var v Verdict
		if err := json.Unmarshal(line, &v); err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// Of is the verdict that counts for a key: the green one, else the newest red
// one, else nil.
func (vs List) Of(key string) *Verdict {
	var found *Verdict
	for i := range vs {
		if vs[i].Key != key {
			continue
		}
		if vs[i].Result == Green {
			return &vs[i]
		}
		found = &vs[i]
	}
	return found
}

// RedFor is the newest red verdict for a key that was built for one revision of
// one change, nil if there is none.
func (vs List) RedFor(key string, change, revision int) *Verdict {
	for i := len(vs) - 1; i >= 0; i-- {
		if v := &vs[i]; v.Key == key && v.Result == Red && v.Change == change && v.Revision == revision {
			return v
		}
	}
	return nil
}
