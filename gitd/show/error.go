package show

import (
	"errors"
)

// Kind says what follows from an error: the exit code of a command and the
// status of a page.
type Kind string

const (
	NotFound  Kind = "not-found" // exit 1, status 404
	Forbidden Kind = "forbidden" // exit 1, status 403
	Denied    Kind = "refused"   // exit 1, status 409
	Usage     Kind = "usage"     // exit 2, status 400
	Waiting   Kind = "waits"     // exit 3, status 409
	Again     Kind = "try-again" // exit 75, status 503
)

// Error is an error for the person who asked: what happened, where, what to do.
type Error struct {
	Kind  Kind     `json:"kind"`
	What  string   `json:"error"`           // lower case, one line, no full stop
	Where []string `json:"where,omitempty"` // details, a line each; "file:line: …" where there is one
	Hint  string   `json:"hint,omitempty"`  // one thing to do
	// Command is what Hint means, for whoever has a shell: a command of the server, as
	// it stands behind "ssh host".
	Command string `json:"command,omitempty"`
}

// Advice is the hint, with its command as it is typed: login is what stands behind
// "ssh" to reach the server.
func (e *Error) Advice(login string) string {
	if e.Command == "" {
		return e.Hint
	}
	command := "ssh " + login + " " + e.Command
	if e.Hint == "" {
		return command
	}
	return e.Hint + ": " + command
}

func (e *Error) Error() string { return e.What }

// Exit is the exit code of a command that ends with err.
func Exit(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &e):
		return 1
	case e.Kind == Usage:
		return 2
	case e.Kind == Waiting:
		return 3
	case e.Kind == Again:
		return 75
	}
	return 1
}
