package policies

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// result is what one policy evaluates to: the sets of its package. Members are objects
// with rule and msg (met does without msg); any field that is not known is an
// error, because a misspelt one would loosen the answer unnoticed.
type result struct {
	Deny []denyMember `json:"deny"`
	Need []needMember `json:"need"`
	Met  []metMember  `json:"met"`
	Warn []warnMember `json:"warn"`

	places places
}

// places are where the rules of a query's package are: the first of each set that
// gives a member with that name of a rule, and under "" the first of the set.
type places map[string]map[string]Place

func placesOf(modules []module) places {
	all := places{}
	for _, m := range modules {
		for _, rule := range m.parsed.Rules {
			set, name := rule.Head.Name.String(), ""
			if rule.Head.Key != nil {
				if object, ok := rule.Head.Key.Value.(ast.Object); ok {
					if text, ok := valueOf(object, "rule"); ok {
						name = text
					}
				}
			}
			if all[set] == nil {
				all[set] = map[string]Place{}
			}
			at := Place{m.path, rule.Location.Row}
			for _, n := range []string{name, ""} {
				if _, ok := all[set][n]; !ok {
					all[set][n] = at
				}
			}
		}
	}
	return all
}

// valueOf is the text of an object's member, when it is written out.
func valueOf(object ast.Object, name string) (string, bool) {
	term := object.Get(ast.StringTerm(name))
	if term == nil {
		return "", false
	}
	text, ok := term.Value.(ast.String)
	return string(text), ok
}

func (r result) place(set, rule string) Place {
	if at, ok := r.places[set][rule]; ok {
		return at
	}
	return r.places[set][""]
}

// resultSets are the sets of a result with the fields of their members.
var resultSets = []struct {
	name   string
	fields []string
}{
	{"deny", fieldsOf[denyMember]()},
	{"need", fieldsOf[needMember]()},
	{"met", fieldsOf[metMember]()},
	{"warn", fieldsOf[warnMember]()},
}

func fieldsOf[T any]() []string {
	var names []string
	for f := range jsonFields(reflect.TypeFor[T]()) {
		names = append(names, f.name)
	}
	return names
}

// denyMember is final, unless it says until when.
type denyMember struct {
	Rule  string    `json:"rule"`
	Msg   string    `json:"msg"`
	Title string    `json:"title"`
	Until time.Time `json:"until"`
}

// needMember waits: for persons when count or who is set, for a time when at is
// set, else for an event.
type needMember struct {
	Rule   string    `json:"rule"`
	Msg    string    `json:"msg"`
	Title  string    `json:"title"`
	Group  string    `json:"group"`
	Count  int       `json:"count"`
	Who    []string  `json:"who"`
	Cannot []string  `json:"cannot"`
	At     time.Time `json:"at"`
}

type metMember struct {
	Rule   string `json:"rule"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// warnMember is shown and stops nothing.
type warnMember struct {
	Rule string `json:"rule"`
	Msg  string `json:"msg"`
}

// parseResult takes apart what the package of a query evaluated to.
func parseResult(value any) (result, error) {
	sets, ok := value.(map[string]any)
	if !ok {
		return result{}, fmt.Errorf("the result is %T, not the sets of a package", value)
	}
	for name, set := range sets {
		if _, ok := set.([]any); !ok {
			return result{}, fmt.Errorf("%s is not a set of objects; write: %s contains {\"rule\": …, \"msg\": …} if …", name,
				name)
		}
	}
	data, err := json.Marshal(sets)
	if err != nil {
		return result{}, err
	}
	var r result
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return result{}, fmt.Errorf("invalid member of a set: %w", err)
	}
	for _, d := range r.Deny {
		if d.Rule == "" || d.Msg == "" {
			return result{}, errors.New("a member of deny has no rule or no msg")
		}
	}
	for _, n := range r.Need {
		if n.Rule == "" || n.Msg == "" || n.Count < 0 {
			return result{}, errors.New("a member of need has no rule or no msg, or a negative count")
		}
	}
	for _, m := range r.Met {
		if m.Rule == "" {
			return result{}, errors.New("a member of met has no rule")
		}
	}
	for _, m := range r.Warn {
		if m.Rule == "" || m.Msg == "" {
			return result{}, errors.New("a member of warn has no rule or no msg")
		}
	}
	return r, nil
}

// combine makes one answer of the results of several policies; the strictest wins.
func combine(results []result) Answer {
	a := Answer{Decision: Auto}
	var denied, open, met []Condition
	final := false // something is denied for good
	for _, r := range results {
		for _, d := range r.Deny {
			a.Decision = Deny
			final = final || d.Until.IsZero()
			if d.Until.After(a.NotBefore) {
				a.NotBefore = d.Until
			}
			a.Reasons = append(a.Reasons, Reason{d.Rule, d.Msg, r.place("deny", d.Rule)})
			title, detail := titled(d.Title, d.Msg)
			denied = append(denied, Condition{
				Rule:   d.Rule,
				Title:  title,
				Detail: detail,
				Denied: true,
				Until:  d.Until,
			})
		}
	}
	for _, r := range results {
		for _, n := range r.Need {
			if a.Decision == Auto {
				a.Decision = Manual
			}
			a.Reasons = append(a.Reasons, Reason{n.Rule, n.Msg, r.place("need", n.Rule)})
			slices.Sort(n.Who)
			slices.Sort(n.Cannot)
			if n.Count > 0 {
				a.Missing = append(a.Missing, Missing{n.Group, n.Count, n.Who, n.Cannot})
			}
			if n.At.After(a.NotBefore) {
				a.NotBefore = n.At
			}
			title, detail := titled(n.Title, n.Msg)
			open = append(open, Condition{
				Rule:        n.Rule,
				Title:       title,
				Detail:      detail,
				Until:       n.At,
				UntilPerson: n.Count > 0 || len(n.Who) > 0,
				Who:         n.Who,
			})
		}
		for _, m := range r.Met {
			met = append(met, Condition{Rule: m.Rule, Title: cmp.Or(m.Title, m.Rule), Met: true, Detail: m.Detail})
		}
		for _, m := range r.Warn {
			a.Warnings = append(a.Warnings, Reason{m.Rule, m.Msg, r.place("warn", m.Rule)})
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

// titled is how a condition is headed: by its title, with the message below it, or
// by the message alone.
func titled(title, msg string) (head, detail string) {
	if title == "" {
		return msg, ""
	}
	return title, msg
}
