// Package enrolment keeps the one-time tokens by which other machines become agents.
//
//   - A token is the seed of an SSH key. Who has it proves that, as with any key: the
//     token itself is never sent, and of what is kept nobody can make it again.
//   - Create makes one for a name and tags; Find is what a proven key was made for; Claim
//     binds it to the one key that the machine will have from then on, so that nobody
//     else can use it whatever happens next; Spend ends it.
//   - A Store is a directory with one file for each token, until it is spent or over.
//
// Who may make one, and what comes of it, is for others.
package enrolment

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// The life of a token, and how many there may be at once.
const (
	DefaultLife = time.Hour
	MaxLife     = 24 * time.Hour
	MinLife     = time.Minute
	maxTokens   = 100

	// Prefix is how every token begins: scanners of code and logs look for it.
	Prefix = "hgenrol_"
)

// Token is what is kept of one token.
type Token struct {
	ID   string            `json:"id"`
	Key  string            `json:"key"`            // SHA256 fingerprint of the key that the secret makes
	Name string            `json:"name,omitempty"` // of the agent; "": the machine says
	Tags map[string]string `json:"tags,omitempty"`
	// Repositories may deploy there; nil: all.
	Repositories []string  `json:"repositories,omitempty"`
	By           string    `json:"by"` // the user who has made it
	Created      time.Time `json:"created"`
	Expires      time.Time `json:"expires"`
	Claimed      string    `json:"claimed,omitempty"` // fingerprint of the only key that it is good for by now
}

// Store keeps tokens in a directory. It is safe for concurrent use.
type Store struct {
	dir string
	now func() time.Time

	mu     sync.Mutex       // guards the rest
	tokens map[string]Token // by Key
}

// ErrNone means that there is no such token: there never was, it is over, or it is spent.
var ErrNone = errors.New("this token is not good (any more)")

// Open opens the store in a directory, which is made if absent. Nothing else writes there.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, now: time.Now, tokens: map[string]Token{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open enrolments: %w", err)
	}
	paths, err := repo.Written(dir, true)
	if err != nil {
		return nil, fmt.Errorf("open enrolments: %w", err)
	}
	for _, path := range paths {
		t, err := read(path)
		if err != nil {
			return nil, err
		}
		s.tokens[t.Key] = t
	}
	return s, nil
}

// Damaged says which files of a store's directory do not hold the token that they are
// to hold. The store may be in use.
func Damaged(dir string) (found []error) {
	paths, err := repo.Written(dir, false)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []error{fmt.Errorf("read enrolments: %w", err)}
	}
	for _, path := range paths {
		if _, err := read(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			found = append(found, err)
		}
	}
	return found
}

func read(path string) (t Token, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err == nil && (t.ID+".json" != filepath.Base(path) || t.Key == "" || t.By == "") {
		err = errors.New("it does not hold the token of an enrolment")
	}
	if err != nil {
		err = fmt.Errorf("open enrolments: %s: %w\nhint: remove the file, and its token is good for nothing", path, err)
	}
	return t, err
}

// Request is what a machine is to be that a token is made for.
type Request struct {
	By           string // the user who makes it
	Name         string // of the agent; "": the machine says
	Tags         map[string]string
	Repositories []string      // that may deploy there; nil: all
	Life         time.Duration // 0: DefaultLife
}

// Create makes a token and returns its secret, which nobody can read again. It is kept
// when Create returns.
func (s *Store) Create(r Request) (secret string, t Token, err error) {
	life := cmp.Or(r.Life, DefaultLife)
	if life < MinLife || life > MaxLife {
		return "", t, Refusal("a token for an agent is good for 1 minute to 24 hours")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sweep(); err != nil {
		return "", t, err
	}
	if len(s.tokens) >= maxTokens {
		return "", t, Refusal(fmt.Sprintf(
			"%d machines have not used their tokens yet, and more may not be made; wait until some are over", len(s.tokens)))
	}
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails, says its documentation
	secret = Prefix + base64.RawURLEncoding.EncodeToString(seed)
	key, err := Key(secret)
	if err != nil {
		return "", t, err
	}
	id := make([]byte, 5)
	rand.Read(id)
	now := s.now().UTC().Truncate(time.Second)
	t = Token{
		ID:           hex.EncodeToString(id),
		Key:          ssh.FingerprintSHA256(key.PublicKey()),
		Name:         r.Name,
		Tags:         r.Tags,
		Repositories: r.Repositories,
		By:           r.By,
		Created:      now,
		Expires:      now.Add(life),
	}
	crash.Point("enrolment.making")
	if err := s.keep(t); err != nil {
		return "", t, err
	}
	crash.Point("enrolment.made")
	return secret, t, nil
}

// Refusal is why a token is not made, for whoever wanted it.
type Refusal string

func (r Refusal) Error() string { return string(r) }

// keep writes a token durably. It is called with mu held.
func (s *Store) keep(t Token) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := repo.WriteFile(s.path(t), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the token of an enrolment: %w", err)
	}
	s.tokens[t.Key] = t
	return nil
}

func (s *Store) path(t Token) string { return filepath.Join(s.dir, t.ID+".json") }

// sweep forgets what is over. It is called with mu held.
func (s *Store) sweep() error {
	for _, t := range s.tokens {
		if s.good(t) {
			continue
		}
		if err := s.drop(t); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) good(t Token) bool { return s.now().Before(t.Expires) }

func (s *Store) drop(t Token) error {
	delete(s.tokens, t.Key)
	if err := repo.RemoveFile(s.path(t)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the token of an enrolment: %w", err)
	}
	return nil
}

// Find finds the token whose key has been proven, by its fingerprint, if it is good now.
func (s *Store) Find(key string) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[key]
	return t, ok && s.good(t)
}

// Claim binds a token to the key that its machine has from now on, durably. The same key
// may claim it again; for any other one it is gone. The name holds if the token has none.
func (s *Store) Claim(key, agent, name string) (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[key]
	if !ok || !s.good(t) || t.Claimed != "" && t.Claimed != agent {
		return Token{}, ErrNone
	}
	if t.Claimed == agent {
		return t, nil
	}
	t.Claimed, t.Name = agent, cmp.Or(t.Name, name)
	crash.Point("enrolment.claiming")
	if err := s.keep(t); err != nil {
		return Token{}, err
	}
	crash.Point("enrolment.claimed")
	return t, nil
}

// Spend ends a token.
func (s *Store) Spend(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[key]
	if !ok {
		return nil
	}
	crash.Point("enrolment.spending")
	err := s.drop(t)
	crash.Point("enrolment.spent")
	return err
}

// All lists the tokens that are good, the oldest first.
func (s *Store) All() (all []Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if s.good(t) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b Token) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return all
}

// Key is the key that a secret makes, with which its machine comes the first time.
func Key(secret string) (ssh.Signer, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(secret), Prefix)
	seed, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		// It is not repeated: it may be a secret.
		return nil, fmt.Errorf("this is not a token for an agent, which begins with %s", Prefix)
	}
	return ssh.NewSignerFromSigner(ed25519.NewKeyFromSeed(seed))
}
