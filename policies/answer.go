package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"time"
)

// word is what one policy said: the sets of its package. Members are objects
// with rule and msg (met does without msg); any field that is not known is an
// error, because a misspelt one would loosen the answer unnoticed.
type word struct {
	Deny []denyWord `json:"deny"`
	Need []needWord `json:"need"`
	Met  []metWord  `json:"met"`
	Warn []warnWord `json:"warn"`
}

// words are the sets with the fields of their members.
var words = []struct {
	name   string
	fields []string
}{
	{"deny", fieldsOf[denyWord]()}, {"need", fieldsOf[needWord]()}, {"met", fieldsOf[metWord]()}, {"warn", fieldsOf[warnWord]()},
}

func fieldsOf[T any]() []string {
	var names []string
	for f := range jsonFields(reflect.TypeFor[T]()) {
		names = append(names, f.name)
	}
	return names
}

// denyWord is final, unless it says until when.
type denyWord struct {
	Rule  string    `json:"rule"`
	Msg   string    `json:"msg"`
	Title string    `json:"title"`
	Until time.Time `json:"until"`
}

// needWord waits: for persons when count or who is set, for a time when at is
// set, else for an event.
type needWord struct {
	Rule   string    `json:"rule"`
	Msg    string    `json:"msg"`
	Title  string    `json:"title"`
	Group  string    `json:"group"`
	Count  int       `json:"count"`
	Who    []string  `json:"who"`
	Cannot []string  `json:"cannot"`
	At     time.Time `json:"at"`
}

type metWord struct {
	Rule   string `json:"rule"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// warnWord is said and stops nothing.
type warnWord struct {
	Rule string `json:"rule"`
	Msg  string `json:"msg"`
}

// read takes the sets of a question's package apart.
func read(value any) (word, error) {
	sets, ok := value.(map[string]any)
	if !ok {
		return word{}, fmt.Errorf("the answer is %T, not the sets of a package", value)
	}
	for name, set := range sets {
		if _, ok := set.([]any); !ok {
			return word{}, fmt.Errorf("%s is no set of objects; write: %s contains {\"rule\": …, \"msg\": …} if …", name, name)
		}
	}
	data, err := json.Marshal(sets)
	if err != nil {
		return word{}, err
	}
	var w word
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return word{}, fmt.Errorf("a member of a set is not as it must be: %w", err)
	}
	for _, d := range w.Deny {
		if d.Rule == "" || d.Msg == "" {
			return word{}, errors.New("a member of deny has no rule or no msg")
		}
	}
	for _, n := range w.Need {
		if n.Rule == "" || n.Msg == "" || n.Count < 0 {
			return word{}, errors.New("a member of need has no rule or no msg, or a negative count")
		}
	}
	for _, m := range w.Met {
		if m.Rule == "" {
			return word{}, errors.New("a member of met has no rule")
		}
	}
	for _, m := range w.Warn {
		if m.Rule == "" || m.Msg == "" {
			return word{}, errors.New("a member of warn has no rule or no msg")
		}
	}
	return w, nil
}

// weigh joins what several policies said; the strictest wins.
func weigh(words []word) Answer {
	a := Answer{Decision: Auto}
	var denied, open, met []Condition
	final := false // something is denied for good
	for _, w := range words {
		for _, d := range w.Deny {
			a.Decision = Deny
			final = final || d.Until.IsZero()
			if d.Until.After(a.NotBefore) {
				a.NotBefore = d.Until
			}
			a.Reasons = append(a.Reasons, Reason{d.Rule, d.Msg})
			denied = append(denied, Condition{Rule: d.Rule, Title: or(d.Title, d.Msg), Detail: unless(d.Title == "", d.Msg), Denied: true, Until: d.Until})
		}
	}
	for _, w := range words {
		for _, n := range w.Need {
			if a.Decision == Auto {
				a.Decision = Manual
			}
			a.Reasons = append(a.Reasons, Reason{n.Rule, n.Msg})
			slices.Sort(n.Who)
			slices.Sort(n.Cannot)
			if n.Count > 0 {
				a.Missing = append(a.Missing, Missing{n.Group, n.Count, n.Who, n.Cannot})
			}
			if n.At.After(a.NotBefore) {
				a.NotBefore = n.At
			}
			open = append(open, Condition{Rule: n.Rule, Title: or(n.Title, n.Msg), Detail: unless(n.Title == "", n.Msg), Until: n.At, UntilPerson: n.Count > 0 || len(n.Who) > 0, Who: n.Who})
		}
		for _, m := range w.Met {
			met = append(met, Condition{Rule: m.Rule, Title: or(m.Title, m.Rule), Met: true, Detail: m.Detail})
		}
		for _, m := range w.Warn {
			a.Warnings = append(a.Warnings, Reason{m.Rule, m.Msg})
		}
	}
	if final {
		a.NotBefore = time.Time{} // waiting does not help
	}
	sort.SliceStable(a.Reasons, func(i, j int) bool { return a.Reasons[i].Rule < a.Reasons[j].Rule })
	for _, checks := range [][]Condition{denied, open, met} {
		sort.SliceStable(checks, func(i, j int) bool { return checks[i].Rule < checks[j].Rule })
		a.Checks = append(a.Checks, checks...)
	}
	return a
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func unless(is bool, s string) string {
	if is {
		return ""
	}
	return s
}
