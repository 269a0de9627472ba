package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Restore makes a data directory of a copy. data is absent or empty before, and
// there whole after, or not at all. The keys are read with identities, or left out.
func Restore(ctx context.Context, dir, data string, identities []age.Identity, withoutKeys bool) (About, error) {
	about, err := read(dir)
	if err != nil {
		return about, err
	}
	if about.Keys && len(identities) == 0 && !withoutKeys {
		return about, errors.New("the keys in this backup are encrypted\n" +
			"hint: give --identity <file> or --passphrase-file <file>, with what the backup was made for\n" +
			"hint: without them everything but the signatures and secrets can be restored: --without-keys")
	}
	if entries, err := os.ReadDir(data); err == nil && len(entries) > 0 {
		return about, fmt.Errorf("%s is not empty\nhint: a backup is restored to a new directory; move this one away", data)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return about, err
	}
	if err := repo.MakeDir(filepath.Dir(data), 0o755); err != nil {
		return about, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(data), ".restoring-")
	if err != nil {
		return about, err
	}
	defer os.RemoveAll(temp) // gone already after the rename

	names := slices.Sorted(maps.Keys(about.Repositories))
	for _, name := range names {
		if err := repo.CheckName(name); err != nil {
			return about, fmt.Errorf("%s: %w", filepath.Join(dir, aboutFile), err)
		}
		from, to := filepath.Join(dir, "repositories", name+".git"), filepath.Join(temp, "repositories", name+".git")
		if err := copyTree(from, to); err != nil {
			return about, fmt.Errorf("restore %s: %w", name, err)
		}
		r, err := repo.OpenClone(to)
		if err != nil {
			return about, err
		}
		if err := r.Connected(ctx); err != nil {
			return about, fmt.Errorf("restore %s: the backup is not whole: %w", name, err)
		}
	}
	if err := repo.RecordMade(filepath.Join(temp, "repositories"), names); err != nil {
		return about, err
	}
	for _, part := range []string{"artifacts", functionsDir, "logs"} {
		if err := copyTree(filepath.Join(dir, part), filepath.Join(temp, part)); err != nil &&
			!errors.Is(err, fs.ErrNotExist) {
			return about, fmt.Errorf("restore %s: %w", part, err)
		}
	}
	if about.Keys && !withoutKeys {
		if err := openKeys(filepath.Join(dir, keysFile), temp, identities); err != nil {
			return about, fmt.Errorf("restore the keys: %w", err)
		}
	}
	if err := repo.SyncTree(temp); err != nil {
		return about, err
	}
	return about, repo.Rename(temp, data) // which an empty directory does not hinder
}

func read(dir string) (about About, err error) {
	data, err := os.ReadFile(filepath.Join(dir, aboutFile))
	if errors.Is(err, fs.ErrNotExist) {
		return about, fmt.Errorf("%s holds no backup that was finished: there is no %s in it", dir, aboutFile)
	}
	if err == nil {
		err = json.Unmarshal(data, &about)
	}
	if err == nil && about.Format != format {
		err = fmt.Errorf("is of format %d, and this program reads %d", about.Format, format)
	}
	if err != nil {
		return about, fmt.Errorf("read %s: %w", filepath.Join(dir, aboutFile), err)
	}
	return about, nil
}

func openKeys(path, data string, identities []age.Identity) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := age.Decrypt(f, identities...)
	if err != nil {
		return err
	}
	return Untar(r, data)
}

// maxEntry bounds one file of a stream.
const maxEntry = 64 << 30

// Untar lays out what Tar wrote below dir, and nothing outside of it.
func Untar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(r); ; {
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(head.Name, "/")
		if !fs.ValidPath(name) || head.Size > maxEntry {
			return fmt.Errorf("%q does not belong into a backup", head.Name)
		}
		switch head.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o700)
		case tar.TypeReg:
			if err = root.MkdirAll(filepath.Dir(name), 0o700); err == nil {
				err = extract(root, name, fs.FileMode(head.Mode).Perm(), t)
			}
		default:
			err = fmt.Errorf("%q does not belong into a backup", head.Name)
		}
		if err != nil {
			return err
		}
	}
}

func extract(root *os.Root, name string, mode fs.FileMode, from io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// copyTree copies the files and directories below from.
func copyTree(from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".tmp-"):
			return nil
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()|0o200)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}
