package token

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, r Request) (string, Token) {
	t.Helper()
	secret, made, err := s.Create(r)
	if err != nil {
		t.Fatal(err)
	}
	return secret, made
}

// TestLife: a token is found by its secret alone, over a restart, until it expires
// or is revoked, and leaves of its user's rights what it says.
func TestLife(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	secret, made := create(t, s, Request{User: "ada", Name: "ci", Repositories: []string{"hello"}, Write: true})
	other, _ := create(t, s, Request{User: "jun", Name: "laptop", Life: time.Hour})

	if got := made.Expires.Sub(made.Created); got != DefaultLife {
		t.Errorf("it is good for %s", got)
	}
	scope := made.Scope()
	for _, r := range []struct {
		right      access.Right
		repository string
		want       bool
	}{
		{access.Read, "hello", true},
		{access.Write, "hello", true},
		{access.Administer, "hello", false},
		{access.Read, "vault", false},
	} {
		if scope.Allows(r.right, r.repository) != r.want {
			t.Errorf("%s of %s is not %v", r.right, r.repository, r.want)
		}
	}

	s = open(t, dir)
	if got, ok := s.Find(secret); !ok || got.ID != made.ID || got.User != "ada" {
		t.Errorf("found %+v, %v", got, ok)
	}
	for name, wrong := range map[string]string{
		"nothing":         "",
		"its prefix":      Prefix,
		"one digit less":  secret[:len(secret)-1],
		"one digit more":  secret + "0",
		"another":         newSecret(),
		"its digest":      made.Digest,
		"a changed digit": strings.Replace(secret, secret[10:11], "-", 1),
	} {
		if got, ok := s.Find(wrong); ok {
			t.Errorf("%s finds %+v", name, got)
		}
	}
	s.now = func() time.Time { return time.Now().Add(time.Hour) }
	if _, ok := s.Find(other); ok {
		t.Error("an expired token is good")
	}

	if _, err := s.Revoke("jun", made.ID); !errors.Is(err, ErrNone) {
		t.Errorf("jun revokes ada's token: %v", err)
	}
	if _, err := s.Revoke("ada", made.ID); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, open(t, dir)} {
		if _, ok := s.Find(secret); ok {
			t.Error("a revoked token is good")
		}
	}
}

// TestSecrets: a secret is not on disk, and its form is the one scanners know.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	secret, _ := create(t, s, Request{User: "ada", Name: "ci"})
	if len(secret) != 39 || !strings.HasPrefix(secret, "hg_") || !wellFormed(secret) {
		t.Errorf("made %q", secret)
	}
	if got, want := sum("hg_000000000000000000000000000000"), "2fkz6w"; got != want {
		t.Errorf("the checksum is %s, want %s: tokens that exist would be refused", got, want)
	}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret[len(Prefix):]) {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRetain: the tokens of a user who was removed stay dead when somebody is given
// the name again.
func TestRetain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	adas, _ := create(t, s, Request{User: "ada", Name: "ci"})
	juns, _ := create(t, s, Request{User: "jun", Name: "ci"})
	if err := s.Retain(func(user string) bool { return user == "ada" }); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, open(t, dir)} {
		if _, ok := s.Find(juns); ok {
			t.Error("jun's token is good")
		}
		if _, ok := s.Find(adas); !ok {
			t.Error("ada's token is not good")
		}
	}
}

// TestRefusals: what is not made, and how many.
func TestRefusals(t *testing.T) {
	s := open(t, t.TempDir())
	for name, r := range map[string]Request{
		"no name":         {User: "ada"},
		"an odd name":     {User: "ada", Name: "a\nb"},
		"a long name":     {User: "ada", Name: strings.Repeat("a", 65)},
		"a short life":    {User: "ada", Name: "ci", Life: time.Second},
		"a long life":     {User: "ada", Name: "ci", Life: MaxLife + time.Second},
		"a negative life": {User: "ada", Name: "ci", Life: -time.Hour},
		"for everything":  {User: "ada", Name: "ci", Repositories: make([]string, 101)},
	} {
		var refusal Refusal
		if _, _, err := s.Create(r); !errors.As(err, &refusal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range maxEach {
		create(t, s, Request{User: "ada", Name: "ci"})
	}
	var refusal Refusal
	if _, _, err := s.Create(Request{User: "ada", Name: "ci"}); !errors.As(err, &refusal) {
		t.Errorf("one too many: %v", err)
	}
	create(t, s, Request{User: "jun", Name: "ci"})
}

// TestUsed: the last use is shown at once, and written after a while or at the end.
func TestUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		secret, made := create(t, s, Request{User: "ada", Name: "ci"})
		go s.Run(t.Context())
		if !s.Of("ada")[0].Used.IsZero() {
			t.Error("used already")
		}
		time.Sleep(10 * time.Second)
		s.Find(secret)
		want := made.Created.Add(10 * time.Second)
		if got := s.Of("ada")[0].Used; !got.Equal(want) {
			t.Errorf("used %s, want %s", got, want)
		}
		if _, err := os.Stat(filepath.Join(dir, usedFile)); err == nil {
			t.Error("a use was written at once")
		}
		time.Sleep(writeUsed)
		synctest.Wait()
		if got := open(t, dir).Of("ada")[0].Used; !got.Equal(want) {
			t.Errorf("after a restart: used %s, want %s", got, want)
		}
	})
}

// TestDamage: a file that holds no token stops the server, and says which it is;
// what a killed server left of a write is swept.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	cut := filepath.Join(dir, ".tmp-123")
	if err := os.WriteFile(cut, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Stat(cut); err == nil {
		t.Error("it was not swept")
	}
	bad := filepath.Join(dir, "0123456789.json")
	if err := os.WriteFile(bad, []byte(`{"id":"0123456789","user":"ada"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("opened: %v", err)
	}
}
