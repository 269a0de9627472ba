package enrolment

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	mine   = "SHA256:mine"
	theirs = "SHA256:theirs"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("ENROLMENT_TEST_DIR"); dir != "" {
		if err := wholeLife(dir, os.Getenv("ENROLMENT_TEST_SECRET")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// wholeLife is a token from its making, or from what there is, to its end.
func wholeLife(dir, secret string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	if secret == "" {
		_, _, err := s.Create(Request{By: "ada", Name: "web-1"})
		return err
	}
	key := fingerprintOf(secret)
	if _, err := s.Claim(key, mine, ""); err != nil {
		return err
	}
	return s.Spend(key)
}

func fingerprintOf(secret string) string {
	key, err := Key(secret)
	if err != nil {
		panic(err)
	}
	return ssh.FingerprintSHA256(key.PublicKey())
}

func opened(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokensAreGoodOnce(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	secret, made, err := s.Create(Request{By: "ada", Tags: map[string]string{"role": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	key := fingerprintOf(secret)
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), strings.TrimPrefix(secret, Prefix)) {
			t.Errorf("%s holds the secret: %s", f, data)
		}
	}
	s = opened(t, dir)
	if found, ok := s.Find(key); !ok || found.ID != made.ID || found.By != "ada" || found.Tags["role"] != "web" {
		t.Errorf("%+v %v", found, ok)
	}
	if _, ok := s.Find(fingerprintOf(Prefix + strings.Repeat("A", 43))); ok {
		t.Error("a token that was never made is good")
	}
	for range 2 { // who comes again is the same
		if claimed, err := s.Claim(key, mine, "host-a"); err != nil || claimed.Name != "host-a" {
			t.Errorf("%+v %v", claimed, err)
		}
		s = opened(t, dir)
	}
	if _, err := s.Claim(key, theirs, "host-b"); !errors.Is(err, ErrNone) {
		t.Errorf("somebody else claims it: %v", err)
	}
	if claimed, err := s.Claim(key, mine, "host-b"); err != nil || claimed.Name != "host-a" {
		t.Errorf("it has another name now: %+v %v", claimed, err)
	}
	if err := s.Spend(key); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, opened(t, dir)} {
		if _, ok := s.Find(key); ok {
			t.Error("it is good once more")
		}
		if _, err := s.Claim(key, mine, "host-a"); !errors.Is(err, ErrNone) {
			t.Errorf("it can be claimed once more: %v", err)
		}
	}
}

func TestTokensEnd(t *testing.T) {
	s := opened(t, t.TempDir())
	now := time.Now()
	s.now = func() time.Time { return now }
	secret, _, err := s.Create(Request{By: "ada", Name: "web-1", Life: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(10 * time.Minute)
	if _, ok := s.Find(fingerprintOf(secret)); ok || len(s.All()) > 0 {
		t.Error("it is good after its time")
	}
	if _, err := s.Claim(fingerprintOf(secret), mine, ""); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	var refusal Refusal
	for _, life := range []time.Duration{time.Second, MaxLife + 1, -1} {
		if _, _, err := s.Create(Request{By: "ada", Life: life}); !errors.As(err, &refusal) {
			t.Errorf("%s: %v", life, err)
		}
	}
	for range maxTokens {
		if _, _, err := s.Create(Request{By: "ada"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Create(Request{By: "ada"}); !errors.As(err, &refusal) {
		t.Errorf("one too many: %v", err)
	}
	now = now.Add(2 * time.Hour)
	if _, _, err := s.Create(Request{By: "ada"}); err != nil || len(s.All()) != 1 {
		t.Errorf("%d are left, %v", len(s.All()), err)
	}
}

// TestKilled: whatever is killed where, a token is bound to one key before it does
// anything, and to no other one later.
func TestKilled(t *testing.T) {
	for _, c := range []struct {
		point string
		there bool
		bound bool
	}{
		{"enrolment.making", false, false},
		{"enrolment.made", true, false},
		{"enrolment.claiming", true, false},
		{"enrolment.claimed", true, true},
		{"enrolment.spending", true, true},
		{"enrolment.spent", false, false},
	} {
		t.Run(c.point, func(t *testing.T) {
			dir := t.TempDir()
			secret := ""
			if c.point != "enrolment.making" && c.point != "enrolment.made" {
				var err error
				if secret, _, err = opened(t, dir).Create(Request{By: "ada", Name: "web-1"}); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "ENROLMENT_TEST_DIR="+dir, "ENROLMENT_TEST_SECRET="+secret,
				"HEADGATE_CRASH_AT="+c.point)
			if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.Exited() {
				t.Fatalf("it was not killed: %v %s", err, out)
			}
			s := opened(t, dir)
			all := s.All()
			if len(all) > 0 != c.there {
				t.Fatalf("there are %+v", all)
			}
			if !c.there {
				return
			}
			if _, err := s.Claim(all[0].Key, theirs, ""); errors.Is(err, ErrNone) != c.bound {
				t.Errorf("another key: %v", err)
			}
		})
	}
}

func TestSecretsThatAreNone(t *testing.T) {
	for _, secret := range []string{"", Prefix, "hg_abc", Prefix + strings.Repeat("A", 42),
		Prefix + strings.Repeat("!", 43), strings.Repeat("A", 43)} {
		if _, err := Key(secret); err == nil || len(secret) > len(Prefix) && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", secret, err)
		}
	}
}
