package buildlog

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Kind is what an Event is.
type Kind string

const (
	Step Kind = "step" // a command begins
	Out  Kind = "out"  // a line that a command printed
	Part Kind = "part" // what there is of a line that is not ended for a while; for those who follow, not in the log
	End  Kind = "end"  // a command has ended
	Note Kind = "note" // a line of Headgate's own
	Done Kind = "done" // the build has ended; the last event
)

// About says of a Note what is to be known without reading it. Most say nothing
// of the kind.
type About string

const (
	Warning About = "warning" // somebody should act on it
	Command About = "command" // it names the command whose Step follows
)

// Event is one entry of a log.
type Event struct {
	Kind    Kind   `json:"k"`
	At      int64  `json:"t"`           // milliseconds since the log began
	Step    int    `json:"n,omitempty"` // from 1; 0 outside of steps
	Phase   string `json:"phase,omitempty"`
	Command string `json:"cmd,omitempty"`
	About   About  `json:"about,omitempty"`
	Log     string `json:"log,omitempty"` // digest of another log, of a task of a batch, that a Note is about
	Text    string `json:"s,omitempty"`   // may hold SGR colour codes and tabs, no other controls
	Exit    int    `json:"exit,omitempty"`
	Took    int64  `json:"ms,omitempty"` // milliseconds that the step took
	Line    int    `json:"-"`            // of Out and Note, counted from 1 by the reader
}

// outBegins is how the line of an Out begins, of which a log may have a million.
const outBegins = `{"k":"out","t":`

// encode appends the line of an event, as encoding/json writes it. A line that a command
// printed and that needs no escapes is written without its help, which takes a tenth of the
// time.
func encode(to []byte, e Event) ([]byte, error) {
	if out := (Event{Kind: Out, At: e.At, Step: e.Step, Text: e.Text}); e == out && e.Step > 0 && e.Text != "" && plain(e.Text) {
		to = strconv.AppendInt(append(to, outBegins...), e.At, 10)
		to = strconv.AppendInt(append(to, `,"n":`...), int64(e.Step), 10)
		return append(append(append(to, `,"s":"`...), e.Text...), "\"}\n"...), nil
	}
	data, err := json.Marshal(e)
	if err != nil {
		return to, err
	}
	return append(append(to, data...), '\n'), nil
}

// decode is the event of a line.
func decode(line []byte) (e Event, err error) {
	if rest, ok := bytes.CutPrefix(line, []byte(outBegins)); ok {
		at, rest, ok := number(rest)
		if rest, ok2 := bytes.CutPrefix(rest, []byte(`,"n":`)); ok && ok2 {
			step, rest, ok := number(rest)
			if rest, ok2 := bytes.CutPrefix(rest, []byte(`,"s":"`)); ok && ok2 {
				if text, ok := bytes.CutSuffix(rest, []byte("\"}\n")); ok && plain(text) {
					return Event{Kind: Out, At: at, Step: int(step), Text: string(text)}, nil
				}
			}
		}
	}
	return e, json.Unmarshal(line, &e)
}

// number cuts a whole number, without sign, from the beginning of a text.
func number(text []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for i < len(text) && i < 18 && '0' <= text[i] && text[i] <= '9' {
		n = n*10 + int64(text[i]-'0')
		i++
	}
	return n, text[i:], i == 1 || i > 1 && text[0] != '0'
}

// plain says whether a text stands in JSON as it is: ASCII without quotes, backslashes and
// controls, and without what encoding/json escapes for the sake of HTML.
func plain[T string | []byte](text T) bool {
	for i := range len(text) {
		if !unescaped[text[i]] {
			return false
		}
	}
	return true
}

// unescaped has the bytes that plain is about.
var unescaped = func() (is [256]bool) {
	for c := byte(' '); c < 0x7f; c++ {
		is[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return is
}()
