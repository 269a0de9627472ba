package delivery

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func openLog(t *testing.T, dir string) *Log {
	t.Helper()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func delivery(id string, body string) Delivery {
	return Delivery{ID: id, Event: "push", At: time.Unix(1_790_000_000, 0).UTC(), Body: []byte(body)}
}

func TestLogKeepsWhatItTook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openLog(t, dir)

	first, err := b.Put(delivery("a", `{"n": 1}`))
	if err != nil || first.Duplicate {
		t.Fatalf("Put = %+v, %v", first, err)
	}
	if _, err := b.Put(delivery("b", "two\nlines\n")); err != nil {
		t.Fatal(err)
	}
	again, err := b.Put(delivery("a", "another body"))
	if err != nil || !again.Duplicate || again.Sequence != first.Sequence {
		t.Fatalf("Put of a duplicate = %+v, %v", again, err)
	}
	if err := b.Settle(Applied, "main moved", first.Sequence); err != nil {
		t.Fatal(err)
	}
	b.Close()

	b = openLog(t, dir)
	if got := b.Pending(); !slices.Equal(got, []int64{2}) {
		t.Errorf("Pending = %v, want [2]", got)
	}
	if again, err := b.Put(delivery("a", "")); err != nil || !again.Duplicate {
		t.Errorf("after a restart a duplicate is %+v, %v", again, err)
	}
	for i, want := range []string{`{"n": 1}`, "two\nlines\n"} {
		d, err := b.Read(int64(i + 1))
		if err != nil || string(d.Body) != want || d.Event != "push" || !d.At.Equal(time.Unix(1_790_000_000, 0)) {
			t.Errorf("Read(%d) = %+v, %v; want body %q", i+1, d, err, want)
		}
	}
	list := b.List(10)
	if len(list) != 2 || list[0].ID != "b" || list[1].Outcome != Applied || list[1].Detail != "main moved" ||
		list[1].Duplicates != 1 {
		t.Errorf("List = %+v", list)
	}

	if err := b.Settle(Pending, "", 1); err != nil { // process it again
		t.Fatal(err)
	}
	b.Close()
	if got := openLog(t, dir).Pending(); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("Pending after a replay = %v, want [1 2]", got)
	}
}

func TestLogNamesDeliveriesWithoutID(t *testing.T) {
	t.Parallel()
	b := openLog(t, t.TempDir())
	if _, err := b.Put(delivery("", "same")); err != nil {
		t.Fatal(err)
	}
	if r, err := b.Put(delivery("", "same")); err != nil || !r.Duplicate {
		t.Errorf("the same body without an id: %+v, %v; want a duplicate", r, err)
	}
	if r, err := b.Put(delivery("", "other")); err != nil || r.Duplicate {
		t.Errorf("another body without an id: %+v, %v", r, err)
	}
	if err := b.Settle(Applied, "", 1); err != nil {
		t.Fatal(err)
	}
	if r, err := b.Put(delivery("", "same")); err != nil || r.Duplicate {
		t.Errorf("the same body after the first was processed: %+v, %v; want a new one", r, err)
	}
}

// What a power cut leaves of a segment is some prefix of it: each must open, and
// hold exactly the deliveries that are whole in it.
func TestLogTornAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openLog(t, dir)
	var ends []int64
	path := ""
	for i := range 2 {
		if _, err := b.Put(delivery(fmt.Sprint("id", i), fmt.Sprintf("body %d", i))); err != nil {
			t.Fatal(err)
		}
		path = b.segment.path
		ends = append(ends, b.segment.size)
	}
	b.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	for n := range len(whole) + 1 {
		torn := t.TempDir()
		if err := os.WriteFile(filepath.Join(torn, filepath.Base(path)), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, end := range ends {
			if int64(n) >= end {
				want++
			}
		}
		b := openLog(t, torn)
		if got := len(b.Pending()); got != want {
			t.Fatalf("cut at %d of %d: %d deliveries, want %d", n, len(whole), got, want)
		}
		for _, sequence := range b.Pending() {
			if d, err := b.Read(sequence); err != nil || string(d.Body) != fmt.Sprintf("body %d", sequence-1) {
				t.Fatalf("cut at %d: Read(%d) = %q, %v", n, sequence, d.Body, err)
			}
		}
		// It goes on behind the damage, and what came after is there next time.
		if _, err := b.Put(delivery("later", "later")); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if got := len(openLog(t, torn).Pending()); got != want+1 {
			t.Fatalf("cut at %d: %d deliveries after the next one, want %d", n, got, want+1)
		}
	}
}

func TestLogFlippedBits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openLog(t, dir)
	for i := range 3 {
		if _, err := b.Put(delivery(fmt.Sprint("id", i), fmt.Sprintf("body %d", i))); err != nil {
			t.Fatal(err)
		}
	}
	path := b.segment.path
	b.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 0x10
		torn := t.TempDir()
		if err := os.WriteFile(filepath.Join(torn, filepath.Base(path)), flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		b := openLog(t, torn)
		for _, sequence := range b.Pending() {
			d, err := b.Read(sequence)
			if err == nil && string(d.Body) != fmt.Sprintf("body %d", sequence-1) {
				t.Fatalf("byte %d flipped: Read(%d) = %q", i, sequence, d.Body)
			}
		}
		b.Close()
	}
}

func TestLogManyAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openLog(t, dir)
	const senders, each = 16, 25
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				// Each delivery is sent by two senders: one of them is the duplicate.
				id := fmt.Sprintf("%d-%d", s/2, i)
				if _, err := b.Put(delivery(id, id)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { // a worker meanwhile
		defer close(done)
		for settled := 0; settled < senders/2*each; {
			for _, sequence := range b.Pending() {
				d, err := b.Read(sequence)
				if err != nil || string(d.Body) != d.ID {
					t.Errorf("Read(%d) = %q, %v", sequence, d.Body, err)
				}
				if err := b.Settle(Applied, "", sequence); err != nil {
					t.Error(err)
					return
				}
				settled++
			}
		}
	}()
	wg.Wait()
	<-done
	if s := b.Stats(); s.Kept != senders/2*each || s.Pending != 0 {
		t.Errorf("Stats = %+v", s)
	}
	b.Close()
	if s := openLog(t, dir).Stats(); s.Kept != senders/2*each || s.Pending != 0 || s.Damaged != 0 {
		t.Errorf("after a restart Stats = %+v", s)
	}
}

func TestLogBounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openLog(t, dir)
	b.limits = limits{segment: 16 << 10, kept: 128 << 10, entries: 1000, waitingBytes: 256 << 10, pending: 1000}
	body := string(bytes.Repeat([]byte("x"), 20<<10))

	taken := 0
	for i := 0; ; i++ {
		_, err := b.Put(delivery(fmt.Sprint(i), body))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		taken++
	}
	if want := b.limits.waitingBytes / len(body); taken != want {
		t.Errorf("took %d bodies of %d bytes, want %d", taken, len(body), want)
	}
	if s := b.Stats(); s.Dropped != 0 {
		t.Errorf("dropped %d deliveries that were pending", s.Dropped)
	}

	for _, sequence := range b.Pending() {
		if err := b.Settle(Ignored, "of no interest", sequence); err != nil {
			t.Fatal(err)
		}
	}
	s := b.Stats()
	if s.Kept+int(s.Dropped) != taken || s.Dropped == 0 {
		t.Errorf("Stats = %+v after %d deliveries", s, taken)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if most := b.limits.kept + b.limits.segment + int64(len(body)); size > most {
		t.Errorf("%d bytes are kept, at most %d should be", size, most)
	}
	if _, err := b.Read(1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read of a dropped delivery: %v", err)
	}
}

func TestLogDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openLog(t, dir)
	if _, err := b.Put(delivery("a", "a")); err != nil {
		t.Fatal(err)
	}
	b.segment.file.Close() // what an I/O error looks like from here
	if _, err := b.Put(delivery("b", "b")); err == nil {
		t.Fatal("a delivery that is not on disk was taken")
	}
	if r, err := b.Put(delivery("b", "b")); err != nil || r.Duplicate {
		t.Errorf("sent again once the disk is well: %+v, %v", r, err)
	}
}

// FuzzReadRecord: what is on disk is read or called damaged, and what is read can be
// written again.
func FuzzReadRecord(f *testing.F) {
	var seed bytes.Buffer
	appendRecord(&seed, record{Kind: deliveryRecord, Sequence: 1, Delivery: &Delivery{ID: "a", Event: "push"}, Size: 2}, []byte("{}"))
	appendRecord(&seed, record{Kind: outcomeRecord, Sequence: 1, Outcome: Applied, Detail: "done"}, nil)
	for line := range bytes.Lines(seed.Bytes()) {
		_, text, _ := bytes.Cut(line, []byte(" "))
		f.Add(string(bytes.TrimSuffix(text, []byte("\n"))))
	}
	f.Add(`{"kind": "delivery", "sequence": 9223372036854775807, "size": 9223372036854775807}`)
	f.Add("null")
	f.Fuzz(func(t *testing.T, text string) {
		line := checksum([]byte(text)) + " " + text + "\n"
		r, n, err := readRecord(bufio.NewReaderSize(strings.NewReader(line), maxRecordLine))
		if err != nil {
			return
		}
		if r.Delivery == nil || r.Sequence < 1 || r.Size < 0 || n < 1 || n > int64(len(line)) {
			t.Fatalf("%+v, %d bytes", r, n)
		}
		var again bytes.Buffer
		appendRecord(&again, r, nil)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "000000000001.log"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPause(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct{ took, since, want time.Duration }{
		{0, 0, 0},
		{4 * time.Millisecond, 0, 12 * time.Millisecond},
		{4 * time.Millisecond, 5 * time.Millisecond, 7 * time.Millisecond},
		{4 * time.Millisecond, time.Second, 0},
		{time.Second, 0, longestPause},
	} {
		l := &Log{took: c.took, synced: now.Add(-c.since)}
		if got := l.pause(now); got != c.want {
			t.Errorf("after a sync of %s, %s ago: %s, want %s", c.took, c.since, got, c.want)
		}
	}
	if got := new(Log).pause(now); got != 0 {
		t.Errorf("before the first: %s", got)
	}
}
