// Package secret keeps what may not be in Git: webhook secrets, tokens of
// forges and registries, variables of builds and services. Each is one file in
// the data directory, encrypted with age to the server's own key.
//
// A Value prints as "[secret]" wherever it strays.
package secret

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// ErrNotFound is why there is no such secret.
var ErrNotFound = errors.New("there is no such secret")

// MaxValue bounds a secret, in bytes.
const MaxValue = 64 << 10

// Value is a secret's bytes.
type Value struct{ data []byte }

// NewValue is a copy of data as a Value.
func NewValue(data []byte) Value { return Value{bytes.Clone(data)} }

// Reveal returns the bytes, for the one place that must have them.
func (v Value) Reveal() []byte { return v.data }

func (Value) String() string   { return "[secret]" }
func (Value) GoString() string { return "[secret]" }

// Format prints "[secret]" for every verb.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalJSON refuses: a secret has no place in a document.
func (Value) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a secret is not written as JSON")
}

// ID names a secret: one of a repository, or one of the server, whose
// Repository is empty.
type ID struct {
	Repository string `json:"repository,omitempty"`
	Name       string `json:"secret"`
}

func (id ID) String() string {
	if id.Repository == "" {
		return id.Name
	}
	return id.Repository + ":" + id.Name
}

var namePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_./-]{0,99}$`)
})

// Check says what is wrong with a name.
func (id ID) Check() error {
	if !namePattern().MatchString(id.Name) {
		return fmt.Errorf("invalid name of a secret %q: use at most 100 letters, digits, and . _ / -", id.Name)
	}
	return nil
}

// Info is what may be shown of a secret.
type Info struct {
	ID
	By string    `json:"by"` // who set it last
	At time.Time `json:"at"`
}

// stored is what is encrypted. It holds its own name, so that one file cannot
// stand in for another.
type stored struct {
	Info
	Value []byte `json:"value"`
}

// Store is the secrets of a data directory. Its methods are safe for concurrent
// use; one process at a time may have it open.
type Store struct {
	dir string
	key *Key

	mu sync.Mutex // held while files change

	// opened are secrets that were read, as long as their files are what they were: opening
	// one takes longer than checking what it has signed.
	openedMu sync.Mutex
	opened   map[ID]openedSecret
}

type openedSecret struct {
	file  fs.FileInfo
	value Value
}

// maxOpened bounds how many are kept.
const maxOpened = 1000

// Open opens the secrets in dir with the key at keyPath. Both are made if
// neither is there; secrets without their key are an error, not a new beginning.
func Open(dir, keyPath string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	key, err := readKey(keyPath)
	if errors.Is(err, os.ErrNotExist) {
		return create(dir, keyPath)
	}
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	return &Store{dir: dir, key: key}, nil
}

func create(dir, keyPath string) (*Store, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	if len(files) > 0 {
		return nil, fmt.Errorf("open secrets: %s is missing, and %s holds secrets that only it opens: "+
			"restore the key from a backup, or remove them and set them again", keyPath, dir)
	}
	key, err := makeKey(keyPath)
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	return &Store{dir: dir, key: key}, nil
}

const extension = ".age"

// path is where a secret is kept: "name" or "repository:name", escaped.
func (s *Store) path(id ID) string {
	return filepath.Join(s.dir, url.QueryEscape(id.String())+extension)
}

// Set keeps a secret durably, instead of what was there.
func (s *Store) Set(id ID, v Value, by string, at time.Time) error {
	if err := id.Check(); err != nil {
		return err
	}
	switch n := len(v.data); {
	case n == 0:
		return errors.New("the secret is empty: give it on standard input")
	case n > MaxValue:
		return fmt.Errorf("the secret has %d bytes: at most %d are kept", n, MaxValue)
	}

	text, err := json.Marshal(stored{Info: Info{ID: id, By: by, At: at.UTC()}, Value: v.data})
	if err != nil {
		return fmt.Errorf("set secret %s: %w", id, err)
	}
	sealed, err := s.key.Seal(text)
	if err != nil {
		return fmt.Errorf("set secret %s: %w", id, err)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := repo.WriteFile(s.path(id), sealed, 0o600); err != nil {
		return fmt.Errorf("set secret %s: %w", id, err)
	}
	crash.Point("secret.set")
	return nil
}

// Get reads a secret, or returns ErrNotFound.
func (s *Store) Get(id ID) (Value, error) {
	file, statErr := os.Stat(s.path(id)) // before it is read: what changes meanwhile is read again
	if statErr == nil {
		s.openedMu.Lock()
		o, ok := s.opened[id]
		s.openedMu.Unlock()
		if ok && os.SameFile(o.file, file) && o.file.ModTime().Equal(file.ModTime()) && o.file.Size() == file.Size() {
			return o.value, nil
		}
	}
	kept, err := s.read(s.path(id))
	if err == nil && kept.ID != id {
		err = errors.New("its file holds another secret")
	}
	if err != nil {
		return Value{}, fmt.Errorf("secret %s: %w", id, err)
	}
	value := Value{kept.Value}
	if statErr == nil {
		s.openedMu.Lock()
		defer s.openedMu.Unlock()
		if s.opened == nil || len(s.opened) >= maxOpened {
			s.opened = map[ID]openedSecret{}
		}
		s.opened[id] = openedSecret{file, value}
	}
	return value, nil
}

// Revision names a value of a secret and tells nothing of it to whoever has not the
// store's key: of equal values it is the same, of others another.
func (s *Store) Revision(id ID, v Value) string {
	mac := hmac.New(sha256.New, []byte(s.key.identity.String()))
	fmt.Fprintf(mac, "%s\x00", id)
	mac.Write(v.data)
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

func (s *Store) read(path string) (stored, error) {
	sealed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return stored{}, ErrNotFound
	}
	if err != nil {
		return stored{}, err
	}
	text, err := s.key.Open(sealed, 4*MaxValue)
	if err != nil {
		return stored{}, fmt.Errorf("%s is damaged, or of another server: set it again", filepath.Base(path))
	}
	var kept stored
	if err := json.Unmarshal(text, &kept); err != nil {
		return stored{}, fmt.Errorf("%s is damaged: set it again", filepath.Base(path))
	}
	return kept, nil
}

// List is what may be shown of all secrets, by repository and name. One that is
// damaged is listed by what its file is called.
func (s *Store) List() ([]Info, error) {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	var list []Info
	for _, f := range files {
		escaped, ok := strings.CutSuffix(f.Name(), extension)
		if !ok {
			continue
		}
		kept, err := s.read(filepath.Join(s.dir, f.Name()))
		if errors.Is(err, ErrNotFound) { // removed meanwhile
			continue
		}
		if name, unescapeErr := url.QueryUnescape(escaped); err != nil && unescapeErr == nil {
			kept.Info = Info{ID: parseID(name)}
		}
		list = append(list, kept.Info)
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.String(), b.String()) })
	return list, nil
}

// parseID reads what ID.String wrote.
func parseID(s string) ID {
	if repository, name, ok := strings.Cut(s, ":"); ok {
		return ID{Repository: repository, Name: name}
	}
	return ID{Name: s}
}

// Remove removes a secret durably, or returns ErrNotFound.
func (s *Store) Remove(id ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := os.Remove(s.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("secret %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove secret %s: %w", id, err)
	}
	dir, err := os.Open(s.dir)
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("remove secret %s: %w", id, err)
	}
	return nil
}
