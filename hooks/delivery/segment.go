package delivery

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

type segment struct {
	path    string
	file    *os.File // for reading and, the last one, appending
	size    int64
	pending int // deliveries in it; guarded by Log.mu
}

// batch is what one write and one sync make durable.
type batch struct {
	records bytes.Buffer
	entries []*entry
	done    chan struct{}
	err     error // once done is closed
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

// Limits of what a delivery says of itself.
const (
	deliveryRecord recordKind = "delivery"
	outcomeRecord  recordKind = "outcome"
)

const maxRecordLine = 64 << 10

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
		panic(fmt.Sprintf("write a record of a delivery: %v", err)) // strings, numbers and a time always can be
	}
	fmt.Fprintf(out, "%s %s\n", checksum(text), text)
	if r.Kind == deliveryRecord {
		out.Write(body)
		out.WriteByte('\n')
	}
}
