package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Outcome is the note on an environment commit: what happened to it. It changes
// when the state does, not with every report. The zero Outcome is that of a
// commit that nothing was reported about yet.
type Outcome struct {
	State        target.State `json:"state,omitempty"`
	Since        time.Time    `json:"since,omitzero"`         // of State
	HealthySince time.Time    `json:"healthy_since,omitzero"` // while State is healthy: no interruption is known since
	FailedAt     time.Time    `json:"failed_at,omitzero"`     // last time it failed, if ever
	Lost         int          `json:"lost,omitempty"`         // times that it was not healthy any more, without a calm in between
	Message      string       `json:"message,omitempty"`
	Services     []Served     `json:"services,omitempty"`
	Covers       []Covered    `json:"covers,omitempty"` // newer releases with the same content

	Paused    *Pause   `json:"paused,omitempty"`    // by a person: its deployment goes no further
	Continued []string `json:"continued,omitempty"` // what waited for a person, and was let go on

	Stopped *Pause         `json:"stopped,omitempty"` // by a person, for good
	Skipped []string       `json:"skipped,omitempty"` // hosts that people leave out
	Retried map[string]int `json:"retried,omitempty"` // how often people have had it tried again, by host; "": in all
	Attempt int            `json:"attempt,omitempty"` // of those that State is about
}

// Pause is who paused a deployment, or stopped it, and why.
type Pause struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Steer is what people have said to the deployment of the commit.
func (o Outcome) Steer() target.Steer {
	s := target.Steer{
		Paused:    o.Paused != nil,
		Continued: o.Continued,
		Skipped:   o.Skipped,
		Retried:   o.Retried,
	}
	if o.Stopped != nil {
		s.Stopped = strings.TrimSuffix("stopped by "+o.Stopped.By+": "+o.Stopped.Reason, ": ")
	}
	return s
}

// Steered is the outcome with what people have said to another one's deployment.
func (o Outcome) Steered(as Outcome) Outcome {
	o.Paused, o.Continued = as.Paused, as.Continued
	o.Stopped, o.Skipped, o.Retried = as.Stopped, as.Skipped, as.Retried
	return o
}

// GaveUp is why the deployment was given up, unless somebody has had it tried again since.
func (o Outcome) GaveUp() string {
	if o.State != target.Failed || o.Attempt < o.Retried[""] {
		return ""
	}
	return o.Message
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

// Report is what a target reports about a commit.
type Report struct {
	Commit  string // of the environment
	State   target.State
	Since   time.Time
	Message string
	Attempt int // of Steer.Retried
	Serving []Served

	RollBack bool // what is Failed is so for good, and its deployment wants it to be rolled back
}

// maxMessage bounds the message of a report that is kept, in bytes.
const maxMessage = 1000

// Next is the outcome of a commit after a report, and whether it is news. Silence
// is never news, neither is being on the way, and neither is a target that, after
// a restart of the server, brings up again what was healthy: only its result is.
//
// What is healthy and dies, again and again, is not noted as often: that it is
// healthy is news once it has lasted, the longer the more often it did not before.
// Until then again is when to ask once more, and the note goes on saying that it
// is not.
func (o Outcome) Next(commit repo.Hash, report Report, now time.Time) (next Outcome, news bool, again time.Time) {
	since := report.Since.UTC().Truncate(time.Second)
	if report.Commit != commit.String() {
		return o, false, again
	}

	n := o
	switch report.State {
	case target.Healthy:
		if o.State == target.Healthy && !since.After(o.HealthySince) {
			return o, false, again
		}
		if o.State != target.Healthy {
			if settled := since.Add(o.settling()); now.Before(settled) {
				return o, false, settled
			}
		}
		n.HealthySince = since
	case target.Degraded:
		if o.State == target.Degraded || !o.Ran() {
			return o, false, again // what never ran is on its way, and has not drifted
		}
		n.lose(since)
	case target.Failed:
		if o.State == target.Failed && report.Attempt <= o.Attempt {
			return o, false, again
		}
		n.lose(since)
		n.FailedAt = since
	default:
		return o, false, again
	}
	n.State, n.Since, n.Message, n.Services = report.State, since, terminal.Message(report.Message,
		maxMessage), report.Serving
	n.Attempt = report.Attempt
	return n, true, again
}

// Ran reports whether it was ever healthy.
func (o Outcome) Ran() bool { return o.State == target.Healthy || o.Lost > 0 }

// calm is how long it must have been healthy for what was before to be forgotten.
const calm = time.Hour

// lose notes that it is not healthy any more.
func (o *Outcome) lose(at time.Time) {
	if o.State == target.Healthy {
		if at.Sub(o.HealthySince) >= calm {
			o.Lost = 0
		}
		o.Lost++
	}
	o.HealthySince = time.Time{}
}

// settling is how long it must be healthy for that to be noted: at once, the first
// two times that it comes back, then half a minute, twice that, up to ten minutes.
func (o Outcome) settling() time.Duration {
	const free, first, most = 2, 30 * time.Second, 10 * time.Minute
	if o.Lost <= free {
		return 0
	}
	return min(first<<min(o.Lost-free-1, 10), most)
}

// Good reports whether the commit was healthy to the end, which is until it was
// superseded, or until now.
func (o Outcome) Good() bool { return o.FailedAt.IsZero() && o.State == target.Healthy }

// Newest is the newest release that the commit stands for, at least release, and
// the landed commit of it where that is not the one of release.
func (o Outcome) Newest(release int, source repo.Hash) (int, repo.Hash) {
	for _, c := range o.Covers {
		if h, ok := repo.ParseHash(c.Commit); ok && c.Release > release {
			release, source = c.Release, h
		}
	}
	return release, source
}

// maxCovers bounds the list of covered releases in a note; the newest matter.
const maxCovers = 200

// WithCover is the outcome of a commit that also stands for a newer release.
func (o Outcome) WithCover(c Covered) Outcome {
	if slices.Contains(o.Covers, c) {
		return o
	}
	o.Covers = append(slices.Clone(o.Covers), c)
	if n := len(o.Covers); n > maxCovers {
		o.Covers = o.Covers[n-maxCovers:]
	}
	return o
}

// Encode writes the note.
func (o Outcome) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode outcome: %w", err)
	}
	return append(data, '\n'), nil
}

// ParseOutcome reads a note. One that cannot be read says nothing, and nothing
// is never healthy.
func ParseOutcome(data []byte) Outcome {
	var o Outcome
	if err := json.Unmarshal(data, &o); err != nil {
		return Outcome{}
	}
	return o
}

// OutcomeOf reads the note on an environment commit.
func OutcomeOf(r *repo.Repository, commit repo.Hash) (Outcome, error) {
	data, err := r.Note(Outcomes, commit)
	if err != nil || data == nil {
		return Outcome{}, err
	}
	return ParseOutcome(data), nil
}
