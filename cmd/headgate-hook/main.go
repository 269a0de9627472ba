// Command headgate-hook is what git runs as pre-receive, proc-receive and
// reference-transaction: a pipe between git and the daemon, with no authority.
// It decides nothing and writes nothing. Its name says which hook it is.
//
// When the daemon cannot be reached, the push fails and nothing has changed.
package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

func main() {
	// Whoever reads our output may be gone: that is an
	// error of a write, not our end. The process ends when git or the daemon
	// closes its side.
	signal.Ignore(syscall.SIGPIPE)
	messages := newDropWriter(os.Stderr)
	status := run(os.Args, os.Getenv, os.Stdin, os.Stdout, messages)
	messages.drain()
	os.Exit(status)
}

func run(args []string, getenv func(string) string, stdin io.Reader, stdout io.Writer, messages *dropWriter) int {
	switch hook := filepath.Base(args[0]); hook {
	case wire.ReferenceTransaction:
		return referenceTransaction(args[1:], stdin, messages)
	case wire.PreReceive, wire.ProcReceive:
		return relay(hook, getenv, stdin, stdout, messages)
	default:
		messages.printf(
			"error: %s is not a hook of headgate; it is run by git as pre-receive, proc-receive or reference-transaction", hook)
		return 2
	}
}

// referenceTransaction refuses every move of a ref. The daemon writes refs
// without hooks: whoever runs into this one is somebody else.
func referenceTransaction(args []string, stdin io.Reader, messages *dropWriter) int {
	if len(args) == 1 && (args[0] == "committed" || args[0] == "aborted") {
		return 0
	}
	// receive-pack asks about an empty transaction after an atomic push whose
	// refs the daemon has moved already.
	moves, err := bufio.NewReader(stdin).ReadString('\n')
	if moves == "" && errors.Is(err, io.EOF) {
		return 0
	}
	messages.printf("error: only headgate moves the refs of this repository; nothing was changed")
	messages.printf("hint: push to the server instead")
	return 1
}

// relay connects git's hook with the daemon and returns the exit status that
// the daemon sends.
func relay(hook string, getenv func(string) string, stdin io.Reader, stdout io.Writer, messages *dropWriter) int {
	header := wire.Header{Hook: hook, Token: getenv(wire.TokenVariable)}
	if hook == wire.PreReceive {
		header.Quarantine = getenv("GIT_QUARANTINE_PATH")
		header.Options, header.Overflow = options(getenv)
	}
	socket := getenv(wire.SocketVariable)
	if socket == "" || header.Token == "" {
		messages.printf("error: headgate is not running here; nothing was changed")
		return 1
	}
	conn, err := dial(socket)
	if err == nil {
		defer conn.Close()
		err = wire.WriteHeader(conn, header)
	}
	if err != nil {
		messages.printf("error: headgate is not running here; nothing was changed")
		messages.printf("hint: push again in a moment")
		return 1
	}
	go feed(conn, stdin) // ends with the process
	for {
		kind, content, err := wire.Read(conn)
		if err != nil {
			if hook == wire.PreReceive {
				messages.printf("error: headgate went away; nothing was changed")
			} else {
				messages.printf("error: headgate went away while it worked on this push")
			}
			messages.printf("hint: push again in a moment to see where it stands")
			return 1
		}
		switch kind {
		case wire.Output:
			if _, err := stdout.Write(content); err != nil {
				return 1 // git is gone; the daemon sees us go
			}
		case wire.Message:
			messages.Write(content)
		case wire.Exit:
			if len(content) != 1 {
				return 1
			}
			return int(content[0])
		}
	}
}

// dial connects to a unix socket whose path may be longer than the kernel's
// limit of 108 bytes.
func dial(socket string) (net.Conn, error) {
	if len(socket) >= 108 {
		// Nothing else in this short process depends on the directory it is in.
		if err := os.Chdir(filepath.Dir(socket)); err != nil {
			return nil, err
		}
		socket = filepath.Base(socket)
	}
	return net.Dial("unix", socket)
}

// feed carries what git says to the daemon. Errors need no answer here: when the
// daemon is gone, relay sees it.
func feed(conn net.Conn, stdin io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buf)
		if n > 0 {
			if wire.Write(conn, wire.Input, buf[:n]) != nil {
				return
			}
		}
		if err != nil {
			_ = wire.Write(conn, wire.End, nil)
			return
		}
	}
}

// options are what the pusher gave with -o, as git hands them to pre-receive.
func options(getenv func(string) string) (options []string, overflow bool) {
	count, err := strconv.Atoi(getenv("GIT_PUSH_OPTION_COUNT"))
	if err != nil || count < 0 {
		return nil, false
	}
	if count > wire.MaxOptions {
		return nil, true
	}
	for i := range count {
		o := getenv("GIT_PUSH_OPTION_" + strconv.Itoa(i))
		if len(o) > wire.MaxOptionBytes {
			return nil, true
		}
		options = append(options, strings.ToValidUTF8(o, "\uFFFD"))
	}
	return options, false
}
