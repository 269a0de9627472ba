package buildlog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := OpenDir(filepath.Join(t.TempDir(), "logs"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func collect(t *testing.T, d *Dir, name string, wait bool) []Event {
	t.Helper()
	var events []Event
	for e, err := range d.Follow(t.Context(), name, wait) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

func texts(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		switch e.Kind {
		case Out, Note:
			fmt.Fprintf(&b, "%d %s\n", e.Line, e.Text)
		case Step:
			fmt.Fprintf(&b, "> %d %s: %s\n", e.Step, e.Phase, e.Command)
		case End:
			fmt.Fprintf(&b, "< %d exit %d\n", e.Step, e.Exit)
		case Done:
			fmt.Fprintf(&b, "done %s\n", e.Text)
		}
	}
	return b.String()
}

func TestLateAndEarlyReadersSeeTheSame(t *testing.T) {
	d := open(t)
	w, err := d.Create("hello-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	var early []Event
	var wg sync.WaitGroup
	wg.Go(func() {
		for e, err := range d.Follow(context.Background(), "hello-1", true) {
			if err != nil {
				t.Error(err)
			}
			early = append(early, e)
		}
	})
	n := w.Begin("build", "make test\nmake more")
	out := w.Output(n)
	fmt.Fprint(out, "one\ntw")
	fmt.Fprint(out, "o\nthree")
	out.Close()
	w.End(n, 2)
	w.Note("Phase complete: %s", "BUILD")
	if got := len(collect(t, d, "hello-1", false)); got != 6 {
		t.Errorf("a reader who does not wait sees %d events", got)
	}
	digest, err := w.Finish("FAILED")
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	want := "> 1 build: make test …\n1 one\n2 two\n3 three\n< 1 exit 2\n4 Phase complete: BUILD\ndone FAILED\n"
	for name, events := range map[string][]Event{"early": early, "by digest": collect(t, d, digest, true),
		"by id": collect(t, d, "hello-1", true)} {
		if got := texts(events); got != want {
			t.Errorf("%s reader:\n%s", name, got)
		}
	}
	data, err := os.ReadFile(filepath.Join(d.root, digest+".log"))
	if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != digest {
		t.Errorf("the file's name is not its digest (%v)", err)
	}
	if _, err := w.Finish("again"); err == nil {
		t.Error("finished twice")
	}
}

// Whoever comes, whenever, reads the whole log and nothing twice, also across the
// moment at which it gets its last name.
func TestReadersWhoComeAtAnyMoment(t *testing.T) {
	d := open(t)
	w, err := d.Create("busy", nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	seen := make([]string, 40)
	come := func(i int) {
		wg.Go(func() {
			var events []Event
			for e, err := range d.Follow(context.Background(), "busy", true) {
				if err != nil {
					t.Error(err)
				}
				events = append(events, e)
			}
			seen[i] = texts(events)
		})
	}
	out := w.Output(w.Begin("build", "make"))
	for i := range 2000 {
		fmt.Fprintf(out, "line %d\nand", i)
		fmt.Fprintln(out, strings.Repeat(" more", i%50))
		if i%100 == 99 {
			come(i / 100)
		}
	}
	out.Close()
	w.End(1, 0)
	for i := 20; i < 30; i++ {
		come(i)
	}
	digest, err := w.Finish("SUCCEEDED")
	if err != nil {
		t.Fatal(err)
	}
	for i := 30; i < 40; i++ {
		come(i)
	}
	wg.Wait()
	want := texts(collect(t, d, digest, false))
	if n := strings.Count(want, "\n"); n != 4003 {
		t.Errorf("%d events", n)
	}
	for i, got := range seen {
		if got != want {
			t.Errorf("reader %d saw %d bytes of %d", i, len(got), len(want))
		}
	}
}

func TestFollowerMayComeBeforeTheLog(t *testing.T) {
	d := open(t)
	done := make(chan string)
	go func() {
		var events []Event
		for e, err := range d.Follow(context.Background(), "soon", true) {
			if err != nil {
				t.Error(err)
			}
			events = append(events, e)
		}
		done <- texts(events)
	}()
	w, err := d.Create("soon", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Note("here")
	if _, err := w.Finish("SUCCEEDED"); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got != "1 here\ndone SUCCEEDED\n" {
		t.Errorf("%q", got)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	d := open(t)
	w, err := d.Create("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range d.Follow(ctx, "x", true) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("ended with %v", last)
	}
}

func TestDiscardEndsFollowersAndLeavesNothing(t *testing.T) {
	d := open(t)
	w, err := d.Create("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Note("hello")
	done, seen := make(chan string), make(chan struct{})
	go func() {
		var events []Event
		for e := range d.Follow(context.Background(), "x", true) {
			if events = append(events, e); len(events) == 1 {
				close(seen)
			}
		}
		done <- texts(events)
	}()
	<-seen
	w.Discard()
	if got := <-done; got != "1 hello\ndone STOPPED\n" {
		t.Errorf("the follower saw %q", got)
	}
	for _, err := range d.Follow(t.Context(), "x", false) {
		if !errors.Is(err, ErrNoLog) {
			t.Errorf("%v", err)
		}
	}
}

// bounded is a directory whose logs are cut early.
func bounded(t *testing.T) *Dir {
	d := open(t)
	if d.bound != MaxBytes {
		t.Fatalf("logs are cut at %d bytes", d.bound)
	}
	d.bound = 4 << 20
	return d
}

func TestBounds(t *testing.T) {
	d := bounded(t)
	w, err := d.Create("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	out := w.Output(w.Begin("build", "yes"))
	long := "é" + strings.Repeat("e", 256<<10)
	for range 40 {
		fmt.Fprint(out, long)
	}
	out.Close()
	w.End(1, 0)
	if _, err := w.Finish("SUCCEEDED"); err != nil {
		t.Fatal(err)
	}
	total, cut := 0, 0
	for _, e := range collect(t, d, "x", true) {
		if len(e.Text) > MaxLine || !utf8.ValidString(e.Text) {
			t.Fatalf("a line of %d bytes", len(e.Text))
		}
		total += len(e.Text)
		if strings.Contains(e.Text, "the log is cut here") {
			cut++
		}
	}
	if max := int(d.bound); total > max || total < max*95/100 || cut != 1 {
		t.Errorf("%d bytes kept, cut %d times", total, cut)
	}
}

// A long line is broken between characters, however it arrives.
func TestLongLineIsBrokenBetweenCharacters(t *testing.T) {
	d := open(t)
	w, err := d.Create("x", []string{"a secret"})
	if err != nil {
		t.Fatal(err)
	}
	long := "x" + strings.Repeat("é世😀", 20_000)
	out := w.Output(w.Begin("build", "yes"))
	for rest := long; rest != ""; {
		n := min(len(rest), 4099)
		fmt.Fprint(out, rest[:n])
		rest = rest[n:]
	}
	out.Close()
	if _, err := w.Finish("SUCCEEDED"); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, e := range collect(t, d, "x", true) {
		if e.Kind == Out {
			got.WriteString(e.Text)
		}
	}
	if got.String() != long {
		t.Errorf("%d bytes in, %d out, of which %d are not text", len(long), got.Len(), strings.Count(got.String(), "\uFFFD"))
	}
}

// The bound is on what is on disk: short lines and characters that JSON writes
// at length do not get around it.
func TestBoundIsOnTheFile(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		bytes int // printed: more than the bound once they are in the file
	}{
		"empty lines": {strings.Repeat("\n", 1<<16), 256 << 10},
		"escapes":     {strings.Repeat(strings.Repeat("<", 1000)+"\n", 64), 896 << 10},
	} {
		d := bounded(t)
		w, err := d.Create("x", nil)
		if err != nil {
			t.Fatal(err)
		}
		out := w.Output(w.Begin("build", "yes"))
		for range c.bytes / len(c.text) {
			fmt.Fprint(out, c.text)
		}
		out.Close()
		digest, err := w.Finish("SUCCEEDED")
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(d.root, digest+".log"))
		if err != nil || info.Size() > d.bound+1<<16 || info.Size() < d.bound/2 {
			t.Errorf("%s: the file holds %d bytes, %v", name, info.Size(), err)
		}
	}
}

func TestMaskAcrossWrites(t *testing.T) {
	d := open(t)
	secret := "s3cr3t-value"
	w, err := d.Create("x", []string{secret, "ab", "two\nlines-of-it"})
	if err != nil {
		t.Fatal(err)
	}
	out := w.Output(w.Begin("build", "echo "+secret))
	for _, c := range "token=" + secret + " ab\n" { // a byte at a time
		fmt.Fprint(out, string(c))
	}
	fmt.Fprint(out, strings.Repeat("x", MaxLine-4)+secret+"\n") // across the break of a long line
	fmt.Fprint(out, strings.Repeat("y", MaxLine-4)+secret+strings.Repeat("z", 2*MaxLine))
	fmt.Fprint(out, "\nczNjcjN0LXZhbHVl and lines-of-it")
	out.Close()
	w.Note("it was %s", secret)
	if _, err := w.Finish("SUCCEEDED"); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range collect(t, d, "x", true) {
		all.WriteString(e.Text + e.Command)
	}
	for _, leak := range []string{secret, "czNjcjN0LXZhbHVl", "lines-of-it"} {
		if strings.Contains(all.String(), leak) {
			t.Errorf("%q is in the log", leak)
		}
	}
	if !strings.Contains(all.String(), "token=*** ab") {
		t.Error("short values are masked, or others are not")
	}
}

func TestNoLogOutsideTheFolder(t *testing.T) {
	d := open(t)
	for _, name := range []string{"", "../x", "a/b", ".", strings.Repeat("a", 300)} {
		if _, err := d.Create(name, nil); err == nil {
			t.Errorf("%q was created", name)
		}
		for _, err := range d.Follow(t.Context(), name, false) {
			if !errors.Is(err, ErrNoLog) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
}

func TestOpenDirRemovesUnfinishedLogs(t *testing.T) {
	d := open(t)
	w, err := d.Create("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Note("half")
	if _, err := OpenDir(d.root); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.root, "running", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A line that stands without its end is shown to those who follow, and the log
// has it once, whole.
func TestUnfinishedLineIsShown(t *testing.T) {
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Create("b", []string{"hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	out := w.Output(w.Begin("build", "ask"))
	steps := []struct{ write, want string }{
		{"first\nsure? ", "out first"},
		{"", "part sure? "},
		{"hunt", ""}, // may be the beginning of a secret
		{"er2 y", "part sure? *** y"},
		{"es\nlast", "out sure? *** yes"},
		{"", "part last"},
	}
	if _, err := io.WriteString(out, steps[0].write); err != nil {
		t.Fatal(err)
	}
	at := 0
	for e, err := range d.Follow(t.Context(), "b", true) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == Step {
			continue
		}
		if at < len(steps) {
			if got := string(e.Kind) + " " + e.Text; got != steps[at].want {
				t.Fatalf("%d: %q, and not %q", at, got, steps[at].want)
			}
			for at++; at < len(steps); at++ {
				if _, err := io.WriteString(out, steps[at].write); err != nil {
					t.Fatal(err)
				}
				if steps[at].want != "" {
					break
				}
			}
			if at == len(steps) {
				if err := out.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Finish("SUCCEEDED"); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if e.Kind == Part {
			t.Errorf("%+v", e)
		}
	}
	var lines []string
	for e, err := range d.Follow(t.Context(), "b", false) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(e.Kind)+" "+e.Text)
	}
	if want := []string{"step ", "out first", "out sure? *** yes", "out last",
		"done SUCCEEDED"}; !slices.Equal(lines, want) {
		t.Errorf("the log has %q", lines)
	}
}

// Many who follow a log that grows fast read it together, and each of them sees all of it, in
// order, however fast they are: those who came late, those who look at every line for a while,
// and past lines too long to be shared.
func TestManyFollowTogether(t *testing.T) {
	d := open(t)
	w, err := d.Create("hello-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	const followers, lines = 12, 20 * inBlock
	seen := make([]string, followers)
	started := make(chan struct{}, followers)
	late := make(chan struct{})
	var following sync.WaitGroup
	for i := range followers {
		following.Go(func() {
			if i%4 == 3 {
				<-late
			}
			h := sha256.New()
			last := 0
			for e, err := range d.Follow(t.Context(), "hello-1", true) {
				if err != nil {
					t.Error(err)
					return
				}
				if e.Kind == Part {
					continue
				}
				if e.Kind == Out {
					if e.Line != last+1 {
						t.Errorf("after line %d comes %d", last, e.Line)
						return
					}
					last = e.Line
				}
				fmt.Fprintf(h, "%+v\n", e)
				if e.Line == 1 {
					started <- struct{}{}
				}
				if i%4 == 2 && e.Line%100 == 0 {
					runtime.Gosched()
				}
			}
			seen[i] = fmt.Sprintf("%d %x", last, h.Sum(nil))
		})
	}
	out := w.Output(w.Begin("build", "make"))
	fmt.Fprintln(out, "line 1")
	for range followers * 3 / 4 {
		<-started
	}
	for n := 2; n <= lines; n++ {
		text := fmt.Sprintf("line %d", n)
		if n/inBlock == 7 {
			text += strings.Repeat("x", 2000)
		}
		fmt.Fprintln(out, text)
		if n == lines/2 {
			close(late)
		}
	}
	out.Close()
	if _, err := w.Finish("SUCCEEDED"); err != nil {
		t.Fatal(err)
	}
	following.Wait()

	h := sha256.New()
	for _, e := range collect(t, d, "hello-1", false) {
		fmt.Fprintf(h, "%+v\n", e)
	}
	want := fmt.Sprintf("%d %x", lines, h.Sum(nil))
	for i, got := range seen {
		if got != want {
			t.Errorf("follower %d saw %s, the log is %s", i, got, want)
		}
	}
	// None is kept that is too long, and some were shared.
	kept := 0
	for _, b := range w.read.some {
		if b.events != nil {
			kept++
		}
		if b.n == 7 && b.events != nil {
			t.Error("a block of long lines is kept")
		}
	}
	if kept < 5 {
		t.Errorf("only %d blocks were shared", kept)
	}
}
