// Package wire is what the hook program and the daemon say to each other over
// the unix socket: one Header from the hook, then frames both ways until the
// daemon sends Exit.
//
// A frame is a kind, a length of four bytes (big-endian), and that many bytes.
// Lengths are bounded and nothing is joined by separators, so no byte that a
// pusher chose can be taken for another field.
//
// The package imports the standard library only and little of that: the hook
// program starts three times in a push.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Variables of receive-pack's environment through which the hook finds the daemon.
const (
	SocketVariable = "HEADGATE_SOCKET"
	TokenVariable  = "HEADGATE_PUSH"
)

// The hooks of git that the hook program stands in for.
const (
	PreReceive           = "pre-receive"
	ProcReceive          = "proc-receive"
	ReferenceTransaction = "reference-transaction"
)

// Bounds of a push.
const (
	MaxOptions     = 32
	MaxOptionBytes = 1 << 10
)

// Kind says what a frame is.
type Kind byte

// Frames of the hook are Start, Input, End; frames of the daemon are Output,
// Message, Exit.
const (
	Start   Kind = 'S' // a Header as JSON; first, once
	Input   Kind = 'i' // bytes of the hook's standard input
	End     Kind = 'e' // the standard input has ended
	Output  Kind = 'o' // bytes for the hook's standard output
	Message Kind = 'm' // bytes for the hook's standard error, which git shows as "remote: "
	Exit    Kind = 'x' // one byte, the exit status; last
)

// MaxFrame bounds one frame's content.
const MaxFrame = 64 << 10

// Header is the first frame.
type Header struct {
	Hook  string `json:"hook"`
	Token string `json:"token"`

	// Of pre-receive, from git's environment: the folder with the objects of a
	// push that is not accepted yet, and what the pusher gave with -o.
	Quarantine string   `json:"quarantine,omitempty"`
	Options    []string `json:"options,omitempty"`
	// Too many or too long options are not sent; the daemon refuses the push.
	Overflow bool `json:"overflow,omitempty"`
}

// ErrTooLong is returned for a frame over MaxFrame.
var ErrTooLong = errors.New("the frame is too long")

// Write sends one frame in one write.
func Write(w io.Writer, kind Kind, content []byte) error {
	if len(content) > MaxFrame {
		return ErrTooLong
	}
	frame := make([]byte, 5+len(content))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(content)))
	copy(frame[5:], content)
	_, err := w.Write(frame)
	return err
}

// WriteAll sends content as as many frames as it takes.
func WriteAll(w io.Writer, kind Kind, content []byte) error {
	for len(content) > 0 {
		n := min(len(content), MaxFrame)
		if err := Write(w, kind, content[:n]); err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// Read takes one frame. At a clean end it returns io.EOF.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, ErrTooLong
	}
	content := make([]byte, n)
	if _, err := io.ReadFull(r, content); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return Kind(head[0]), content, nil
}

// WriteHeader sends the first frame.
func WriteHeader(w io.Writer, h Header) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return Write(w, Start, data)
}

// ReadHeader takes the first frame.
func ReadHeader(r io.Reader) (Header, error) {
	var h Header
	kind, data, err := Read(r)
	if err != nil {
		return h, err
	}
	if kind != Start {
		return h, fmt.Errorf("the first frame is %q", byte(kind))
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("read header: %w", err)
	}
	if len(h.Options) > MaxOptions {
		return h, fmt.Errorf("the header holds %d push options", len(h.Options))
	}
	return h, nil
}
