// Package backup copies what a server keeps to a directory, while the server runs,
// and makes a data directory of such a copy.
//
// A copy is made of parts, each of which is whole at any time:
//
//	backup.json         what is in it; written last
//	repositories/*.git  bare repositories, for git like any other
//	artifacts/          an OCI image layout: what environments need
//	functions/          versions, and where aliases are
//	logs/               of builds, if asked for
//	keys.age            keys, secrets and tokens, encrypted
//
// Nobody is kept from pushing meanwhile: the refs of a repository are read until
// they stood still, then the artifacts are copied that they need, then the objects
// that they reach, then the refs are written, all at once. Objects that something
// refers to are never removed from a repository, so that what was in the snapshot is
// there until it is copied. Whatever was copied before is not copied again.
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// About is backup.json.
type About struct {
	Format       int            `json:"format"`
	At           time.Time      `json:"at"`
	Version      string         `json:"version"`      // of the program
	Repositories map[string]int `json:"repositories"` // their refs
	Artifacts    int            `json:"artifacts"`
	Keys         bool           `json:"keys"`              // keys.age is there
	Missing      []string       `json:"missing,omitempty"` // artifacts that were gone already
}

const format = 1

// Names in a copy.
const (
	aboutFile    = "backup.json"
	keysFile     = "keys.age"
	functionsDir = "functions"
)

// parts are all of a copy.
var parts = []string{aboutFile, keysFile, "repositories", "artifacts", functionsDir, "logs"}

// functionStates are the files of a directory of functions that cannot be made again: code
// is unpacked from artifacts.
var functionStates = filepath.Join("apps", "*", "state.json")

// rollbacks is how many commits of an environment keep their artifacts.
const rollbacks = 20

// secret are the parts of a data directory that are copied encrypted.
var secret = []string{"keys", "secrets", "tokens"}

// Options say what is copied, and for whom.
type Options struct {
	Data       string
	Version    string
	Recipients []age.Recipient // who can read the keys; none: they are left out
	Logs       bool
	Now        time.Time
}

// Write brings the copy in dir, which is made if absent, up to date. A repository
// that cannot be copied does not keep the others from it.
func Write(ctx context.Context, o Options, dir string) (About, error) {
	about := About{Format: format, At: o.Now.UTC().Truncate(time.Second), Version: o.Version,
		Repositories: map[string]int{}}
	if err := check(dir); err != nil {
		return about, err
	}
	names, err := repo.NamesIn(filepath.Join(o.Data, "repositories"))
	if err != nil {
		return about, err
	}
	if len(names) == 0 {
		return about, fmt.Errorf("there is no repository in %s\nhint: give the server's --data", o.Data)
	}
	if err := repo.MakeDir(dir, 0o700); err != nil {
		return about, err
	}
	if len(o.Recipients) > 0 {
		if err := sealKeys(o, filepath.Join(dir, keysFile)); err != nil {
			return about, fmt.Errorf("back up the keys: %w", err)
		}
		about.Keys = true
	}
	// Before the refs, whose artifacts are those of the versions then.
	if err := copyFunctions(filepath.Join(o.Data, functionsDir), filepath.Join(dir, functionsDir)); err != nil {
		return about, err
	}
	to, err := artifact.Open(filepath.Join(dir, "artifacts"))
	if err != nil {
		return about, err
	}
	from := artifact.OpenToRead(filepath.Join(o.Data, "artifacts"))
	var failed []error
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return about, err
		}
		if err := one(ctx, o, name, dir, from, to, &about); err != nil {
			failed = append(failed, fmt.Errorf("back up %s: %w", name, err))
		}
	}
	if o.Logs {
		failed = append(failed, copyLogs(filepath.Join(o.Data, "logs", "builds"), filepath.Join(dir, "logs", "builds")))
	}
	if err := errors.Join(failed...); err != nil {
		return about, err
	}
	text, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return about, err
	}
	return about, repo.WriteFile(filepath.Join(dir, aboutFile), append(text, '\n'), 0o600)
}

// check keeps a copy from being made in a directory of something else.
func check(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(parts, e.Name()) && !strings.HasPrefix(e.Name(), ".tmp-") {
			return fmt.Errorf("%s holds %s, which is no part of a backup\nhint: give an empty directory, or one with a backup",
				dir, e.Name())
		}
	}
	return nil
}

func one(ctx context.Context, o Options, name, dir string, from, to *artifact.Store, about *About) error {
	r, err := repo.OpenClone(filepath.Join(o.Data, "repositories", name+".git"))
	if err != nil {
		return err
	}
	refs, err := r.Snapshot(ctx)
	if err != nil {
		return err
	}
	needed, err := record.Needs(r, refs, rollbacks)
	if err != nil {
		return err
	}
	for _, digest := range needed {
		switch err := from.CopyTo(ctx, to, digest); {
		case errors.Is(err, artifact.ErrNone):
			about.Missing = append(about.Missing, digest)
			continue
		case err != nil:
			return err
		}
		about.Artifacts++
	}
	about.Repositories[name] = len(refs)
	return r.CopyTo(ctx, filepath.Join(dir, "repositories", name+".git"), refs)
}

// copyFunctions copies the states of functions, each of which is replaced whole, and forgets
// those that are no more.
func copyFunctions(from, to string) error {
	states, err := filepath.Glob(filepath.Join(from, functionStates))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, path := range states {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed while we looked
		}
		name := filepath.Base(filepath.Dir(path))
		dir := filepath.Join(to, "apps", name)
		if err == nil {
			err = repo.MakeDir(dir, 0o700)
		}
		if err == nil {
			err = repo.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("back up functions: %w", err)
		}
		there[name] = true
	}
	former, err := os.ReadDir(filepath.Join(to, "apps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("back up functions: %w", err)
	}
	for _, e := range former {
		if there[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(to, "apps", e.Name())); err != nil {
			return fmt.Errorf("back up functions: %w", err)
		}
	}
	return nil
}

// copyLogs copies the logs that are not there; each is named by what is in it.
func copyLogs(from, to string) error {
	logs, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	if err := repo.MakeDir(to, 0o700); err != nil {
		return err
	}
	for _, path := range logs {
		target := filepath.Join(to, filepath.Base(path))
		if _, err := os.Stat(target); err == nil {
			continue
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // logs may be deleted
		}
		if err == nil {
			err = repo.WriteFile(target, data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("back up logs: %w", err)
		}
	}
	return nil
}

// sealKeys encrypts what only the server may read.
func sealKeys(o Options, path string) error {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, o.Recipients...)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, part := range secret {
		if err := addTree(t, o.Data, part); err != nil {
			return err
		}
	}
	if err := errors.Join(t.Close(), w.Close()); err != nil {
		return err
	}
	return repo.WriteFile(path, sealed.Bytes(), 0o600)
}

// Tar writes a copy as one stream.
func Tar(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	for _, part := range parts {
		if err := addTree(t, dir, part); err != nil {
			return err
		}
	}
	return t.Close()
}

// addTree adds the files and directories at root/part; it may be absent.
func addTree(t *tar.Writer, root, part string) error {
	return filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // as a whole, or removed while we looked
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		head := &tar.Header{Name: filepath.ToSlash(name), Format: tar.FormatPAX}
		switch {
		case d.IsDir():
			head.Typeflag, head.Mode = tar.TypeDir, 0o700
			head.Name += "/"
			return t.WriteHeader(head)
		case !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".tmp-"):
			return nil
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		head.Typeflag, head.Mode, head.Size = tar.TypeReg, int64(info.Mode().Perm()), info.Size()
		if err := t.WriteHeader(head); err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		return err
	})
}
