package delivery

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// limits bound what a Log keeps for showing, and how much may wait.
type limits struct {
	segment      int64 // bytes of a segment before the next one begins
	kept         int64 // bytes of all segments before processed ones are dropped
	entries      int   // likewise
	waitingBytes int   // of pending bodies
	pending      int
}

var defaultLimits = limits{
	segment:      16 << 20,
	kept:         128 << 20,
	entries:      20_000,
	waitingBytes: 256 << 20,
	pending:      50_000,
}

// Log keeps deliveries on disk, in the order they came. All
// methods are safe for concurrent use; one process at a time may have it open.
//
// The directory holds segments, "<number>.log", that are only ever appended to
// and dropped whole. A record is one line, a checksum and
// JSON, behind a delivery's by the bytes of its body. A record that is torn or
// damaged ends its segment: what stands behind it is lost and counted, which is
// no worse than a webhook that never came.
type Log struct {
	dir    string
	limits limits

	mu      sync.Mutex // guards all below
	entries map[int64]*entry
	order   []int64          // ascending
	byID    map[string]int64 // newest sequence with that delivery id
	next    int64
	open    *batch // being filled; nil when nothing waits to be written
	waiting int    // bytes of pending bodies
	pending int
	dropped int64 // processed deliveries that were dropped, since the start
	damaged int64 // bytes that could not be read, since the start
	closed  bool

	write       sync.Mutex // held by whoever writes; guards all below
	segment     *segment   // being appended to, nil before the first write
	segments    []*segment
	nextSegment int64
	synced      time.Time     // when the last sync ended
	took        time.Duration // that one
}

type entry struct {
	Entry
	batch   *batch   // that makes it durable; nil when it was read from disk
	segment *segment // nil until written
	offset  int64    // of the body, in its batch until written
	digest  string
}

// Open opens the deliveries in dir, which is made if it is missing.
func Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open deliveries: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open deliveries: %w", err)
	}

	l := &Log{
		dir:         dir,
		limits:      defaultLimits,
		entries:     map[int64]*entry{},
		byID:        map[string]int64{},
		next:        1,
		nextSegment: 1,
	}
	var numbers []int64
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".log"); ok {
			if n, err := strconv.ParseInt(name, 10, 64); err == nil && n > 0 {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		if err := l.load(n); err != nil {
			l.Close()
			return nil, fmt.Errorf("open deliveries: %w", err)
		}
		l.nextSegment = n + 1
	}
	return l, nil // appending begins a new segment: what is there is never written again
}

func (l *Log) segmentPath(n int64) string {
	return filepath.Join(l.dir, fmt.Sprintf("%012d.log", n))
}

// load reads a segment.
func (l *Log) load(n int64) error {
	f, err := os.Open(l.segmentPath(n))
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	s := &segment{path: f.Name(), file: f, size: info.Size()}
	l.segments = append(l.segments, s)

	in, at := bufio.NewReaderSize(f, maxRecordLine), int64(0)
	for {
		r, n, err := readRecord(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			l.damaged += s.size - at
			return nil
		}
		at += n
		l.next = max(l.next, r.Sequence+1)

		switch r.Kind {
		case deliveryRecord:
			e := &entry{segment: s, offset: at, digest: r.Digest, Entry: Entry{
				Sequence:   r.Sequence,
				ID:         r.ID,
				Event:      r.Event,
				At:         r.At,
				Secret:     r.Secret,
				SecretName: r.SecretName,
				Size:       r.Size,
			}}
			if _, err := in.Discard(r.Size + 1); err != nil {
				l.damaged += s.size - at
				return nil
			}
			at += int64(r.Size) + 1
			l.add(e)
		case outcomeRecord:
			if e := l.entries[r.Sequence]; e != nil {
				l.setOutcome(e, r.Outcome, r.Detail)
			}
		}
	}
}

// add takes a delivery into the index; mu is held, or nobody else has l yet.
func (l *Log) add(e *entry) {
	l.entries[e.Sequence] = e
	l.order = append(l.order, e.Sequence)
	l.byID[e.ID] = e.Sequence
	l.countPending(e, 1)
}

// countPending counts a delivery in (1) or out (-1) of what is pending.
func (l *Log) countPending(e *entry, by int) {
	l.pending += by
	l.waiting += by * e.Size
	if e.segment != nil {
		e.segment.pending += by
	}
}

func (l *Log) setOutcome(e *entry, o Outcome, detail string) {
	if e.Outcome == Pending {
		l.countPending(e, -1)
	}
	e.Outcome, e.Detail = o, detail
	if e.Outcome == Pending {
		l.countPending(e, 1)
	}
}

// Limits of what a delivery says of itself.
const (
	maxID    = 200
	maxEvent = 100
)

// Put makes a delivery durable: when it returns without an error, the delivery
// survives a power cut. One whose ID is there already is a duplicate, and
// durable too. A delivery without an ID gets the digest of its body for one, and
// is a duplicate only while the first is pending: the same may happen twice.
// It returns ErrFull when too much waits to be processed.
func (l *Log) Put(d Delivery) (Receipt, error) {
	digest := sha256.Sum256(d.Body)
	named := d.ID != "" && len(d.ID) <= maxID
	if !named {
		d.ID = "sha256:" + hex.EncodeToString(digest[:])
	}
	if len(d.Event) > maxEvent {
		d.Event = d.Event[:maxEvent]
	}

	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return Receipt{}, os.ErrClosed
	}
	if e := l.entries[l.byID[d.ID]]; e != nil && (named || e.Outcome == Pending) {
		e.Duplicates++
		l.mu.Unlock()
		if e.batch != nil { // the first one may only be being written
			if err := l.commit(e.batch); err != nil {
				return Receipt{}, err
			}
		}
		return Receipt{Sequence: e.Sequence, Duplicate: true}, nil
	}
	if l.pending >= l.limits.pending || l.waiting+len(d.Body) > l.limits.waitingBytes && l.pending > 0 {
		l.mu.Unlock()
		return Receipt{}, ErrFull
	}

	e := &entry{digest: hex.EncodeToString(digest[:]), Entry: Entry{
		Sequence:   l.next,
		ID:         d.ID,
		Event:      d.Event,
		At:         d.At.UTC(),
		Secret:     d.Secret,
		SecretName: d.SecretName,
		Size:       len(d.Body),
	}}
	l.next++
	l.add(e)
	batch := l.batch()
	e.batch = batch
	appendRecord(&batch.records, record{
		Kind:     deliveryRecord,
		Sequence: e.Sequence,
		Delivery: &d,
		Size:     len(d.Body),
		Digest:   e.digest,
	}, d.Body)
	e.offset = int64(batch.records.Len() - len(d.Body) - 1)
	batch.entries = append(batch.entries, e)
	l.mu.Unlock()

	if err := l.commit(batch); err != nil {
		return Receipt{}, err
	}
	return Receipt{Sequence: e.Sequence}, nil
}

// batch is the batch being filled; mu is held.
func (l *Log) batch() *batch {
	if l.open == nil {
		l.open = &batch{done: make(chan struct{})}
	}
	return l.open
}

// longestPause bounds how long a delivery waits for others.
const longestPause = 50 * time.Millisecond

// pause is how long the next sync waits for more deliveries to join it; write is held. In a
// flood the disk is left to others three quarters of the time: their syncs wait for ours.
func (l *Log) pause(now time.Time) time.Duration {
	return max(0, min(3*l.took, longestPause)-now.Sub(l.synced))
}

// commit returns when w is on disk. Whoever comes first writes for all that
// have joined the batch by then, so that many deliveries share one sync.
func (l *Log) commit(w *batch) error {
	l.write.Lock()
	defer l.write.Unlock()
	select {
	case <-w.done:
		return w.err
	default:
	}

	l.mu.Lock()
	alone := len(w.entries) < 2
	l.mu.Unlock()
	if !alone {
		time.Sleep(l.pause(time.Now()))
	}
	l.mu.Lock()
	l.open = nil // w is what was open: batches are written in the order they were opened
	l.mu.Unlock()

	crash.Point("delivery.written")
	began := time.Now()
	at, err := l.append(w.records.Bytes())
	l.synced = time.Now()
	l.took = l.synced.Sub(began)
	crash.Point("delivery.synced")

	l.mu.Lock()
	defer l.mu.Unlock()
	w.err = err
	w.records = bytes.Buffer{} // its deliveries point at w for as long as they are kept
	close(w.done)
	if err != nil {
		l.forget(func(e *entry) bool { return e.batch == w })
		return err
	}
	for _, e := range w.entries {
		e.segment, e.offset = l.segment, at+e.offset
		if e.Outcome == Pending {
			e.segment.pending++
		}
	}
	w.entries = nil
	l.drop()
	return nil
}

// append writes records and syncs them; write is held. After an error the
// segment is left for good: what stands at its end is not known.
func (l *Log) append(records []byte) (at int64, err error) {
	if l.segment != nil && l.segment.size > l.limits.segment {
		l.segment = nil
	}
	if l.segment == nil {
		if l.segment, err = newSegment(l.segmentPath(l.nextSegment)); err != nil {
			return 0, fmt.Errorf("write a delivery: %w", err)
		}
		l.nextSegment++
		l.segments = append(l.segments, l.segment)
	}

	s := l.segment
	at = s.size
	n, err := s.file.Write(records)
	s.size += int64(n)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		l.segment = nil
		return 0, fmt.Errorf("write a delivery: %w", err)
	}
	return at, nil
}

// forget takes deliveries out of the index; mu is held.
func (l *Log) forget(gone func(*entry) bool) (n int) {
	l.order = slices.DeleteFunc(l.order, func(sequence int64) bool {
		e := l.entries[sequence]
		if !gone(e) {
			return false
		}
		if e.Outcome == Pending {
			l.countPending(e, -1)
		}
		delete(l.entries, e.Sequence)
		if l.byID[e.ID] == e.Sequence {
			delete(l.byID, e.ID)
		}
		n++
		return true
	})
	return n
}

// drop removes the oldest segments in which nothing is pending while more is
// kept than the bounds allow; write and mu are held.
func (l *Log) drop() {
	total := int64(0)
	for _, s := range l.segments {
		total += s.size
	}
	for len(l.segments) > 1 && (total > l.limits.kept || len(l.order) > l.limits.entries) {
		i := slices.IndexFunc(l.segments, func(s *segment) bool { return s != l.segment && s.pending == 0 })
		if i < 0 {
			return
		}
		s := l.segments[i]
		if os.Remove(s.path) != nil { // it stays, and is tried again
			return
		}
		s.file.Close()
		l.dropped += int64(l.forget(func(e *entry) bool { return e.segment == s }))
		l.segments = slices.Delete(l.segments, i, i+1)
		total -= s.size
	}
}

const maxDetail = 500

// Settle records what deliveries led to. Pending makes them be processed again;
// its detail says why they were not. It is durable when Settle returns, by one
// sync for all; a delivery that was settled just before a power cut may be
// pending again after it, which changes nothing. One that is not there any more
// is left out, and the error wraps os.ErrNotExist.
func (l *Log) Settle(o Outcome, detail string, sequences ...int64) error {
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "")
	}
	l.mu.Lock()
	var missing error
	var waits *batch
	for _, sequence := range sequences {
		e := l.entries[sequence]
		if e == nil || l.closed {
			missing = fmt.Errorf("delivery %d: %w", sequence, os.ErrNotExist)
			continue
		}
		l.setOutcome(e, o, detail)
		waits = l.batch()
		appendRecord(&waits.records, record{Kind: outcomeRecord, Sequence: sequence, Outcome: o, Detail: detail}, nil)
	}
	l.mu.Unlock()
	if waits == nil {
		return missing
	}
	if err := l.commit(waits); err != nil {
		return err
	}
	return missing
}

// Pending are the deliveries that wait to be processed, oldest first. Those
// that are not on disk yet are not among them.
func (l *Log) Pending() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []int64
	for _, sequence := range l.order {
		if e := l.entries[sequence]; e.Outcome == Pending && e.segment != nil {
			list = append(list, sequence)
		}
	}
	return list
}

// Read returns a delivery, with its body as it was signed. The error wraps
// os.ErrNotExist when it is not, or no longer, there.
func (l *Log) Read(sequence int64) (Delivery, error) {
	l.mu.Lock()
	defer l.mu.Unlock() // so that the segment is not dropped meanwhile
	e := l.entries[sequence]
	if e == nil || e.segment == nil || l.closed {
		return Delivery{}, fmt.Errorf("delivery %d: %w", sequence, os.ErrNotExist)
	}
	body := make([]byte, e.Size)
	if _, err := e.segment.file.ReadAt(body, e.offset); err != nil {
		return Delivery{}, fmt.Errorf("delivery %d: %w", sequence, err)
	}
	if digest := sha256.Sum256(body); hex.EncodeToString(digest[:]) != e.digest {
		return Delivery{}, fmt.Errorf("delivery %d: its body is damaged on disk", sequence)
	}
	return Delivery{
		ID:         e.ID,
		Event:      e.Event,
		At:         e.At,
		Secret:     e.Secret,
		SecretName: e.SecretName,
		Body:       body,
	}, nil
}

// List is the newest n deliveries, newest first.
func (l *Log) List(n int) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Entry
	for _, sequence := range slices.Backward(l.order) {
		if len(list) >= n {
			break
		}
		list = append(list, l.entries[sequence].Entry)
	}
	return list
}

// Stats counts.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Kept: len(l.order), Pending: l.pending, Dropped: l.dropped, Damaged: l.damaged}
}

// Close closes the log. What Put returned before is durable.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.file.Close())
	}
	l.segments, l.segment = nil, nil
	return errors.Join(errs...)
}
