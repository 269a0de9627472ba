package reconciler

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// NotesRef holds a note on each environment commit: what became of it.
const NotesRef = "refs/notes/deployments"

// Outcome is the note on an environment commit. It changes when the state does,
// not with every report. The zero Outcome is that of a commit of which nothing
// has been heard yet.
type Outcome struct {
	State        target.State `json:"state,omitempty"`
	Since        time.Time    `json:"since,omitzero"`         // of State
	HealthySince time.Time    `json:"healthy_since,omitzero"` // while State is healthy: no interruption is known since
	FailedAt     time.Time    `json:"failed_at,omitzero"`     // last time it failed, if ever
	Message      string       `json:"message,omitempty"`
	Services     []Served     `json:"services,omitempty"`
	Covers       []Covered    `json:"covers,omitempty"` // newer releases with the same content
}

// Served is one service when the state was reached.
type Served struct {
	Name      string `json:"name"`
	Release   int    `json:"release,omitempty"`
	URL       string `json:"url,omitempty"`
	Instances int    `json:"instances"`
}

// Covered is a release that needed no commit: its content was declared already.
type Covered struct {
	Release int    `json:"release"`
	Commit  string `json:"commit"`
}

// next is the outcome after a report, and whether it is news. Silence is never
// news, and neither is a target that, after a restart of the server, brings up
// again what was healthy: only its result is.
func (o Outcome) next(commit repo.Hash, seen Observed) (Outcome, bool) {
	since := seen.Since.UTC().Truncate(time.Second)
	if seen.Commit != commit.String() {
		return o, false
	}
	n := o
	switch seen.State {
	case target.Converging:
		if o.State == target.Converging || o.State == target.Healthy {
			return o, false
		}
		n.HealthySince = time.Time{}
	case target.Healthy:
		if o.State == target.Healthy && !since.After(o.HealthySince) {
			return o, false
		}
		n.HealthySince = since
	case target.Degraded:
		if o.State == target.Degraded {
			return o, false
		}
		n.HealthySince = time.Time{}
	case target.Failed:
		if o.State == target.Failed {
			return o, false
		}
		n.HealthySince, n.FailedAt = time.Time{}, since
	default:
		return o, false
	}
	n.State, n.Since, n.Message, n.Services = seen.State, since, terminal.Message(seen.Message, 1000), seen.Serving
	return n, true
}

// good reports whether the commit was healthy to the end, which is until it was
// superseded, or until now; whyNot is for people.
func (o Outcome) good() (ok bool, whyNot string) {
	switch {
	case !o.FailedAt.IsZero():
		return false, "it failed at " + clock(o.FailedAt)
	case o.State == target.Healthy:
		return true, ""
	case o.State == target.Unknown:
		return false, "nothing is known of how it went"
	case o.State == target.Converging:
		return false, "it was never seen healthy"
	}
	return false, fmt.Sprintf("it was %s at the end", o.State)
}

// covers is the newest release that the commit stands for.
func (o Outcome) covers(release int) int {
	for _, c := range o.Covers {
		release = max(release, c.Release)
	}
	return release
}

func (o Outcome) encode() ([]byte, error) {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode outcome: %w", err)
	}
	return append(data, '\n'), nil
}

// maxCovers bounds the list of covered releases in a note; the newest matter.
const maxCovers = 200

func (o Outcome) withCover(c Covered) Outcome {
	if slices.Contains(o.Covers, c) {
		return o
	}
	o.Covers = append(slices.Clone(o.Covers), c)
	if n := len(o.Covers); n > maxCovers {
		o.Covers = o.Covers[n-maxCovers:]
	}
	return o
}

// outcomeOf reads the note on an environment commit.
func outcomeOf(r *repo.Repository, commit repo.Hash) (Outcome, error) {
	data, err := r.Note(NotesRef, commit)
	if err != nil || data == nil {
		return Outcome{}, err
	}
	return parseOutcome(data), nil
}

// parseOutcome reads a note. One that cannot be read says nothing, and nothing
// is never healthy.
func parseOutcome(data []byte) Outcome {
	var o Outcome
	if err := json.Unmarshal(data, &o); err != nil {
		return Outcome{}
	}
	return o
}

// clock writes a time for people.
func clock(t time.Time) string { return t.UTC().Format("Mon 2 Jan 15:04 UTC") }
