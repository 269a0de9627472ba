package repo

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What was read from many objects, such as every change there ever was, is remembered
// in a file, so that a start need not read them again. Each thing in it is named by
// the object that it was read from; so it can be old, and it can be deleted, but what
// it says of an object is what the object says.

// recallDir is where the files are, in a repository of this server. In a clone of
// somebody else's making there may be anything: nothing is recalled there.
const recallDir = "headgate"

// Recall reads into v what Remember wrote under a name, and reports whether it did. A
// file that cannot be read is as none.
func (r *Repository) Recall(name string, v any) bool {
	if r.store.root == "" {
		return false
	}
	data, err := os.ReadFile(filepath.Join(r.dir, recallDir, name))
	if err != nil || len(data) < sha256.Size {
		return false
	}
	sum, data := data[:sha256.Size], data[sha256.Size:]
	if is := sha256.Sum256(data); !bytes.Equal(sum, is[:]) { // torn: some of it may still read as something
		return false
	}
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v) == nil
}

// Remember writes v under a name, behind its digest. It is not synced: what a power cut
// leaves of it is not read, or true.
func (r *Repository) Remember(name string, v any) error {
	if r.store.root == "" {
		return nil
	}
	var data bytes.Buffer
	if err := gob.NewEncoder(&data).Encode(v); err != nil {
		return fmt.Errorf("remember %s of %s: %w", name, r.name, err)
	}
	dir := filepath.Join(r.dir, recallDir)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("remember %s of %s: %w", name, r.name, err)
	}
	f, err := os.CreateTemp(dir, "*.lock") // the next start removes what a kill leaves
	if err != nil {
		return fmt.Errorf("remember %s of %s: %w", name, r.name, err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	sum := sha256.Sum256(data.Bytes())
	_, err = f.Write(append(sum[:], data.Bytes()...))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("remember %s of %s: %w", name, r.name, err)
	}
	return nil
}
