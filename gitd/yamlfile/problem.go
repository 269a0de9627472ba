package yamlfile

import (
	"errors"
	"strconv"
	"strings"
)

// Problem is one fault in a file, for the person who wrote the file.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 when the file as a whole is meant
	What string `json:"what"`           // what is wrong, lower case, no full stop
	Fix  string `json:"fix,omitempty"`  // one concrete thing to do; may be empty

	// Column is from 1; 0 where a format's lines say enough.
	Column int `json:"column,omitempty"`
}

// Place is "file:line", "file:line:column" where the column is told, or the file
// alone.
func (p Problem) Place() string {
	if p.Line == 0 {
		return p.File
	}
	place := p.File + ":" + strconv.Itoa(p.Line)
	if p.Column > 0 {
		place += ":" + strconv.Itoa(p.Column)
	}
	return place
}

func (p Problem) Error() string {
	s := p.Place() + ": " + p.What
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Problems is all that is wrong with some files. It is an error when it is not empty.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Err is ps as an error: nil when there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// ProblemsIn returns the Problems inside err, if it carries any.
func ProblemsIn(err error) (Problems, bool) {
	var ps Problems
	if errors.As(err, &ps) {
		return ps, true
	}
	var p Problem
	if errors.As(err, &p) {
		return Problems{p}, true
	}
	return nil, false
}
