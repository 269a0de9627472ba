package transport

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Nobody has more than half of the places, nor of the queue; who waits for a place
// that another's leaving does not give them is passed by.
func TestNobodyHasAllPlaces(t *testing.T) {
	q := newQueue(4, 4, time.Minute)
	enter := func(name string) (chan func(), chan error) {
		got, failed := make(chan func(), 1), make(chan error, 1)
		go func() {
			done, err := q.enter(t.Context(), name)
			got <- done
			failed <- err
		}()
		return got, failed
	}
	length := func() int {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.queue)
	}
	var eves []func()
	for range 2 {
		got, _ := enter("eve")
		eves = append(eves, <-got)
	}
	var waiting []chan func()
	for n := range 2 {
		got, _ := enter("eve")
		waiting = append(waiting, got)
		for length() != n+1 {
			time.Sleep(time.Millisecond)
		}
	}
	if _, failed := enter("eve"); !errors.Is(<-failed, errBusy) {
		t.Error("one name has all of the queue")
	}
	got, _ := enter("ada")
	ada := <-got // past those who wait
	ada()
	if length() != 2 {
		t.Error("another's place went to who has enough")
	}
	for i, done := range eves {
		done()
		done() // once
		(<-waiting[i])()
	}
	if q.n != 0 || len(q.used) != 0 {
		t.Errorf("%d places, %v", q.n, q.used)
	}
}

func testSpool(t testing.TB) *spool {
	s := newSpool()
	s.window, s.least, s.crowded = 10*time.Millisecond, 1, func() bool { return false }
	s.file = func() *os.File {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Error(err)
			return nil
		}
		return f
	}
	return s
}

// Whatever the sizes and the order of steps, what is put comes out.
func TestSpoolKeepsOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := testSpool(t)
		var in, out bytes.Buffer
		buffer := make([]byte, chunkSize)
		for range rapid.IntRange(0, 60).Draw(r, "steps") {
			if rapid.Bool().Draw(r, "put") {
				chunk := bytes.Repeat([]byte{byte(rand.Uint32())}, rapid.IntRange(1, chunkSize).Draw(r, "size"))
				in.Write(chunk)
				if err := s.put(chunk); err != nil {
					r.Fatal(err)
				}
			} else if in.Len() > out.Len() {
				chunk, err := s.get(buffer)
				if err != nil {
					r.Fatal(err)
				}
				out.Write(chunk)
			}
		}
		s.end(nil)
		s.drain(&out, func() {}, func() {})
		if !bytes.Equal(in.Bytes(), out.Bytes()) {
			r.Fatalf("%d bytes went in, %d came out, or others", in.Len(), out.Len())
		}
	})
}

// More than a file holds goes through, round and round.
func TestSpoolIsARing(t *testing.T) {
	s := testSpool(t)
	const total = inFile + inFile/2
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go s.fill(from, func() { t.Error("slow") })
	go func() {
		chunk := make([]byte, 31<<10)
		for sent := 0; sent < total; sent += len(chunk) {
			for i := range chunk {
				chunk[i] = byte((sent + i) / 1000)
			}
			if _, err := to.Write(chunk); err != nil {
				t.Error(err)
			}
		}
		to.Close()
	}()
	at := 0
	s.drain(writerFunc(func(p []byte) (int, error) {
		for i, b := range p {
			if b != byte((at+i)/1000) {
				t.Fatalf("byte %d is %d", at+i, b)
			}
		}
		at += len(p)
		return len(p), nil
	}), func() {}, func() { t.Error("gone") })
	if at < total {
		t.Errorf("%d bytes of %d", at, total)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A client that takes nothing lets git end; one whose pack is larger than what is
// kept has its place only as long as nobody waits for it.
func TestSlowClientsHoldNoPlace(t *testing.T) {
	send := func(s *spool, size int) (ended chan struct{}, slow chan struct{}) {
		ended, slow = make(chan struct{}), make(chan struct{})
		from, to, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go s.fill(from, func() { close(slow) })
		go func() {
			if _, err := io.CopyN(to, zeros{}, int64(size)); err != nil {
				t.Error(err)
			}
			to.Close()
			close(ended)
		}()
		return ended, slow
	}
	ended, _ := send(testSpool(t), 32<<20)
	<-ended // and the client has not taken a byte

	s := testSpool(t)
	s.file = func() *os.File { return nil } // too many have one
	ended, slow := send(s, 32<<20)
	buffer := make([]byte, chunkSize)
	for range 100 { // a client that is slow, and alone
		time.Sleep(time.Millisecond)
		if _, err := s.get(buffer); err != nil {
			t.Fatal(err)
		}
		wake(s.room)
	}
	select {
	case <-slow:
		t.Fatal("it was left though nobody waited")
	default:
	}
	s.drop()
	<-ended

	s = testSpool(t)
	s.file = func() *os.File { return nil }
	s.crowded = func() bool { return true }
	ended, slow = send(s, 32<<20)
	<-slow
	<-ended
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The files have no name: a kill leaves nothing.
func TestSpoolsLeaveNoFiles(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	transport := &Transport{}
	transport.start()
	var dones []func()
	for i := range maxSpools/4 + 1 {
		s, done := transport.spool("ada")()
		if f := s.file(); (f != nil) != (i < maxSpools/4) {
			t.Errorf("%d: %v", i, f)
		} else if f != nil {
			defer f.Close()
		}
		dones = append(dones, done)
	}
	for _, done := range dones {
		done()
	}
	if !transport.spools.Take("ada") {
		t.Error("they are not given back")
	}
	if left, err := filepath.Glob(os.TempDir() + "/*"); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
