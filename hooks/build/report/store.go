package report

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Build is one build that came to an end, as far as its tests tell.
type Build struct {
	Log      string    `json:"log"` // its id
	Tree     string    `json:"tree"`
	Commit   string    `json:"commit"`
	Branch   string    `json:"branch"`
	Change   int       `json:"change,omitempty"`
	Schedule string    `json:"schedule,omitempty"` // that started it; Change is 0 then
	Ended    time.Time `json:"ended"`
	Green    bool      `json:"green"`
	Reports  []Report  `json:"reports"`
}

// What a Store keeps of one repository.
const (
	KeptFor   = 14 * 24 * time.Hour
	MaxBuilds = 200
)

// What builds write is bounded, so that whoever looks at all that is kept reads no more than
// maxRead at once, unpacked: the oldest are left out then.
const (
	maxStored  = 1 << 20 // bytes of the cases of one build
	maxMessage = 1000    // bytes of one that is kept
	maxRead    = 64 << 20
)

// Store keeps the reports of builds, for as long as they tell something about the next
// ones: a directory for each repository, a file for each build. It is safe for
// concurrent use. Everything in it may be deleted.
type Store struct{ Dir string }

// suffix of a build's file, whose name begins with when it ended, in milliseconds.
const suffix = ".json.gz"

// ErrNone is that nothing is kept of a build: it had no reports, or is too long ago.
var ErrNone = errors.New("no test reports")

// Keep keeps the reports of a build, if it has any, and drops the oldest ones.
func (s *Store) Keep(repository string, b Build) error {
	if !slices.ContainsFunc(b.Reports, func(r Report) bool { return r.Total > 0 || r.Coverage != nil }) {
		return nil
	}
	if !fs.ValidPath(b.Log) || strings.ContainsRune(b.Log, '/') {
		return fmt.Errorf("keep test reports: %q is not a log id", b.Log)
	}
	b.Reports = bounded(b.Reports)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if err := errors.Join(json.NewEncoder(z).Encode(b), z.Close()); err != nil {
		return fmt.Errorf("keep test reports of %s: %w", b.Log, err)
	}
	dir := filepath.Join(s.Dir, repository)
	if err := repo.MakeDir(dir, 0o700); err != nil {
		return fmt.Errorf("keep test reports of %s: %w", b.Log, err)
	}
	name := fmt.Sprintf("%d-%s%s", b.Ended.UnixMilli(), b.Log, suffix)
	if err := repo.WriteFile(filepath.Join(dir, name), packed.Bytes(), 0o600); err != nil {
		return fmt.Errorf("keep test reports of %s: %w", b.Log, err)
	}
	return s.drop(repository, b.Ended)
}

// bounded are reports as they are kept: what failed before what did not, as long as there is
// room. A batch may have hundreds of them.
func bounded(all []Report) []Report {
	kept := slices.Clone(all)
	for i := range kept {
		kept[i].Cases = nil
	}
	room := maxStored
	for _, failed := range []bool{true, false} {
		for i, rep := range all {
			for _, c := range rep.Cases {
				if c.failed() != failed {
					continue
				}
				c.Message = strings.ToValidUTF8(c.Message[:min(len(c.Message), maxMessage)], "")
				if room -= len(c.Suite) + len(c.Name) + len(c.Message) + 100; room < 0 {
					return kept
				}
				kept[i].Cases = append(kept[i].Cases, c)
			}
		}
	}
	return kept
}

// drop removes what is too old or too much.
func (s *Store) drop(repository string, now time.Time) error {
	files, err := s.files(repository)
	if err != nil {
		return err
	}
	for i, f := range files {
		if i < MaxBuilds && now.Sub(f.ended) <= KeptFor {
			continue
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop old test reports: %w", err)
		}
	}
	return nil
}

// Newest yields the builds of a repository, the newest first, at most n of them. A file
// that cannot be read is left out: another build's tests say as much.
func (s *Store) Newest(repository string, n int) ([]Build, error) {
	files, err := s.files(repository)
	if err != nil {
		return nil, err
	}
	var builds []Build
	left := int64(maxRead)
	for _, f := range files[:min(n, len(files))] {
		b, size, err := read(f.path, left)
		if left -= size; left <= 0 {
			break
		}
		if err == nil {
			builds = append(builds, b)
		}
	}
	return builds, nil
}

// Of is one build, by the id of its log. ErrNone says that nothing is kept of it.
func (s *Store) Of(repository, log string) (Build, error) {
	files, err := s.files(repository)
	if err != nil {
		return Build{}, err
	}
	for _, f := range files {
		if f.log == log {
			b, _, err := read(f.path, maxRead)
			return b, err
		}
	}
	return Build{}, ErrNone
}

type file struct {
	path, log string
	ended     time.Time
}

// files are those of a repository, the newest first.
func (s *Store) files(repository string) ([]file, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, repository))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read test reports: %w", err)
	}
	var files []file
	for _, e := range entries {
		name, ours := strings.CutSuffix(e.Name(), suffix)
		at, log, named := strings.Cut(name, "-")
		ms, err := strconv.ParseInt(at, 10, 64)
		if !ours || !named || err != nil {
			continue // half-written, or nobody's
		}
		files = append(files, file{filepath.Join(s.Dir, repository, e.Name()), log, time.UnixMilli(ms)})
	}
	slices.SortStableFunc(files, func(a, b file) int { return b.ended.Compare(a.ended) })
	return files, nil
}

// read reads a build, and says how many bytes it is, unpacked: at most limit.
func read(path string, limit int64) (b Build, size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, 0, ErrNone // dropped meanwhile
	}
	if err != nil {
		return b, 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return b, 0, fmt.Errorf("%s: %w", path, err)
	}
	in := &io.LimitedReader{R: z, N: limit}
	if err = json.NewDecoder(in).Decode(&b); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return b, limit - in.N, err
}
