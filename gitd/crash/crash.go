// Package crash names the points at which the kill story ends the server.
//
// A point stands before and after every durable step. In normal runs it costs
// two comparisons with an empty string. When HEADGATE_CRASH_AT is "name" or
// "name:3", the process sends itself SIGKILL the first (third) time it passes
// that point, which is what a power cut or the kernel's OOM killer does: no
// deferred function runs, no buffer is flushed, no child is told.
//
// HEADGATE_CRASH_LOG names a file that each point is appended to when it is
// passed: from it the kill story learns what can be killed where.
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	at, nth = target(os.Getenv("HEADGATE_CRASH_AT"))
	passed  atomic.Int64
	log     = os.Getenv("HEADGATE_CRASH_LOG")
)

func target(s string) (name string, n int64) {
	name, count, counted := strings.Cut(s, ":")
	if !counted {
		return name, 1
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		return name, 1
	}
	return name, n
}

// Point passes the point called name, or ends the process there. Names are
// literal strings, "room.what-happened", each used once in the program: the
// kill story finds them by reading the source.
func Point(name string) {
	if log != "" {
		record(name)
	}
	if at == "" || name != at || passed.Add(1) != nth {
		return
	}
	// The signal ends the whole process before Kill returns, or very soon after.
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// record appends a point to the log. A story without its log fails by itself.
func record(name string) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(name + "\n")
}
