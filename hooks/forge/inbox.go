package forge

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
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

// ErrInboxFull is why a delivery was not taken: what is waiting to be processed
// has reached the inbox's bounds. The sender should come again later.
var ErrInboxFull = errors.New("too many deliveries wait to be processed")

// Delivery is one webhook as it came, its signature proven.
type Delivery struct {
	ID     string    `json:"id"`    // the forge's; equal IDs are one delivery
	Event  string    `json:"event"` // the forge's name for it: "push", "Merge Request Hook"
	At     time.Time `json:"at"`
	Secret int       `json:"secret"` // index of the secret that proved it
	Body   []byte    `json:"-"`
}

// Outcome is what a delivery led to.
type Outcome string

const (
	Pending Outcome = ""        // not processed yet
	Applied Outcome = "applied" // its keys were put on the queue
	Ignored Outcome = "ignored" // nothing in it concerns Headgate; Detail says why
	Failed  Outcome = "failed"  // it could not be read; Detail says why
)

// Entry is what the inbox says of a delivery.
type Entry struct {
	Sequence   int64     `json:"sequence"` // from 1, of this inbox
	ID         string    `json:"id"`
	Event      string    `json:"event"`
	At         time.Time `json:"at"`
	Secret     int       `json:"secret"`
	Size       int       `json:"size"` // bytes of the body
	Outcome    Outcome   `json:"outcome"`
	Detail     string    `json:"detail,omitempty"`
	Duplicates int       `json:"duplicates,omitempty"` // how often it came again since the start
}

// Receipt is what Put says of a delivery.
type Receipt struct {
	Sequence  int64
	Duplicate bool // it was there already
}

// inboxLimits bound what an inbox keeps for showing, and how much may wait.
type inboxLimits struct {
	segment      int64 // bytes of a segment before the next one begins
	kept         int64 // bytes of all segments before processed ones are dropped
	entries      int   // likewise
	waitingBytes int   // of pending bodies
	pending      int
}

var defaultInboxLimits = inboxLimits{
	segment:      16 << 20,
	kept:         128 << 20,
	entries:      20_000,
	waitingBytes: 256 << 20,
	pending:      50_000,
}

// Inbox keeps one connection's deliveries on disk, in the order they came. All
// methods are safe for concurrent use; one process at a time may have it open.
//
// The directory holds segments, "<number>.log", that are only ever appended to
// and dropped whole. A record is one line, a checksum and
// JSON, behind a delivery's by the bytes of its body. A record that is torn or
// damaged ends its segment: what stands behind it is lost and counted, which is
// no worse than a webhook that never came.
type Inbox struct {
	dir    string
	limits inboxLimits

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
}

type entry struct {
	Entry
	batch   *batch   // that makes it durable; nil when it was read from disk
	segment *segment // nil until written
	offset  int64    // of the body, in its batch until written
	digest  string
}

type segment struct {
	path    string
	file    *os.File // for reading and, the last one, appending
	size    int64
	pending int // deliveries in it; guarded by Inbox.mu
}

// batch is what one write and one sync make durable.
type batch struct {
	records bytes.Buffer
	entries []*entry
	done    chan struct{}
	err     error // once done is closed
}

// record is the JSON of one line.
type record struct {
	Kind     recordKind `json:"kind"`
	Sequence int64      `json:"sequence"`
	*Delivery
	Size    int     `json:"size,omitempty"`
	Digest  string  `json:"digest,omitempty"` // SHA-256 of the body
	Outcome Outcome `json:"outcome,omitempty"`
	Detail  string  `json:"detail,omitempty"`
}

type recordKind string

const (
	deliveryRecord recordKind = "delivery"
	outcomeRecord  recordKind = "outcome"
)

const maxRecordLine = 64 << 10

// OpenInbox opens the inbox in dir, which is made if it is missing.
func OpenInbox(dir string) (*Inbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open inbox: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open inbox: %w", err)
	}

	b := &Inbox{
		dir:         dir,
		limits:      defaultInboxLimits,
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
		if err := b.load(n); err != nil {
			b.Close()
			return nil, fmt.Errorf("open inbox: %w", err)
		}
		b.nextSegment = n + 1
	}
	return b, nil // appending begins a new segment: what is there is never written again
}

func (b *Inbox) segmentPath(n int64) string {
	return filepath.Join(b.dir, fmt.Sprintf("%012d.log", n))
}

// load reads a segment.
func (b *Inbox) load(n int64) error {
	f, err := os.Open(b.segmentPath(n))
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	s := &segment{path: f.Name(), file: f, size: info.Size()}
	b.segments = append(b.segments, s)

	in, at := bufio.NewReaderSize(f, maxRecordLine), int64(0)
	for {
		r, n, err := readRecord(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			b.damaged += s.size - at
			return nil
		}
		at += n
		b.next = max(b.next, r.Sequence+1)

		switch r.Kind {
		case deliveryRecord:
			e := &entry{segment: s, offset: at, digest: r.Digest, Entry: Entry{
				Sequence: r.Sequence,
				ID:       r.ID,
				Event:    r.Event,
				At:       r.At,
				Secret:   r.Secret,
				Size:     r.Size,
			}}
			if _, err := in.Discard(r.Size + 1); err != nil {
				b.damaged += s.size - at
				return nil
			}
			at += int64(r.Size) + 1
			b.add(e)
		case outcomeRecord:
			if e := b.entries[r.Sequence]; e != nil {
				b.setOutcome(e, r.Outcome, r.Detail)
			}
		}
	}
}

// readRecord reads a record's line; a delivery's body comes behind it.
func readRecord(in *bufio.Reader) (r record, n int64, err error) {
	line, err := in.ReadSlice('\n')
	if err == io.EOF && len(line) == 0 {
		return r, 0, io.EOF
	}
	if err != nil {
		return r, 0, fmt.Errorf("torn record: %w", err)
	}
	check, text, ok := bytes.Cut(line[:len(line)-1], []byte(" "))
	if !ok || string(check) != checksum(text) {
		return r, 0, errors.New("damaged record")
	}
	r.Delivery = &Delivery{}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, 0, fmt.Errorf("damaged record: %w", err)
	}
	if r.Sequence < 1 || r.Size < 0 || r.Kind != deliveryRecord && r.Size > 0 {
		return r, 0, errors.New("damaged record")
	}
	return r, int64(len(line)), nil
}

func checksum(text []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)))
}

func appendRecord(out *bytes.Buffer, r record, body []byte) {
	text, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("write a record of the inbox: %v", err)) // strings, numbers and a time always can be
	}
	fmt.Fprintf(out, "%s %s\n", checksum(text), text)
	if r.Kind == deliveryRecord {
		out.Write(body)
		out.WriteByte('\n')
	}
}

// add takes a delivery into the index; mu is held, or nobody else has b yet.
func (b *Inbox) add(e *entry) {
	b.entries[e.Sequence] = e
	b.order = append(b.order, e.Sequence)
	b.byID[e.ID] = e.Sequence
	b.countPending(e, 1)
}

// countPending counts a delivery in (1) or out (-1) of what is pending.
func (b *Inbox) countPending(e *entry, by int) {
	b.pending += by
	b.waiting += by * e.Size
	if e.segment != nil {
		e.segment.pending += by
	}
}

func (b *Inbox) setOutcome(e *entry, o Outcome, detail string) {
	if e.Outcome == Pending {
		b.countPending(e, -1)
	}
	e.Outcome, e.Detail = o, detail
	if e.Outcome == Pending {
		b.countPending(e, 1)
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
// It returns ErrInboxFull when too much waits to be processed.
func (b *Inbox) Put(d Delivery) (Receipt, error) {
	digest := sha256.Sum256(d.Body)
	named := d.ID != "" && len(d.ID) <= maxID
	if !named {
		d.ID = "sha256:" + hex.EncodeToString(digest[:])
	}
	if len(d.Event) > maxEvent {
		d.Event = d.Event[:maxEvent]
	}

	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return Receipt{}, os.ErrClosed
	}
	if e := b.entries[b.byID[d.ID]]; e != nil && (named || e.Outcome == Pending) {
		e.Duplicates++
		b.mu.Unlock()
		if e.batch != nil { // the first one may only be being written
			if err := b.commit(e.batch); err != nil {
				return Receipt{}, err
			}
		}
		return Receipt{Sequence: e.Sequence, Duplicate: true}, nil
	}
	if b.pending >= b.limits.pending || b.waiting+len(d.Body) > b.limits.waitingBytes && b.pending > 0 {
		b.mu.Unlock()
		return Receipt{}, ErrInboxFull
	}

	e := &entry{digest: hex.EncodeToString(digest[:]), Entry: Entry{
		Sequence: b.next,
		ID:       d.ID,
		Event:    d.Event,
		At:       d.At.UTC(),
		Secret:   d.Secret,
		Size:     len(d.Body),
	}}
	b.next++
	b.add(e)
	batch := b.batch()
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
	b.mu.Unlock()

	if err := b.commit(batch); err != nil {
		return Receipt{}, err
	}
	return Receipt{Sequence: e.Sequence}, nil
}

// batch is the batch being filled; mu is held.
func (b *Inbox) batch() *batch {
	if b.open == nil {
		b.open = &batch{done: make(chan struct{})}
	}
	return b.open
}

// commit returns when w is on disk. Whoever comes first writes for all that
// have joined the batch by then, so that many deliveries share one sync.
func (b *Inbox) commit(w *batch) error {
	b.write.Lock()
	defer b.write.Unlock()
	select {
	case <-w.done:
		return w.err
	default:
	}

	b.mu.Lock()
	b.open = nil // w is what was open: batches are written in the order they were opened
	b.mu.Unlock()

	crash.Point("inbox.received")
	at, err := b.append(w.records.Bytes())
	crash.Point("inbox.synced")

	b.mu.Lock()
	defer b.mu.Unlock()
	w.err = err
	w.records = bytes.Buffer{} // its deliveries point at w for as long as they are kept
	close(w.done)
	if err != nil {
		b.forget(func(e *entry) bool { return e.batch == w })
		return err
	}
	for _, e := range w.entries {
		e.segment, e.offset = b.segment, at+e.offset
		if e.Outcome == Pending {
			e.segment.pending++
		}
	}
	w.entries = nil
	b.drop()
	return nil
}

// append writes records and syncs them; write is held. After an error the
// segment is left for good: what stands at its end is not known.
func (b *Inbox) append(records []byte) (at int64, err error) {
	if b.segment != nil && b.segment.size > b.limits.segment {
		b.segment = nil
	}
	if b.segment == nil {
		if b.segment, err = newSegment(b.segmentPath(b.nextSegment)); err != nil {
			return 0, fmt.Errorf("write to the inbox: %w", err)
		}
		b.nextSegment++
		b.segments = append(b.segments, b.segment)
	}

	s := b.segment
	at = s.size
	n, err := s.file.Write(records)
	s.size += int64(n)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		b.segment = nil
		return 0, fmt.Errorf("write to the inbox: %w", err)
	}
	return at, nil
}

func newSegment(path string) (*segment, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &segment{path: path, file: f}, nil
}

// forget takes deliveries out of the index; mu is held.
func (b *Inbox) forget(gone func(*entry) bool) (n int) {
	b.order = slices.DeleteFunc(b.order, func(sequence int64) bool {
		e := b.entries[sequence]
		if !gone(e) {
			return false
		}
		if e.Outcome == Pending {
			b.countPending(e, -1)
		}
		delete(b.entries, e.Sequence)
		if b.byID[e.ID] == e.Sequence {
			delete(b.byID, e.ID)
		}
		n++
		return true
	})
	return n
}

// drop removes the oldest segments in which nothing is pending while more is
// kept than the bounds allow; write and mu are held.
func (b *Inbox) drop() {
	total := int64(0)
	for _, s := range b.segments {
		total += s.size
	}
	for len(b.segments) > 1 && (total > b.limits.kept || len(b.order) > b.limits.entries) {
		i := slices.IndexFunc(b.segments, func(s *segment) bool { return s != b.segment && s.pending == 0 })
		if i < 0 {
			return
		}
		s := b.segments[i]
		if os.Remove(s.path) != nil { // it stays, and is tried again
			return
		}
		s.file.Close()
		b.dropped += int64(b.forget(func(e *entry) bool { return e.segment == s }))
		b.segments = slices.Delete(b.segments, i, i+1)
		total -= s.size
	}
}

const maxDetail = 500

// Settle records what deliveries led to. Pending makes them be processed again;
// its detail says why they were not. It is durable when Settle returns, by one
// sync for all; a delivery that was settled just before a power cut may be
// pending again after it, which changes nothing. One that is not there any more
// is left out, and the error wraps os.ErrNotExist.
func (b *Inbox) Settle(o Outcome, detail string, sequences ...int64) error {
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "")
	}
	b.mu.Lock()
	var missing error
	var waits *batch
	for _, sequence := range sequences {
		e := b.entries[sequence]
		if e == nil || b.closed {
			missing = fmt.Errorf("delivery %d: %w", sequence, os.ErrNotExist)
			continue
		}
		b.setOutcome(e, o, detail)
		waits = b.batch()
		appendRecord(&waits.records, record{Kind: outcomeRecord, Sequence: sequence, Outcome: o, Detail: detail}, nil)
	}
	b.mu.Unlock()
	if waits == nil {
		return missing
	}
	if err := b.commit(waits); err != nil {
		return err
	}
	return missing
}

// Pending are the deliveries that wait to be processed, oldest first. Those
// that are not on disk yet are not among them.
func (b *Inbox) Pending() []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []int64
	for _, sequence := range b.order {
		if e := b.entries[sequence]; e.Outcome == Pending && e.segment != nil {
			list = append(list, sequence)
		}
	}
	return list
}

// Read returns a delivery, with its body as it was signed. The error wraps
// os.ErrNotExist when it is not, or no longer, there.
func (b *Inbox) Read(sequence int64) (Delivery, error) {
	b.mu.Lock()
	defer b.mu.Unlock() // so that the segment is not dropped meanwhile
	e := b.entries[sequence]
	if e == nil || e.segment == nil || b.closed {
		return Delivery{}, fmt.Errorf("delivery %d: %w", sequence, os.ErrNotExist)
	}
	body := make([]byte, e.Size)
	if _, err := e.segment.file.ReadAt(body, e.offset); err != nil {
		return Delivery{}, fmt.Errorf("delivery %d: %w", sequence, err)
	}
	if digest := sha256.Sum256(body); hex.EncodeToString(digest[:]) != e.digest {
		return Delivery{}, fmt.Errorf("delivery %d: its body is damaged on disk", sequence)
	}
	return Delivery{ID: e.ID, Event: e.Event, At: e.At, Secret: e.Secret, Body: body}, nil
}

// List is the newest n deliveries, newest first.
func (b *Inbox) List(n int) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Entry
	for _, sequence := range slices.Backward(b.order) {
		if len(list) >= n {
			break
		}
		list = append(list, b.entries[sequence].Entry)
	}
	return list
}

// Stats are an inbox's counts.
type Stats struct {
	Kept    int   `json:"kept"`
	Pending int   `json:"pending"`
	Dropped int64 `json:"dropped"`       // processed ones, since the start
	Damaged int64 `json:"damaged_bytes"` // that could not be read at the start
}

// Stats counts.
func (b *Inbox) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{Kept: len(b.order), Pending: b.pending, Dropped: b.dropped, Damaged: b.damaged}
}

// Close closes the inbox. What Put returned before is durable.
func (b *Inbox) Close() error {
	b.write.Lock()
	defer b.write.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	var errs []error
	for _, s := range b.segments {
		errs = append(errs, s.file.Close())
	}
	b.segments, b.segment = nil, nil
	return errors.Join(errs...)
}
