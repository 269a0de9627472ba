package show

import (
	"strconv"
	"time"
)

// Build is one run of a buildspec, as a change or a verdict names it.
type Build struct {
	ID       string    `json:"build"`
	Tree     string    `json:"tree"`
	State    State     `json:"state"` // queued, running, green, failed
	Reason   string    `json:"reason,omitempty"`
	Log      string    `json:"log,omitempty"` // what Backend.Log takes
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Reused   bool      `json:"reused,omitempty"` // the verdict was there already
	Phase    string    `json:"phase,omitempty"`
	Command  string    `json:"command,omitempty"`
	Exit     int       `json:"exit,omitempty"`
	LogLine  int       `json:"log_line,omitempty"` // where the failure shows
}

// NoteAbout says of a line of Headgate's own what is to be known without reading
// it.
type NoteAbout string

const (
	NoteWarning NoteAbout = "warning" // somebody should act on it
	NoteCommand NoteAbout = "command" // it names the command whose step follows
)

// LogKind is what a LogEvent is.
type LogKind string

const (
	LogStep LogKind = "step" // a command begins
	LogOut  LogKind = "out"  // a line that a command printed
	LogPart LogKind = "part" // what there is of a line that a command has not ended for a while; later the same line comes whole
	LogEnd  LogKind = "end"  // a command has ended
	LogNote LogKind = "note" // a line of Headgate's own
	LogDone LogKind = "done" // the build has ended; the last event
)

// LogEvent is one entry of a build's log, in order.
type LogEvent struct {
	Kind    LogKind   `json:"kind"`
	Step    int       `json:"step,omitempty"` // from 1
	Line    int       `json:"line,omitempty"` // of the whole log, from 1; out and note only
	At      Duration  `json:"at_ms"`          // since the build started
	Phase   string    `json:"phase,omitempty"`
	Command string    `json:"command,omitempty"`
	About   NoteAbout `json:"about,omitempty"` // kind note
	Log     string    `json:"log,omitempty"`   // kind note: another log of the build, of a task of its batch
	Text    string    `json:"text,omitempty"`  // may hold SGR colour codes, no other controls
	Exit    int       `json:"exit,omitempty"`  // kind end
	Took    Duration  `json:"took_ms,omitempty"`
}

// Duration is a time.Duration that is milliseconds in JSON.
type Duration time.Duration

// MarshalJSON writes milliseconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, time.Duration(d).Milliseconds(), 10), nil
}
