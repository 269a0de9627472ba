// Package tty names what a command is connected to that somebody runs somewhere else:
// its streams, and a terminal that changes its size.
package tty

import "io"

// Streams are those of a command.
type Streams struct {
	In       io.Reader // nil: nothing
	Out, Err io.Writer // with a terminal all of it goes to Out
	Terminal *Terminal // nil: none
}

// Terminal is one that a command is given.
type Terminal struct {
	Name   string // as in TERM
	Size   Size
	Resize <-chan Size // nil: it stays
}

// Size is that of a terminal, in characters.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}
