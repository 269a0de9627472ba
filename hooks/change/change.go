// Package change keeps the log of every change: a chain of signed event
// commits on refs/changes/<n>/log, with messages for people and trailers for
// machines. `git log --first-parent refs/changes/7/log` reads it.
//
//   - Store reads and writes the changes of one repository. Each event is one
//     commit and one move of one ref: that move is the event.
//   - Change is what a chain says: its revisions and its events.
//
// The first event of each revision has the pushed commit as second parent,
// which keeps it alive. refs/changes/<n>/head is derived from the log.
//
// Whether a change has landed is no event's to say: it has when its commit is
// an ancestor of its branch. The landed event is the note of it, and the gate
// repairs the note when it is missing. What happens to a change is decided by
// package gate.
package change

import (
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Kind is what an event tells.
type Kind string

const (
	Pushed    Kind = "pushed"    // a revision was accepted
	Tested    Kind = "tested"    // a candidate is green and about to land
	Waits     Kind = "waits"     // a policy waits for a person or a time
	Landed    Kind = "landed"    // the branch holds the revision
	Refused   Kind = "refused"   // it will not land
	Conflict  Kind = "conflict"  // it does not merge
	Withdrawn Kind = "withdrawn" // a person took it back
)

// ends reports whether an event of this kind is the last of its revision.
func (k Kind) ends() bool {
	return k == Landed || k == Refused || k == Conflict || k == Withdrawn
}

// Event is one commit of a change's log.
type Event struct {
	Commit   repo.Hash // of the log; set by reading
	Kind     Kind
	Of       int // the change that it was signed for; set by reading
	Revision int
	At       time.Time // to the second, UTC
	By       string    // the user it came from, empty for the server
	Subject  string    // the line for people
	Details  []string  // further lines for people
	Facts              // what it says to machines
}

// Revision is one accepted push of a change.
type Revision struct {
	Number   int // from 1
	Commit   repo.Hash
	By       string // the user whose key was proven
	Key      string // its fingerprint
	Via      string
	At       time.Time
	Options  []string  // push options, as they came
	Decision repo.Hash // the saved push decision, Zero if none
	Subject  string    // of the commit
	Author   string    // what the commit says, unproven
}

// Option returns the value of the push option called name ("priority" of
// "priority=high") and whether it was given. The last one counts.
func (r Revision) Option(name string) (value string, given bool) {
	for _, o := range r.Options {
		if n, v, _ := strings.Cut(o, "="); n == name {
			value, given = v, true
		}
	}
	return value, given
}

// Change is one change as its log tells it. It is not to be altered: the
// slices are shared.
type Change struct {
	Repository string
	Number     int
	Branch     string    // short name: main
	Tip        repo.Hash // of the log
	Revisions  []Revision
	Events     []Event // oldest first; the first is Pushed
}

// Head is the newest revision.
func (s Change) Head() Revision { return s.Revisions[len(s.Revisions)-1] }

// Last is the newest event of the newest revision: its Pushed event, if nothing
// has happened since.
func (s Change) Last() Event {
	for i := len(s.Events) - 1; i > 0; i-- {
		if s.Events[i].Revision == s.Head().Number {
			return s.Events[i]
		}
	}
	return s.Events[0]
}

// End is the event that ended the newest revision.
func (s Change) End() (Event, bool) {
	e := s.Last()
	return e, e.Kind.ends()
}

// Open reports whether the newest revision has not come to its end.
func (s Change) Open() bool { return !s.Last().Kind.ends() }

// Landing is the newest Landed event, of whichever revision.
func (s Change) Landing() (Event, bool) {
	for i := len(s.Events) - 1; i >= 0; i-- {
		if s.Events[i].Kind == Landed {
			return s.Events[i], true
		}
	}
	return Event{}, false
}

// State is the word that people read.
func (s Change) State() show.State {
	switch s.Last().Kind {
	case Landed:
		return show.Landed
	case Refused:
		return show.Refused
	case Conflict:
		return show.Conflict
	case Withdrawn:
		return show.Withdrawn
	case Waits:
		return show.Waits
	}
	return show.Queued
}

// event reads a commit of a log. The trailers that are of no Event are returned
// too: a push has some.
func event(commit repo.Hash, at time.Time, message string) (Event, []repo.Trailer) {
	e := Event{Commit: commit, At: at, Subject: repo.Subject(message)}
	paragraphs := strings.Split(strings.TrimSpace(message), "\n\n")
	if len(paragraphs) > 2 {
		e.Details = strings.Split(strings.Join(paragraphs[1:len(paragraphs)-1], "\n\n"), "\n")
	}
	trailers := repo.Trailers(message)
	for _, t := range trailers {
		switch t.Key {
		case "Event":
			e.Kind = Kind(t.Value)
		case "Change":
			e.Of, _ = strconv.Atoi(t.Value)
		case "Revision":
			e.Revision, _ = strconv.Atoi(t.Value)
		case "By":
			e.By = t.Value
		default:
			e.Facts.set(t)
		}
	}
	return e, trailers
}

// message is the commit's message of an event; more are the trailers of a push.
func (e Event) message(change int, more ...repo.Trailer) string {
	trailers := []repo.Trailer{
		{Key: "Event", Value: string(e.Kind)},
		{Key: "Change", Value: strconv.Itoa(change)},
		{Key: "Revision", Value: strconv.Itoa(e.Revision)},
		{Key: "By", Value: e.By},
	}
	trailers = append(append(trailers, more...), e.Facts.trailers()...)
	kept := trailers[:0]
	for _, t := range trailers {
		t.Value = terminal.Message(t.Value, 1000)
		if t.Value != "" {
			kept = append(kept, t)
		}
	}
	var body []string
	for _, line := range e.Details {
		if line = terminal.Message(line, 1000); line != "" && len(body) < 200 {
			body = append(body, line)
		}
	}
	return repo.Message(terminal.Message(e.Subject, 300), strings.Join(body, "\n"), kept...)
}
