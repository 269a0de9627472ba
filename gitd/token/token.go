// Package token keeps the tokens by which people and programs come over HTTP: made
// for a user, narrowed to repositories and to reading or writing, good for a time.
//
//   - A Store is a directory with one file for each token. What is kept of a secret
//     is its SHA-256: it is shown once, when it is made, and cannot be shown again.
//   - Create, Of, All and Revoke are what people do; Find is who comes with a secret;
//     Retain forgets the tokens of users who are gone.
//   - Run writes when each was last used, every now and then: a clone costs no write.
//
// A token gives no right. What its user may do is asked of gitd/access, afresh each
// time, with the token's scope on top.
package token

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// The life of a token.
const (
	DefaultLife = 90 * 24 * time.Hour
	MaxLife     = 365 * 24 * time.Hour
	MinLife     = time.Minute
)

const (
	// Prefix is how every token begins: scanners of code and logs look for it.
	Prefix = "hg_"

	digits   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	random   = 30 // digits, of 5.95 bits each
	checksum = 6

	maxEach         = 50 // tokens of one user that are good
	maxName         = 64
	maxRepositories = 100
	shownFor        = 30 * 24 * time.Hour // expired ones stay in lists
	writeUsed       = time.Minute         // how often last uses are written
	usedFile        = "used.json"
)

// Token is what is kept of one token.
type Token struct {
	ID           string    `json:"id"` // the beginning of the digest, which tells nothing of the secret
	User         string    `json:"user"`
	Name         string    `json:"name"`
	Repositories []string  `json:"repositories,omitempty"` // nil: all of the user's
	Write        bool      `json:"write,omitempty"`
	Approve      bool      `json:"approve,omitempty"` // and write
	Created      time.Time `json:"created"`
	Expires      time.Time `json:"expires"`
	Digest       string    `json:"digest"` // SHA-256 of the secret, in hexadecimal

	Used time.Time `json:"-"` // last, to about a minute after a crash; zero: never
}

// Scope is what the token leaves of its user's rights.
func (t Token) Scope() access.Scope {
	scope := access.Scope{Repositories: t.Repositories, Highest: access.Read, Until: t.Expires}
	switch {
	case t.Approve:
		scope.Highest = access.Approve
	case t.Write:
		scope.Highest = access.Write
	}
	return scope
}

// Store keeps tokens in a directory. It is safe for concurrent use.
type Store struct {
	dir string
	now func() time.Time

	mu      sync.Mutex       // guards the rest
	tokens  map[string]Token // by digest, which is looked up: its time says nothing of other secrets
	written bool             // no use is newer than usedFile
}

// ErrNone means that there is no such token, or not of this user.
var ErrNone = errors.New("no such token")

// Open opens the store in a directory, which is made if absent. Nothing else
// writes there.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, now: time.Now, tokens: map[string]Token{}, written: true}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	paths, err := repo.Written(dir, true)
	if err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	for _, path := range paths {
		if filepath.Base(path) == usedFile {
			continue
		}
		t, err := read(path)
		if err != nil {
			return nil, err
		}
		s.tokens[t.Digest] = t
	}
	return s, s.readUsed()
}

// Damaged says which files of a store's directory do not hold the token that they are
// to hold. The store may be in use.
func Damaged(dir string) (found []error) {
	paths, err := repo.Written(dir, false)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []error{fmt.Errorf("read tokens: %w", err)}
	}
	for _, path := range paths {
		if filepath.Base(path) == usedFile {
			continue
		}
		if _, err := read(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			found = append(found, err)
		}
	}
	return found
}

func read(path string) (t Token, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return t, err
	}
	err = json.Unmarshal(data, &t)
	if digest, bad := hex.DecodeString(t.Digest); err == nil && (bad != nil || len(digest) != sha256.Size ||
		filepath.Base(path) != t.ID+".json" || !strings.HasPrefix(t.Digest, t.ID) || t.User == "") {
		err = errors.New("a part is missing, or another's")
	}
	if err != nil {
		return t, fmt.Errorf("%s does not hold a token: %w\nhint: remove the file, and its token is revoked", path, err)
	}
	return t, nil
}

// readUsed reads when tokens were last used. That is a help for people; a file
// that was damaged is as good as none.
func (s *Store) readUsed() error {
	data, err := os.ReadFile(filepath.Join(s.dir, usedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open tokens: %w", err)
	}
	var used map[string]time.Time
	_ = json.Unmarshal(data, &used) // see above
	for digest, t := range s.tokens {
		t.Used = used[t.ID]
		s.tokens[digest] = t
	}
	return nil
}

// Request is what somebody wants a token to be.
type Request struct {
	User         string
	Name         string   // what the user calls it
	Repositories []string // nil: all of the user's
	Write        bool
	Approve      bool          // and write
	Life         time.Duration // 0: DefaultLife
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]*$`)

// Create makes a token and returns its secret, which nobody can read again. It is
// kept when Create returns. An error that is a Refusal is for the user.
func (s *Store) Create(r Request) (secret string, t Token, err error) {
	life := cmp.Or(r.Life, DefaultLife)
	switch {
	case life < MinLife || life > MaxLife:
		return "", t, Refusal("a token is good for 1 minute to 365 days")
	case len(r.Name) > maxName || !nameForm.MatchString(r.Name):
		return "", t, Refusal(fmt.Sprintf("%q is not a name for a token: use 1 to %d letters, digits, '.', '_', '@' and '-'",
			r.Name, maxName))
	case len(r.Repositories) > maxRepositories:
		return "", t, Refusal(fmt.Sprintf("a token is for at most %d repositories, or for all", maxRepositories))
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().UTC()
	if err := s.dropLocked(func(t Token) bool { return now.Sub(t.Expires) >= shownFor }); err != nil {
		return "", t, err
	}
	count := 0
	for _, other := range s.tokens {
		if other.User == r.User && now.Before(other.Expires) {
			count++
		}
	}
	if count >= maxEach {
		return "", t, Refusal(fmt.Sprintf("you have %d tokens, and nobody may have more: revoke one", count))
	}

	for t.ID == "" || s.takenLocked(t.ID) {
		secret = newSecret()
		digest := sha256.Sum256([]byte(secret))
		t.Digest = hex.EncodeToString(digest[:])
		t.ID = t.Digest[:10]
	}
	t.User, t.Name, t.Repositories, t.Write, t.Approve = r.User, r.Name, r.Repositories, r.Write || r.Approve, r.Approve
	t.Created = now.Truncate(time.Second)
	t.Expires = t.Created.Add(life)
	data, err := json.Marshal(t)
	if err != nil {
		return "", t, err
	}
	crash.Point("token.making")
	if err := repo.WriteFile(s.path(t), append(data, '\n'), 0o600); err != nil {
		return "", t, fmt.Errorf("keep a token: %w", err)
	}
	crash.Point("token.made")
	s.tokens[t.Digest] = t
	return secret, t, nil
}

// Refusal is why a token is not made, for whoever wanted it.
type Refusal string

func (r Refusal) Error() string { return string(r) }

func (s *Store) path(t Token) string { return filepath.Join(s.dir, t.ID+".json") }

func (s *Store) takenLocked(id string) bool {
	for _, t := range s.tokens {
		if t.ID == id {
			return true
		}
	}
	return false
}

// Of lists a user's tokens, the newest first; those of all users for "".
func (s *Store) Of(user string) []Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Token
	for _, t := range s.tokens {
		if (user == "" || t.User == user) && s.now().Sub(t.Expires) < shownFor {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b Token) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Revoke ends a token of a user, of any user for "". ErrNone means that there is
// none.
func (s *Store) Revoke(user, id string) (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.ID == id && (user == "" || t.User == user) {
			return t, s.dropLocked(func(other Token) bool { return other.ID == id })
		}
	}
	return Token{}, ErrNone
}

// Retain revokes the tokens of users who are not known any more: who is given the
// same name later is somebody else.
func (s *Store) Retain(known func(user string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropLocked(func(t Token) bool { return !known(t.User) })
}

// dropLocked removes tokens durably. One whose file cannot be removed is good for
// nothing until the server starts again.
func (s *Store) dropLocked(which func(Token) bool) error {
	for digest, t := range s.tokens {
		if !which(t) {
			continue
		}
		delete(s.tokens, digest)
		crash.Point("token.revoking")
		if err := repo.RemoveFile(s.path(t)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("revoke token %s: %w", t.ID, err)
		}
		crash.Point("token.revoked")
	}
	return nil
}

// Find finds the token of a secret, if it is good now, and notes that it was used.
func (s *Store) Find(secret string) (Token, bool) {
	if !wellFormed(secret) {
		return Token{}, false
	}
	sum := sha256.Sum256([]byte(secret))
	digest := hex.EncodeToString(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	t, ok := s.tokens[digest]
	if !ok || subtle.ConstantTimeCompare([]byte(t.Digest), []byte(digest)) != 1 || !now.Before(t.Expires) {
		return Token{}, false
	}
	t.Used = now.UTC().Truncate(time.Second)
	s.tokens[digest] = t
	s.written = false
	return t, true
}

// Run writes last uses until ctx is done, and once more then.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(writeUsed)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.writeUsed()
		case <-tick.C:
			// A full disk must not end the server for what only helps people; it is
			// tried again at the next tick.
			_ = s.writeUsed()
		}
	}
}

func (s *Store) writeUsed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written {
		return nil
	}
	used := map[string]time.Time{}
	for _, t := range s.tokens {
		if !t.Used.IsZero() {
			used[t.ID] = t.Used
		}
	}
	data, err := json.Marshal(used)
	if err != nil {
		return err
	}
	if err := repo.WriteFile(filepath.Join(s.dir, usedFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write when tokens were used: %w", err)
	}
	s.written = true
	return nil
}

// newSecret is Prefix, random digits, and a checksum by which a scanner tells a
// token from a word that looks like one.
func newSecret() string {
	secret := []byte(Prefix)
	for len(secret) < len(Prefix)+random {
		var b [1]byte
		rand.Read(b[:])                                      // never fails, says its documentation
		if n := int(b[0]); n < 256/len(digits)*len(digits) { // so that all digits are equally likely
			secret = append(secret, digits[n%len(digits)])
		}
	}
	return string(secret) + sum(string(secret))
}

// sum is the checksum of a secret without it.
func sum(s string) string {
	n := crc32.ChecksumIEEE([]byte(s))
	var b [checksum]byte
	for i := range b {
		b[len(b)-1-i] = digits[n%uint32(len(digits))]
		n /= uint32(len(digits))
	}
	return string(b[:])
}

// wellFormed reports whether a secret can be one of ours.
func wellFormed(secret string) bool {
	return len(secret) == len(Prefix)+random+checksum && strings.HasPrefix(secret, Prefix) &&
		sum(secret[:len(Prefix)+random]) == secret[len(Prefix)+random:]
}
