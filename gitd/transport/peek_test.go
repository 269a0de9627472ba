package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// What asks for a pack waits for a place, and nothing else does; every byte
// arrives at git, in order.
func TestAdmit(t *testing.T) {
	for _, c := range []struct {
		name     string
		in       string
		requests bool
		packs    bool
	}{
		{"nothing", "", true, false},
		{"refs", "0014command=ls-refs\n0014agent=git/2.47.300010008peel0000", true, false},
		{"refs, then a pack", "0014command=ls-refs\n00010000" + "0012command=fetch\n0001000fno-progress0000", true, true},
		{"a pack", "0012command=fetch\n", true, true},
		{"capabilities of an object", "0017command=object-info0000", true, false},
		{"nothing wanted, as of old", "0000", false, false},
		{"a want, as of old", "0032want 0123456789012345678901234567890123456789\n0000", false, true},
		{"no packets", "GET / HTTP/1.1\r\n\r\n", true, true},
		{"half a length", "00", true, true},
		{"half a packet", "0032want", false, true},
		{"an impossible length", "0003", true, true},
		{"an error", "000dERR gone", true, true},
	} {
		q := newQueue(1, 1, time.Minute)
		var passed bytes.Buffer
		rest, done, err := q.admit(t.Context(), strings.NewReader(c.in), &passed, "ada", c.requests)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if (done != nil) != c.packs || q.n == 1 != c.packs {
			t.Errorf("%s: a place is taken: %v", c.name, done != nil)
		}
		io.Copy(&passed, rest)
		if passed.String() != c.in {
			t.Errorf("%s: git was sent %q", c.name, passed.String())
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := newQueue(1, 1, time.Hour)
	done, err := q.enter(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() {
		_, err := q.enter(ctx, "ada")
		waited <- err
	}()
	for !q.crowded() {
		time.Sleep(time.Millisecond)
	}
	if _, err := q.enter(t.Context(), "ada"); !errors.Is(err, errBusy) {
		t.Errorf("behind a full queue: %v", err)
	}
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("one that gave up: %v", err)
	}

	go func() {
		free, err := q.enter(t.Context(), "ada")
		if err == nil {
			free()
		}
		waited <- err
	}()
	for !q.crowded() {
		time.Sleep(time.Millisecond)
	}
	done()
	if err := <-waited; err != nil {
		t.Errorf("next in the queue: %v", err)
	}
}

func TestQuota(t *testing.T) {
	q := NewQuota(3, 2)
	for _, step := range []struct {
		name string
		ok   bool
	}{{"ada", true}, {"ada", true}, {"ada", false}, {"jun", true}, {"sam", false}} {
		if got := q.Take(step.name); got != step.ok {
			t.Errorf("%s: %v", step.name, got)
		}
	}
	q.Give("ada")
	if !q.Take("sam") || q.Take("ada") {
		t.Error("what was given back is not free, or more is")
	}
}

func FuzzAdmit(f *testing.F) {
	f.Add("0014command=ls-refs\n00010000"+"0012command=fetch\n", true)
	f.Add("0032want 0123456789012345678901234567890123456789\n0000", false)
	f.Fuzz(func(t *testing.T, in string, requests bool) {
		var passed bytes.Buffer
		rest, _, err := newQueue(1, 1, time.Minute).admit(t.Context(), strings.NewReader(in), &passed, "ada", requests)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(&passed, rest)
		if passed.String() != in {
			t.Errorf("git was sent %q", passed.String())
		}
	})
}

// FuzzAdmitPack: whatever a push begins with, git gets every byte of it in order, and who
// brings nothing takes no place.
func FuzzAdmitPack(f *testing.F) {
	zero, one := strings.Repeat("0", 40), strings.Repeat("1", 40)
	f.Add([]byte("0066" + zero + " " + one + " refs/heads/x\x00 report-statusxx0000PACK"))
	f.Add([]byte("0062" + one + " " + zero + " refs/heads/x\x00 report-stat0000"))
	f.Add([]byte("0000"))
	f.Add([]byte("fff0"))
	f.Add([]byte("0003x"))
	f.Fuzz(func(t *testing.T, body []byte) {
		q := newQueue(1, 1, time.Minute)
		var passed bytes.Buffer
		rest, done, err := q.admitPack(t.Context(), bytes.NewReader(body), &passed, "ada")
		if err != nil {
			t.Fatal(err)
		}
		if (done != nil) != (q.n == 1) || done != nil && !bytes.Contains(body, []byte("0000")) {
			t.Errorf("%q takes a place: %v", body, done != nil)
		}
		if _, err := io.Copy(&passed, rest); err != nil || !bytes.Equal(passed.Bytes(), body) {
			t.Errorf("git was sent %q of %q, %v", passed.Bytes(), body, err)
		}
	})
}
