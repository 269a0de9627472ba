package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Only whoever holds the private half becomes administrator: a colleague's .pub file
// in ~/.ssh is no key of one's own.
func TestOwnKeys(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	mine := filepath.Join(home, ".ssh", "id_ed25519")
	if err := os.Mkdir(filepath.Dir(mine), 0o700); err != nil {
		t.Fatal(err)
	}
	public, err := madeKey(mine, "me")
	if err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(home, ".ssh", "colleague")
	if _, err := madeKey(theirs, "colleague"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	if keys := ownKeys(t.Context()); len(keys) != 1 || strings.Fields(keys[0])[1] != strings.Fields(public)[1] {
		t.Fatalf("own keys are %q, want only %q", keys, public)
	}
}
