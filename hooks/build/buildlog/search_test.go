package buildlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// found is what a search says of a log, and the error that it ended with.
func found(ctx context.Context, s *Search, name string) (string, error) {
	var b strings.Builder
	for m, err := range s.In(ctx, name) {
		if err != nil {
			return b.String(), err
		}
		fmt.Fprintf(&b, "%d %d %s: %s: %s\n", m.Line, m.Step, m.Phase, m.Command, m.Text)
	}
	return b.String(), nil
}

// A search finds what the log shows, whatever its case, its colours and how JSON writes it,
// by the numbers that whoever follows the log counts.
func TestSearch(t *testing.T) {
	d := open(t)
	w, err := d.Create("hello-1", []string{"the-secret-value"})
	if err != nil {
		t.Fatal(err)
	}
	w.Note("image Debian")
	first := w.Begin("install", "npm ci")
	out := w.Output(first)
	fmt.Fprint(out, "added 7 packages\n\x1b[31mFAIL\x1b[0m: Basket <total> & \"tax\"\nthe-secret-value\nSchöne GRÜSSE\n")
	out.Close()
	w.End(first, 0)
	w.Note("between the steps")
	second := w.Begin("build", "make out")
	out = w.Output(second)
	fmt.Fprintf(out, "fail: again\n%sneedle\n", strings.Repeat("x", MaxLine-10))
	out.Close()

	want := map[string]string{
		"fail: b":                "3 1 install: npm ci: \x1b[31mFAIL\x1b[0m: Basket <total> & \"tax\"\n",
		"FAIL:":                  "3 1 install: npm ci: \x1b[31mFAIL\x1b[0m: Basket <total> & \"tax\"\n7 2 build: make out: fail: again\n",
		"<TOTAL> & \"Tax\"":      "3 1 install: npm ci: \x1b[31mFAIL\x1b[0m: Basket <total> & \"tax\"\n",
		"grüsse":                 "5 1 install: npm ci: Schöne GRÜSSE\n",
		"debian":                 "1 0 : : image Debian\n",
		"between":                "6 0 : : between the steps\n",
		"7 Packages":             "2 1 install: npm ci: added 7 packages\n",
		"the-secret-value":       "",
		`"k":"out"`:              "",
		"out":                    "",
		"\x1b[31m":               "",
		"npm ci":                 "", // a command is no line
		"nothing of the kind 77": "",
	}
	look := func(name string) {
		t.Helper()
		for text, lines := range want {
			if got, err := found(t.Context(), d.Search(text, 1<<20), name); err != nil || got != lines {
				t.Errorf("%s: %q: %v\n got %q\nwant %q", name, text, err, got, lines)
			}
		}
	}
	look("hello-1") // while it grows
	digest, err := w.Finish("SUCCEEDED")
	if err != nil {
		t.Fatal(err)
	}
	look("sha256:" + digest)
	look("hello-1")

	// The numbers are those of whoever follows.
	for _, e := range collect(t, d, digest, false) {
		if e.Line == 7 && e.Text != "fail: again" {
			t.Errorf("line 7 is %q to who follows", e.Text)
		}
	}
	if got, err := found(t.Context(), d.Search("needle", 1<<20), digest); err != nil || !strings.HasSuffix(got, "needle\n") {
		t.Errorf("a long line: %v %.60q", err, got)
	}
}

// A search reads no more than it may, of all logs together, and ends with its context.
func TestSearchIsBounded(t *testing.T) {
	d := open(t)
	for i := range 3 {
		w, err := d.Create(fmt.Sprintf("log-%d", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		out := w.Output(w.Begin("build", "make"))
		fmt.Fprint(out, strings.Repeat("a line of some length\n", 1000), "the needle\n")
		out.Close()
		if _, err := w.Finish("SUCCEEDED"); err != nil {
			t.Fatal(err)
		}
	}
	s := d.Search("needle", 100<<10) // a log is half of that
	for i, want := range []error{nil, ErrSpent, ErrSpent} {
		got, err := found(t.Context(), s, fmt.Sprintf("log-%d", i))
		if !errors.Is(err, want) || (got != "") != (want == nil) {
			t.Errorf("log %d: %v, %q", i, err, got)
		}
	}
	if _, err := found(t.Context(), d.Search("x", 1), "log-7"); !errors.Is(err, ErrNoLog) {
		t.Errorf("a log that is not there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := found(ctx, d.Search("x", 1<<20), "log-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkSearch(b *testing.B) {
	d, err := OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	w, err := d.Create("x", nil)
	if err != nil {
		b.Fatal(err)
	}
	out := w.Output(w.Begin("build", "make"))
	line := strings.Repeat("compiling the package of this name ", 3) + "\n"
	for range 200_000 {
		fmt.Fprint(out, line)
	}
	out.Close()
	w.mu.Lock()
	b.SetBytes(w.size)
	w.mu.Unlock()
	for b.Loop() {
		if got, err := found(b.Context(), d.Search("Needle", 1<<40), "x"); err != nil || got != "" {
			b.Fatal(got, err)
		}
	}
}
