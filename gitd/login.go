package gitd

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"sync"
	"time"
)

// Logins keeps the one-time codes that `ssh host login` prints and the console
// redeems. The zero Logins is ready; it is safe for concurrent use. Codes live
// in memory only: a restart forgets them.
type Logins struct {
	mu    sync.Mutex // guards the rest
	codes map[[32]byte]loginCode
	now   func() time.Time // for tests; nil: time.Now
}

type loginCode struct {
	user  string
	until time.Time
}

const (
	codeLife   = 2 * time.Minute
	codeChars  = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's: no I, L, O, U
	codeLength = 10                                 // of 5 bits each
	codesEach  = 5
	codesAll   = 1000
)

func (l *Logins) clock() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}

// New makes a code for user: good once, for two minutes. The oldest code gives
// way when the user, or everybody, has too many.
func (l *Logins) New(user string) string {
	random := make([]byte, codeLength)
	rand.Read(random) // never fails, says its documentation
	letters := make([]byte, 0, codeLength+1)
	for i, b := range random {
		if i == codeLength/2 {
			letters = append(letters, '-')
		}
		letters = append(letters, codeChars[b%32])
	}
	code := string(letters)

	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	if l.codes == nil {
		l.codes = map[[32]byte]loginCode{}
	}
	l.sweep(now)
	l.drop(codesEach-1, func(c loginCode) bool { return c.user == user })
	l.drop(codesAll-1, func(loginCode) bool { return true })
	l.codes[digest(code)] = loginCode{user, now.Add(codeLife)}
	return code
}

// Redeem tells whose code it is, once. Case, spaces and the dash do not count.
// The look-up is by digest, so that its time says nothing about other codes.
func (l *Logins) Redeem(code string) (user string, ok bool) {
	if len(code) > 64 {
		return "", false
	}
	key := digest(code)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(l.clock())
	c, ok := l.codes[key]
	delete(l.codes, key)
	return c.user, ok
}

func (l *Logins) sweep(now time.Time) {
	for key, c := range l.codes {
		if !now.Before(c.until) {
			delete(l.codes, key)
		}
	}
}

// drop removes the oldest codes of a kind until at most keep are left.
func (l *Logins) drop(keep int, kind func(loginCode) bool) {
	for {
		n := 0
		var oldest [32]byte
		var until time.Time
		for key, c := range l.codes {
			if !kind(c) {
				continue
			}
			if n++; n == 1 || c.until.Before(until) {
				oldest, until = key, c.until
			}
		}
		if n <= keep {
			return
		}
		delete(l.codes, oldest)
	}
}

// digest is of a code as it was meant: people type O for 0 and I for 1.
func digest(code string) [32]byte {
	code = strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(code))
	return sha256.Sum256([]byte(code))
}
