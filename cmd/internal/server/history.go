package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// CheckHistory stops the start of a server that would begin anew where there is a
// history: a part that is missing is restored by a person, or given up by one.
func CheckHistory(data string) error {
	names, err := repo.NamesIn(filepath.Join(data, "repositories"))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		// Finished ones: a start that was cut off leaves directories only.
		logs, err := filepath.Glob(filepath.Join(data, "logs", "builds", "*.log"))
		if err != nil {
			return fmt.Errorf("look for a history: %w", err)
		}
		if len(logs) > 0 {
			return fmt.Errorf("%s holds no repository, but logs of their builds\n"+
				"hint: if repositories/ is on a file system of its own, mount it; else restore it from a backup or from mirrors\n"+
				"hint: to begin anew give another --data, or remove %s", filepath.Join(data, "repositories"), filepath.Join(data, "logs"))
		}
		return nil
	}

	history := some(names)
	if !slices.Contains(names, access.Own) {
		own := filepath.Join(data, "repositories", access.Own+".git")
		return fmt.Errorf("%s is missing beside %s: it says who may do what, and a new one would give everything to you\n"+
			"hint: restore it from a backup, or from a mirror: git clone --mirror <mirror> %s\n"+
			"hint: to begin anew give another --data", own, history, own)
	}
	for _, key := range []struct{ name, what, way string }{
		{"host", "the SSH host key, by which every client knows this server",
			"if it is lost, make another on purpose: headgate key rotate --data " + data + " host (every client is warned of the new one)"},
		{"server", "the signing key: with another one no release, promotion or verdict that is there verifies",
			"there is no way to go on without it; only the copy of it continues this history"},
	} {
		path := filepath.Join(data, "keys", key.name)
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			err = errors.New("is missing")
		case err == nil && info.Size() == 0:
			err = errors.New("is empty")
		case err == nil:
			continue
		}
		return fmt.Errorf("%s %w, and there is a history (%s): it is %s\n"+
			"hint: restore it from your backup of %s, mode 600\n"+
			"hint: %s", path, err, history, key.what, filepath.Dir(path), key.way)
	}
	return nil
}

// checkSigner stops the start with a signing key that is not the one which signed
// the history.
func checkSigner(store *repo.Store, path string) error {
	own, err := store.Repository(access.Own)
	if errors.Is(err, repo.ErrNoRepository) {
		return nil // the first start
	}
	if err != nil {
		return err
	}
	tip, err := own.Ref("refs/changes/1/log")
	if err != nil || tip == repo.Zero {
		return err
	}
	kind, raw, err := own.Raw(tip)
	if err != nil {
		return err
	}
	if err := (repo.Signers{store.Signer().PublicKey()}).VerifyObject(kind, raw); err != nil {
		return fmt.Errorf("%s is not the key that signed the history (it is %s): change 1 of %s %w\n"+
			"hint: restore the key from your backup of %s, mode 600", path,
			gossh.FingerprintSHA256(store.Signer().PublicKey()), access.Own, err, filepath.Dir(path))
	}
	return nil
}

// some names the first few.
func some(names []string) string {
	const shown = 3
	if n := len(names) - shown; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), n)
	}
	return strings.Join(names, ", ")
}
