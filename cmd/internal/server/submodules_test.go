package server

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Submodules are of this server by what git makes of their URL, and are checked
// out only where nobody sees more by it.
func TestSubmodulesOfThisServer(t *testing.T) {
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{log: slog.New(slog.DiscardHandler),
		about: show.Server{SSH: "git.example.com:22", HTTP: "https://git.example.com"}}
	if s.store, _, err = repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"),
		signer); err != nil {
		t.Fatal(err)
	}
	defer s.store.Close()
	for _, name := range []string{"hello", "lib", "own", "open", "opened"} {
		if _, err := s.store.Create(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
	a, err := access.Parse("server.yaml", []byte(`users:
  ada: {keys: ["`+key+strings.Repeat("A", 42)+`A"]}
  jun: {keys: ["`+key+strings.Repeat("A", 41)+`BA"]}
groups: {administrators: [ada], libs: [ada, jun]}
repositories:
  hello: {write: [everyone]}
  lib: {write: [everyone]}
  own: {write: [ada]}
  open: {write: [everyone], public: true}
  opened: {write: [everyone], public: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	s.access.Store(a)

	for of, urls := range map[string]map[string]string{
		"hello": {
			"../lib":                               "",
			"../lib.git/":                          "",
			"ssh://git@git.example.com/lib.git":    "",
			"ssh://git.example.com:22/lib":         "",
			"git@git.example.com:lib.git":          "",
			"https://git.example.com/lib.git":      "",
			"https://git.example.com.evil.net/lib": "https://git.example.com.evil.net/lib is not of this server",
			"https://github.com/x/lib":             "https://github.com/x/lib is not of this server",
			"ssh://git.example.com:2222/lib":       "ssh://git.example.com:2222/lib is not of this server",
			"../../x/lib":                          "../../x/lib is not of this server",
			"../lib/../own":                        "../lib/../own is not of this server",
			"file:///lib":                          "file:///lib is not of this server",
			"-u/lib":                               "-u/lib is not of this server",
			"../own":                               "this server has no repository own that everybody who may read hello may read",
			"../absent":                            "this server has no repository absent that everybody who may read hello may read",
		},
		"own":  {"../hello": ""},
		"open": {"../opened": "", "../lib": "this server has no repository lib that everybody who may read open may read"},
	} {
		for url, want := range urls {
			r, why := s.submodule(of, url)
			if why != want || (r == nil) != (want != "") {
				t.Errorf("%s: %s: %v, %q", of, url, r, why)
			}
		}
	}
}
