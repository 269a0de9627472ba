package secret

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, data string) *Store {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(data, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(data, "secrets"), filepath.Join(data, "keys", "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := open(t, data)
	at := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	server, own, path := ID{Name: "token"}, ID{"hello", "token"}, ID{"hello", "/prod/db-url"}
	for i, id := range []ID{server, own, path} {
		if err := s.Set(id, NewValue(fmt.Appendf(nil, "hunter%d", i)), "ada", at); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set(own, NewValue([]byte("changed\n")), "ben", at); err != nil {
		t.Fatal(err)
	}

	s = open(t, data) // another start
	for id, want := range map[ID]string{server: "hunter0", own: "changed\n", path: "hunter2"} {
		if v, err := s.Get(id); err != nil || string(v.Reveal()) != want {
			t.Errorf("Get(%s) = %q, %v; want %q", id, v.Reveal(), err, want)
		}
	}
	for range 2 { // what was read before is not what is there now
		if err := s.Set(server, NewValue([]byte("hunter9")), "ada", at); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Get(server); err != nil || string(v.Reveal()) != "hunter9" {
			t.Errorf("Get of a secret that was set again = %q, %v", v.Reveal(), err)
		}
		if err := s.Set(server, NewValue([]byte("hunter8")), "ada", at); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Get(server); err != nil || string(v.Reveal()) != "hunter8" {
			t.Errorf("Get of a secret that was set again = %q, %v", v.Reveal(), err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 3 || list[0].ID != path || list[1].By != "ben" || list[2].ID != server ||
		!list[2].At.Equal(at) {
		t.Errorf("List = %+v, %v", list, err)
	}

	if err := s.Remove(own); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(own); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a removed secret: %v", err)
	}
	if err := s.Remove(own); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove again: %v", err)
	}

	// Nothing on disk tells a value.
	err = filepath.WalkDir(data, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, _ := d.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", d.Name(), info.Mode())
		}
		content, err := os.ReadFile(p)
		if strings.Contains(string(content), "hunter") || strings.Contains(string(content), "changed") {
			t.Errorf("%s holds a value in the clear", d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	good := NewValue([]byte("x"))
	for _, name := range []string{"", "../key", ".hidden", "a b", "-x", "a:b", strings.Repeat("a", 101), "žluť", "a\nb"} {
		if err := s.Set(ID{Name: name}, good, "ada", time.Now()); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	if err := s.Set(ID{Name: "x"}, Value{}, "ada", time.Now()); err == nil {
		t.Error("an empty secret was taken")
	}
	if err := s.Set(ID{Name: "x"}, NewValue(make([]byte, MaxValue+1)), "ada", time.Now()); err == nil {
		t.Error("a secret over the bound was taken")
	}
	if err := s.Set(ID{Name: "x"}, NewValue(make([]byte, MaxValue)), "ada", time.Now()); err != nil {
		t.Errorf("a secret at the bound: %v", err)
	}
	if v, err := s.Get(ID{Name: "x"}); err != nil || len(v.Reveal()) != MaxValue {
		t.Errorf("a secret at the bound is read as %d bytes, %v", len(v.Reveal()), err)
	}
}

func TestStoreKeyMissing(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := open(t, data)
	if err := s.Set(ID{Name: "x"}, NewValue([]byte("v")), "ada", time.Now()); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(data, "keys", "secrets")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(data, "secrets"), key); err == nil ||
		!strings.Contains(err.Error(), "restore the key") {
		t.Errorf("secrets without their key: %v", err)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a new key was made beside secrets that it does not open")
	}
}

func TestStoreDamage(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	a, b := ID{Name: "a"}, ID{Name: "b"}
	for _, id := range []ID{a, b} {
		if err := s.Set(id, NewValue([]byte("value of "+id.Name)), "ada", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(s.path(a))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(b), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(b); err == nil {
		t.Errorf("one secret stands in for another: %q", v.Reveal())
	}
	content[len(content)-1] ^= 1
	if err := os.WriteFile(s.path(a), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(a); err == nil {
		t.Error("a damaged secret is read")
	}
	if list, err := s.List(); err != nil || len(list) != 2 {
		t.Errorf("List beside a damaged secret = %+v, %v", list, err)
	}
}

func TestValueIsNotPrinted(t *testing.T) {
	t.Parallel()
	v := NewValue([]byte("hunter2"))
	printed := fmt.Sprintf("%v %+v %#v %s %q %x %d", v, v, v, v, v, v, v) +
		fmt.Sprintf("%v %x", struct{ V Value }{v}, []Value{v})
	for _, leak := range []string{"hunter2", "68756e", "104"} {
		if strings.Contains(printed, leak) {
			t.Errorf("printed as %s", printed)
		}
	}
	if out, err := json.Marshal(map[string]any{"v": v}); err == nil {
		t.Errorf("written as JSON: %s", out)
	}
}
