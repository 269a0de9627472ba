package receive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// Bounds of one push.
const (
	maxCommands = 4000
	maxRefName  = 256 // bytes
	maxPacket   = 65520
)

// command is one ref of a push: from old, as it was advertised, to new.
type command struct {
	ref      string
	old, new repo.Hash
}

func (c command) deletes() bool { return c.new == repo.Zero }

// parseCommand reads "<old> <new> <ref>".
func parseCommand(line string) (command, error) {
	fields := strings.SplitN(line, " ", 3)
	if len(fields) != 3 {
		return command{}, fmt.Errorf("git sent a command of %d words", len(fields))
	}
	old, ok1 := repo.ParseHash(fields[0])
	new, ok2 := repo.ParseHash(fields[1])
	if !ok1 || !ok2 {
		return command{}, errors.New("git sent a command whose object ids are not SHA-1")
	}
	if fields[2] == "" || strings.ContainsAny(fields[2], "\n\x00") {
		return command{}, errors.New("git sent a command without a proper ref name")
	}
	return command{ref: fields[2], old: old, new: new}, nil
}

var errTooMany = fmt.Errorf("a push may hold at most %d refs", maxCommands)

// parseCommands reads the lines that git gives to pre-receive.
func parseCommands(input []byte) ([]command, error) {
	var commands []command
	for line := range bytes.Lines(input) {
		if len(commands) == maxCommands {
			return nil, errTooMany
		}
		text, ended := strings.CutSuffix(string(line), "\n")
		if !ended {
			return nil, errors.New("git sent a command without an end")
		}
		c, err := parseCommand(text)
		if err != nil {
			return nil, err
		}
		commands = append(commands, c)
	}
	if len(commands) == 0 {
		return nil, errors.New("git sent no command")
	}
	return commands, nil
}

// Pkt-lines: four hexadecimal digits that count themselves and what follows;
// "0000" is a flush.

// readPacket takes one packet. flush reports a flush packet.
func readPacket(r io.Reader) (content []byte, flush bool, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, false, err
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 32)
	if err != nil || bytes.ContainsAny(head[:], "+-_") {
		return nil, false, fmt.Errorf("git sent %q as a packet's length", head)
	}
	switch {
	case n == 0:
		return nil, true, nil
	case n < 4 || n > maxPacket:
		return nil, false, fmt.Errorf("git sent a packet of length %d", n)
	}
	content = make([]byte, n-4)
	if _, err := io.ReadFull(r, content); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, false, err
	}
	return content, false, nil
}

func packet(b *bytes.Buffer, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > 1000 { // LARGE_PACKET_MAX is far away; a report line is one line on a terminal
		text = text[:1000]
	}
	fmt.Fprintf(b, "%04x%s", len(text)+4, text)
}

const flushPacket = "0000"

// request is what receive-pack asks of proc-receive.
type request struct {
	commands []command
	options  []string
	atomic   bool
}

// readRequest talks version 1 of the proc-receive protocol: it agrees on the
// version through answer, then reads commands and push options.
func readRequest(r io.Reader, answer func([]byte) error) (request, error) {
	var a request
	greeting, flush, err := readPacket(r)
	if err != nil {
		return a, err
	}
	version, rest, _ := strings.Cut(strings.TrimSuffix(string(greeting), "\n"), "\x00")
	if flush || version != "version=1" {
		return a, fmt.Errorf("git speaks proc-receive %q, not version=1", version)
	}
	var withOptions bool
	for _, feature := range strings.Fields(rest) {
		switch feature {
		case "atomic":
			a.atomic = true
		case "push-options":
			withOptions = true
		}
	}
	if _, flush, err = readPacket(r); err != nil {
		return a, err
	} else if !flush {
		return a, errors.New("git sent no flush after its version")
	}
	var reply bytes.Buffer
	if withOptions {
		packet(&reply, "version=1\x00push-options\n")
	} else {
		packet(&reply, "version=1\n")
	}
	reply.WriteString(flushPacket)
	if err := answer(reply.Bytes()); err != nil {
		return a, err
	}
	for {
		line, flush, err := readPacket(r)
		if err != nil {
			return a, err
		}
		if flush {
			break
		}
		if len(a.commands) == maxCommands {
			return a, errTooMany
		}
		c, err := parseCommand(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return a, err
		}
		a.commands = append(a.commands, c)
	}
	if !withOptions {
		return a, nil
	}
	for {
		line, flush, err := readPacket(r)
		if err != nil {
			return a, err
		}
		if flush {
			return a, nil
		}
		if len(a.options) == wire.MaxOptions || len(line) > wire.MaxOptionBytes+1 {
			return a, errOptions
		}
		a.options = append(a.options, strings.ToValidUTF8(strings.TrimSuffix(string(line), "\n"), "\uFFFD"))
	}
}

var errOptions = fmt.Errorf("a push may hold at most %d push options of %d bytes", wire.MaxOptions, wire.MaxOptionBytes)

// result is the outcome of one command.
type result struct {
	ref    string
	reason string // not empty: refused, and why, in one line

	// What is reported instead of the command, when as is not empty.
	as       string
	old, new repo.Hash
}

func accepted(ref string) result { return result{ref: ref} }

func refused(ref, reason string) result {
	if reason == "" {
		reason = "refused"
	}
	return result{ref: ref, reason: reason}
}

// report is what receive-pack reads last. "ok" is written only when what it
// says has happened and is durable. shown makes a reason fit for the pusher.
func report(results []result, shown func(string) string) []byte {
	var b bytes.Buffer
	for _, r := range results {
		if r.reason != "" {
			packet(&b, "ng %s %s", r.ref, shown(r.reason))
			continue
		}
		packet(&b, "ok %s", r.ref)
		if r.as != "" {
			packet(&b, "option refname %s", r.as)
			packet(&b, "option old-oid %s", r.old)
			packet(&b, "option new-oid %s", r.new)
		}
	}
	b.WriteString(flushPacket)
	return b.Bytes()
}
