package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env", "web-1.log")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(l, "first\nsec")
	fmt.Fprint(l, "ond \x1b[31mred\x1b[0m\a\n", "\xff\n\n", strings.Repeat("x", 2*maxLogLine), "\nno end")
	if got := l.LastLine(); got != "no end" {
		t.Errorf("%q", got)
	}
	l.Close()
	lines, err := Tail(path, 10)
	if err != nil || len(lines) != 6 {
		t.Fatalf("%d %v", len(lines), err)
	}
	for i, want := range []string{"first", "second red", "\uFFFD", "", strings.Repeat("x", maxLogLine), "no end"} {
		if _, got, _ := strings.Cut(lines[i], " "); got != want {
			t.Errorf("%d: %.50q, want %.50q", i, got, want)
		}
	}
	if lines, _ := Tail(path, 1); len(lines) != 1 || !strings.HasSuffix(lines[0], "no end") {
		t.Errorf("%q", lines)
	}
}

// TestLogOfGarbageIsRead: what is not text is written longer than it came.
func TestLogOfGarbageIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web-1.log")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, strings.Repeat("a\xff", maxLogLine))
	fmt.Fprintln(l, "end")
	l.Close()
	if lines, err := Tail(path, 1); err != nil || len(lines) != 1 || !strings.HasSuffix(lines[0], " end") {
		t.Fatalf("%.50q, %v", lines, err)
	}
}

func TestLogFileIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web-1.log")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	l.RateLines, l.RateBytes = 1<<30, 1<<30
	for i := range 5 * maxLogBytes / 1000 {
		fmt.Fprintln(l, i, strings.Repeat("y", 1000))
	}
	l.Close()
	for _, p := range []string{path, path + ".1"} {
		if info, err := os.Stat(p); err != nil || info.Size() > maxLogBytes+maxLogLine+100 {
			t.Errorf("%v %v", info, err)
		}
	}
	lines, err := Tail(path, 5)
	if err != nil || len(lines) != 5 || !strings.Contains(lines[4], fmt.Sprint(" ", 5*maxLogBytes/1000-1, " y")) {
		t.Errorf("%.60q %v", lines, err)
	}
	for i := range maxLogFiles + 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prune(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != maxLogFiles {
		t.Errorf("%d are left", len(left))
	}
}

// A flood is not kept whole, and not read faster than a bound; the log says what is
// not in it, and the last line is known all the same.
func TestFloodOfLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "web-1.log")
		l, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		flood := []byte(strings.Repeat(strings.Repeat("y", 99)+"\n", 1000))
		began, wrote := time.Now(), 0
		for wrote < 4*maxLogRateRead {
			n, err := l.Write(flood)
			if err != nil {
				t.Fatal(err)
			}
			wrote += n
		}
		if took := time.Since(began); took < 3*time.Second || took > 6*time.Second {
			t.Errorf("4 seconds' worth took %s", took)
		}
		fmt.Fprintln(l, "panic: the end")
		if got := l.LastLine(); got != "panic: the end" {
			t.Errorf("the last line is %q", got)
		}
		time.Sleep(2 * time.Second) // nothing more comes
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		kept, left := 0, 0
		for line := range strings.Lines(string(text)) {
			var n int
			if _, rest, ok := strings.Cut(line, " headgate: "); ok {
				fmt.Sscanf(rest, "%d lines", &n)
				left += n
			} else {
				kept++
			}
		}
		if kept+left != wrote/100+1 || kept > 6*maxLogRateLines || left == 0 {
			t.Errorf("of %d lines %d were kept, and the log tells of %d that were not", wrote/100+1, kept, left)
		}
		l.Close()
	})
}
