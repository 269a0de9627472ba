package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
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
				"hint: to begin anew give another --data, or remove %s", filepath.Join(data,
				"repositories"), filepath.Join(data, "logs"))
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
			"if it is lost, make another on purpose: headgate key rotate --data " + data +
				" host (every client is warned of the new one)"},
		{"server", "the signing key: with another one no release, promotion or verdict that is there verifies",
			"if it is lost, make another on purpose: headgate key rotate --data " + data +
				" server (what it signed stays valid)"},
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
// the history, or took its place.
func checkSigner(store *repo.Store, path string) error {
	own, err := store.Repository(access.Own)
	if errors.Is(err, repo.ErrNoRepository) {
		return nil // the first start
	}
	if err != nil {
		return err
	}
	key, err := signerOf(own)
	if err != nil || key == nil {
		return err
	}
	mine := store.Signer().PublicKey()
	if bytes.Equal(key.Marshal(), mine.Marshal()) {
		return nil
	}
	changes, err := own.Rotations()
	if err != nil {
		return err
	}
	if len(changes) > 0 && bytes.Equal(changes[0].Former.Marshal(), mine.Marshal()) {
		return fmt.Errorf("%s was to be replaced by %s, and that was cut off\nhint: headgate key rotate --data %s server",
			path,
			gossh.FingerprintSHA256(key), filepath.Dir(filepath.Dir(path)))
	}
	return fmt.Errorf("%s is not the key that signed the history (it is %s): that of %s is %s\n"+
		"hint: restore the key from your backup of %s, mode 600", path,
		gossh.FingerprintSHA256(mine), access.Own, gossh.FingerprintSHA256(key), filepath.Dir(path))
}

// signerOf is the key that signs a repository's history now, nil if it has none: the
// newest that its record of keys names, else the one that signed its first change.
func signerOf(r *repo.Repository) (gossh.PublicKey, error) {
	changes, err := r.Rotations()
	if err != nil {
		return nil, err
	}
	if len(changes) > 0 {
		return changes[0].Key, nil
	}
	tip, err := r.Ref("refs/changes/1/log")
	if err != nil || tip == repo.Zero {
		return nil, err
	}
	kind, raw, err := r.Raw(tip)
	if err != nil {
		return nil, err
	}
	key, err := repo.SignedBy(kind, raw)
	if err != nil {
		return nil, fmt.Errorf("change 1 of %s %w", r.Name(), err)
	}
	if err := (repo.Signers{key}).VerifyObject(kind, raw); err != nil {
		return nil, fmt.Errorf("change 1 of %s %w", r.Name(), err)
	}
	return key, nil
}

// RotateSigningKey makes another signing key for a server that does not run, whose
// data directory the caller has locked. Called again after it was cut off, it goes on.
//
// The new key is made first, then each repository records it, that of the server
// first, without which it does not start; then the old one is noted as a former
// key, and the new one put in its place.
func RotateSigningKey(ctx context.Context, data string, at time.Time) (change repo.Rotation, err error) {
	path := filepath.Join(data, "keys", "server")
	root := filepath.Join(data, "repositories")
	own, err := repo.OpenClone(filepath.Join(root, access.Own+".git"))
	if err != nil {
		return change, fmt.Errorf("there is no history to go on with: %w", err)
	}
	tip, err := own.Ref("refs/changes/1/log")
	if err != nil {
		return change, err
	}
	first, err := own.Commit(tip)
	if err != nil {
		return change, err
	}
	person := repo.Person{Name: first.Committer.Name, Email: first.Committer.Email}

	if err := repo.MakeDir(filepath.Dir(path), 0o700); err != nil {
		return change, err
	}
	next, err := repo.OpenSigner(path+".new", person)
	if err != nil {
		return change, err
	}
	crash.Point("key.made")
	change.Key, change.At = next.PublicKey(), at
	signer := next
	info, err := os.Stat(path)
	if change.Lost = errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0; !change.Lost {
		if signer, err = repo.OpenSigner(path, person); err != nil {
			return change, err
		}
		change.Former = signer.PublicKey()
	} else if change.Former, err = signerOf(own); err != nil {
		return change, err
	}
	if bytes.Equal(change.Former.Marshal(), change.Key.Marshal()) { // it was recorded, and the former one is lost
		changes, err := own.Rotations()
		if err != nil {
			return change, err
		}
		change.Former = changes[0].Former
	}

	store, _, err := repo.OpenStore(root, filepath.Join(data, "hooks"), next)
	if err != nil {
		return change, err
	}
	defer store.Close()
	names, err := store.Names()
	if err != nil {
		return change, err
	}
	names = append([]string{access.Own}, slices.DeleteFunc(names, func(n string) bool { return n == access.Own })...)
	for _, name := range names {
		r, err := store.Repository(name)
		if err != nil {
			return change, err
		}
		if now, err := signerOf(r); err != nil {
			return change, err
		} else if now != nil && bytes.Equal(now.Marshal(), change.Key.Marshal()) {
			continue // recorded before
		}
		if err := r.RecordRotation(ctx, signer, change.Former, change.Key, at); err != nil {
			return change, fmt.Errorf("record it in %s: %w", name, err)
		}
	}

	changes, err := own.Rotations()
	if err != nil {
		return change, err
	}
	var former strings.Builder
	for _, c := range changes { // its record is the last thing that a key signs
		former.WriteString(repo.AllowedSigner(person.Email, repo.Until(c.Former, c.At.Add(2*time.Second))))
	}
	if err := repo.WriteFile(repo.FormerKeys(path), []byte(former.String()), 0o600); err != nil {
		return change, err
	}
	crash.Point("key.former-noted")
	if err := repo.Rename(path+".new", path); err != nil {
		return change, err
	}
	crash.Point("key.replaced")
	return change, nil
}

// some names the first few.
func some(names []string) string {
	const shown = 3
	if n := len(names) - shown; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), n)
	}
	return strings.Join(names, ", ")
}
