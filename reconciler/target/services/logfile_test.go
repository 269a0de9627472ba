package services

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env", "web-1.log")
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(l, "first\nsec")
	fmt.Fprint(l, "ond \x1b[31mred\x1b[0m\a\n", "\xff\n\n", strings.Repeat("x", 2*maxLogLine), "\nno end")
	if got := l.lastLine(); got != "no end" {
		t.Errorf("%q", got)
	}
	l.close()
	lines, err := tail(path, 10)
	if err != nil || len(lines) != 6 {
		t.Fatalf("%d %v", len(lines), err)
	}
	for i, want := range []string{"first", "second red", "\uFFFD", "", strings.Repeat("x", maxLogLine), "no end"} {
		if _, got, _ := strings.Cut(lines[i], " "); got != want {
			t.Errorf("%d: %.50q, want %.50q", i, got, want)
		}
	}
	if lines, _ := tail(path, 1); len(lines) != 1 || !strings.HasSuffix(lines[0], "no end") {
		t.Errorf("%q", lines)
	}
}

// TestLogOfGarbageIsRead: what is not text is written longer than it came.
func TestLogOfGarbageIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web-1.log")
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, strings.Repeat("a\xff", maxLogLine))
	fmt.Fprintln(l, "end")
	l.close()
	if lines, err := tail(path, 1); err != nil || len(lines) != 1 || !strings.HasSuffix(lines[0], " end") {
		t.Fatalf("%.50q, %v", lines, err)
	}
}

func TestLogFileIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web-1.log")
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 * maxLogBytes / 1000 {
		fmt.Fprintln(l, i, strings.Repeat("y", 1000))
	}
	l.close()
	for _, p := range []string{path, path + ".1"} {
		if info, err := os.Stat(p); err != nil || info.Size() > maxLogBytes+maxLogLine+100 {
			t.Errorf("%v %v", info, err)
		}
	}
	lines, err := tail(path, 5)
	if err != nil || len(lines) != 5 || !strings.Contains(lines[4], fmt.Sprint(" ", 5*maxLogBytes/1000-1, " y")) {
		t.Errorf("%.60q %v", lines, err)
	}
	for i := range maxLogFiles + 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruneLogs(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != maxLogFiles {
		t.Errorf("%d are left", len(left))
	}
}
