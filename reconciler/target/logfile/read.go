package logfile

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// logTime begins every line of a log. What follows it at once tells headgate's own
// lines from an instance's, whatever that prints.
const (
	logTime  = "2006-01-02T15:04:05.000Z"
	ofOutput = " "
	ofNote   = "! headgate: "
)

// position is how far a log has been read.
type position struct {
	file   os.FileInfo // the one that was read, which may bear another name by now
	offset int64
}

// Reader reads the logs of a directory, which are named "<unit>-<instance>.log". It holds
// no file open between two looks.
type Reader struct {
	dir    string
	query  target.LogQuery
	read   map[string]*position
	newest int // lines of what there is already; 0: all
}

// NewReader reads what a query asks for. The directory need not be there yet.
func NewReader(dir string, q target.LogQuery) *Reader {
	return &Reader{dir: dir, query: q, read: map[string]*position{}, newest: q.Lines}
}

// More reads what the logs have got since the last time, in the order of time; the first
// time the newest lines only.
func (r *Reader) More() ([]target.LogLine, error) {
	lines, err := r.more(r.newest)
	r.newest = 0
	return lines, err
}

func (r *Reader) more(newest int) ([]target.LogLine, error) {
	dir, q, read := r.dir, r.query, r.read
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing has run yet
	}
	if err != nil {
		return nil, err
	}
	var all []target.LogLine
	for _, e := range entries {
		instance, ok := strings.CutSuffix(e.Name(), ".log")
		if !ok {
			continue
		}
		unit := instance
		if i := strings.LastIndexByte(instance, '-'); i > 0 {
			unit = instance[:i]
		}
		if q.Unit != "" && q.Unit != unit {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if read[path] == nil {
			read[path] = &position{}
		}
		err := read[path].advance(path, func(line target.LogLine) {
			if line.Unit, line.Instance = unit, instance; !line.At.Before(q.Since) {
				all = append(all, line)
			}
		})
		if err != nil {
			return nil, err
		}
		all = last(all, newest)
	}
	return last(all, newest), nil
}

// last sorts lines by time, those of one log in their order, and keeps the newest n.
func last(lines []target.LogLine, n int) []target.LogLine {
	slices.SortStableFunc(lines, func(a, b target.LogLine) int { return a.At.Compare(b.At) })
	if n > 0 && len(lines) > n {
		lines = slices.Clone(lines[len(lines)-n:])
	}
	return lines
}

// advance reads what a log has got, also what of it has another name by now.
func (p *position) advance(path string, take func(target.LogLine)) error {
	current, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // pruned, or between two names: the next look finds it
	}
	if err != nil {
		return err
	}
	defer current.Close()
	info, err := current.Stat()
	if err != nil {
		return err
	}
	from := p.offset
	if p.file == nil || !os.SameFile(p.file, info) {
		if err := p.rest(path+".1", take); err != nil {
			return err
		}
		from = 0
	}
	n, err := readLines(current, from, take)
	p.file, p.offset = info, n
	return err
}

// rest reads the end of a log that has been replaced.
func (p *position) rest(path string, take func(target.LogLine)) error {
	old, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer old.Close()
	info, err := old.Stat()
	if err != nil {
		return err
	}
	from := int64(0)
	if p.file != nil && os.SameFile(p.file, info) {
		from = p.offset
	}
	_, err = readLines(old, from, take)
	return err
}

// readLines takes the whole lines behind an offset, and says where they end.
func readLines(f *os.File, from int64, take func(target.LogLine)) (end int64, err error) {
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return from, err
	}
	r := bufio.NewReaderSize(io.LimitReader(f, 2*maxLogBytes), 4*maxLogLine) // making it printable may double a line
	for end = from; ; {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return end, nil // half a line is there whole the next time
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return end, err
		}
		end += int64(len(line))
		if l, ok := parseLine(strings.TrimSuffix(string(line), "\n")); ok {
			take(l)
		}
	}
}

// parseLine reads a line as File writes it.
func parseLine(line string) (l target.LogLine, ok bool) {
	if len(line) < len(logTime) {
		return l, false
	}
	at, err := time.Parse(logTime, line[:len(logTime)])
	if err != nil {
		return l, false
	}
	l.At, line = at, line[len(logTime):]
	if text, own := strings.CutPrefix(line, ofNote); own {
		l.Own, l.Text = true, text
		return l, true
	}
	l.Text, ok = strings.CutPrefix(line, ofOutput)
	return l, ok
}
