package services

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

var logged = target.Key{Repository: "hello", Environment: "staging", Application: "hello"}

// instanceLog is the log of an instance of a target that does not run.
func instanceLog(t *testing.T, owner *Target, instance string) *logfile.File {
	t.Helper()
	l, err := logfile.Open(owner.logPath(logged, instance))
	if err != nil {
		t.Fatal(err)
	}
	l.Wrote = func() { owner.printed.Notify(printedTopic(logged)) }
	t.Cleanup(l.Close)
	return l
}

func texts(t *testing.T, owner *Target, q target.LogQuery) (all []string) {
	t.Helper()
	for line, err := range owner.Logs(t.Context(), logged, q) {
		if err != nil {
			t.Fatal(err)
		}
		mark := "|"
		if line.Own {
			mark = "headgate:"
		}
		all = append(all, line.Instance+" "+mark+" "+line.Text)
	}
	return all
}

// TestLogs: the lines of all instances in the order of time, bounded, of one unit
// or since a moment; and nobody passes a line of theirs off as headgate's.
func TestLogs(t *testing.T) {
	t.Parallel()
	owner := New(t.TempDir(), t.TempDir(), nil)
	if got := texts(t, owner, target.LogQuery{Lines: 10}); len(got) > 0 {
		t.Errorf("before anything ran: %q", got)
	}
	web, worker := instanceLog(t, owner, "web-1"), instanceLog(t, owner, "worker-a-2")
	web.Note("started")
	fmt.Fprint(web, "one\n! headgate: exited\n\x1b[2Jtwo\nhalf")
	time.Sleep(2 * time.Millisecond) // times are of milliseconds
	after := time.Now()
	fmt.Fprint(worker, "three\n")
	for _, c := range []struct {
		q    target.LogQuery
		want []string
	}{
		{target.LogQuery{Lines: 10}, []string{"web-1 headgate: started", "web-1 | one", "web-1 | ! headgate: exited",
			"web-1 | two", "worker-a-2 | three"}},
		{target.LogQuery{Lines: 2}, []string{"web-1 | two", "worker-a-2 | three"}},
		{target.LogQuery{Lines: 10, Unit: "worker-a"}, []string{"worker-a-2 | three"}},
		{target.LogQuery{Lines: 10, Since: after.Truncate(time.Millisecond)}, []string{"worker-a-2 | three"}},
		{target.LogQuery{Lines: 10, Unit: "nobody"}, nil},
	} {
		if got := texts(t, owner, c.q); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.q, got, c.want)
		}
	}
	// What somebody else put there is not read as a line, and nothing outside is read.
	if err := os.WriteFile(owner.logPath(logged, "evil-1"), []byte("no time\n2026\n\xff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line := range owner.Logs(t.Context(), target.Key{Repository: "..", Environment: "..", Application: ".."},
		target.LogQuery{Lines: 1}) {
		t.Errorf("outside: %+v", line)
	}
	if got := texts(t, owner, target.LogQuery{Lines: 1}); !slices.Equal(got, []string{"worker-a-2 | three"}) {
		t.Errorf("%q", got)
	}
}

// TestLogsFollow: a follower misses no line while the log is replaced, sees an
// instance that comes later, and ends with its context.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	owner := New(t.TempDir(), t.TempDir(), nil)
	web := instanceLog(t, owner, "web-1")
	web.RateLines, web.RateBytes = math.MaxInt, math.MaxInt
	fmt.Fprint(web, "old\nfirst\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan target.LogLine)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for line, err := range owner.Logs(ctx, logged, target.LogQuery{Lines: 1, Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			got <- line
		}
	}()
	next := func() target.LogLine {
		t.Helper()
		select {
		case line := <-got:
			return line
		case <-time.After(time.Minute):
			t.Fatal("no line came")
		}
		return target.LogLine{}
	}
	if line := next(); line.Text != "first" {
		t.Fatalf("%+v", line)
	}
	const many = 3000 // of 400 bytes: one replacement
	pad := strings.Repeat("x", 400)
	for i := range many {
		fmt.Fprintf(web, "%d %s\n", i, pad)
		if line := next(); !strings.HasPrefix(line.Text, fmt.Sprint(i, " ")) {
			t.Fatalf("%.20q for %d", line.Text, i)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(owner.logPath(logged, "x")), "web-1.log.1")); err != nil {
		t.Error("the log was never replaced:", err)
	}
	fmt.Fprint(instanceLog(t, owner, "web-2"), "hello\n")
	if line := next(); line.Instance != "web-2" || line.Text != "hello" {
		t.Fatalf("%+v", line)
	}
	cancel()
	<-ended
}
