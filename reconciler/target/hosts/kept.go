package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// kept is what is written down of an application before anything is done about it, by a
// host that has to go on without whoever declared it: it is a file of Target.Keep.
type kept struct {
	Version  int              `json:"version"`
	Key      target.Key       `json:"key"`
	Fence    int              `json:"fence"` // nothing older is taken any more, for ever
	Declared *target.Declared `json:"declared,omitempty"`
}

func (t *Target) keptFile(k target.Key) string { return filepath.Join(t.Keep, groupID(k)+".json") }

// keep writes down, durably, what is about to be done. nil d: it is removed.
func (t *Target) keep(k target.Key, fence int, d *target.Declared) error {
	if t.Keep == "" {
		return nil
	}
	data, err := json.Marshal(kept{1, k, fence, d})
	if err == nil {
		err = repo.MakeDir(t.Keep, 0o700)
	}
	if err == nil {
		err = repo.WriteFile(t.keptFile(k), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note what is declared: %w", err)
	}
	crash.Point("hosts.declared-kept")
	if d == nil {
		return nil
	}
	for _, name := range d.Was { // which nobody declares any more
		was := target.Key{Repository: k.Repository, Application: k.Application, Environment: name}
		if _, err := os.Stat(t.keptFile(was)); err != nil {
			continue
		}
		if err := t.keep(was, fence, nil); err != nil {
			return err
		}
	}
	return nil
}

// Load takes up what was declared last, as Keep has it. It is called before Run.
func (t *Target) Load() error {
	paths, err := repo.Written(t.Keep, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what is declared: %w", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		var k kept
		if err == nil {
			err = json.Unmarshal(data, &k)
		}
		if err == nil && (k.Version != 1 || filepath.Base(t.keptFile(k.Key)) != filepath.Base(path)) {
			err = fmt.Errorf("it is of version %d, or of another application", k.Version)
		}
		if err != nil {
			return fmt.Errorf(
				"read what is declared: %s: %w\nhint: remove the file, and the server declares it again; what is older could be deployed then", path, err)
		}
		t.mu.Lock()
		t.fences[k.Key] = max(t.fences[k.Key], k.Fence)
		t.mu.Unlock()
		if k.Declared != nil {
			t.Converge(*k.Declared)
		}
	}
	return nil
}

// Keys are the applications of which something is known.
func (t *Target) Keys() (all []target.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.apps {
		all = append(all, k)
	}
	return all
}

// Fence is the newest sequence that was acted on; older ones are ignored. It is -1 where
// nothing was.
func (t *Target) Fence(k target.Key) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	fence, ok := t.fences[k]
	if !ok {
		fence = -1
	}
	if a := t.apps[k]; a != nil {
		fence = max(fence, a.newest())
	}
	return fence
}
