package hosts

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// groups are the ids of the deployment groups on this host. The id of an application
// in an environment follows from their names, except where the environment was
// renamed: a group keeps its id, under which are its revisions and the record of what
// it has installed. Ids that do not follow from the names are kept in a file. Its
// methods may be called by several goroutines.
type groups struct {
	file string

	mu     sync.Mutex
	loaded bool
	kept   map[string]string // id by groupID
}

// of is the id of a key's group.
func (g *groups) of(k target.Key) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.load(); err != nil {
		return "", err
	}
	return g.id(k), nil
}

// id is called with mu held.
func (g *groups) id(k target.Key) string { return cmp.Or(g.kept[groupID(k)], groupID(k)) }

// rename gives a key the group of the first of those that it was before of which
// something is installed, unless something is installed under its own name.
func (g *groups) rename(is target.Key, was []target.Key, installed func(id string) (bool, error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.load(); err != nil {
		return err
	}
	for _, k := range append([]target.Key{is}, was...) {
		id := g.id(k)
		switch there, err := installed(id); {
		case err != nil:
			return err
		case there && k == is:
			return nil
		case there:
			g.drop(id)
			g.kept[groupID(is)] = id
			return g.save()
		}
	}
	return nil
}

// forget ends a key's group, all of which is gone.
func (g *groups) forget(k target.Key) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.load(); err != nil {
		return err
	}
	before := len(g.kept)
	if g.drop(g.id(k)); len(g.kept) == before {
		return nil
	}
	return g.save()
}

// drop takes a group's id from whoever has it. It is called with mu held.
func (g *groups) drop(id string) {
	maps.DeleteFunc(g.kept, func(_, kept string) bool { return kept == id })
}

// load reads the file, once. It is called with mu held.
func (g *groups) load() error {
	if g.loaded {
		return nil
	}
	data, err := os.ReadFile(g.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		g.kept = map[string]string{}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(data, &g.kept); err != nil || g.kept == nil {
			return fmt.Errorf("%s, which says where renamed environments are installed, cannot be read: %w", g.file, err)
		}
	}
	g.loaded = true
	return nil
}

// save writes the file; what could not be written is read again. It is called with mu held.
func (g *groups) save() error {
	data, err := json.MarshalIndent(g.kept, "", " ")
	if err == nil {
		err = repo.MakeDir(filepath.Dir(g.file), 0o755)
	}
	if err == nil {
		err = repo.WriteFile(g.file, append(data, '\n'), 0o600)
	}
	g.loaded = err == nil
	return err
}

// groupID is the id that follows from a key's names.
func groupID(k target.Key) string {
	sum := sha256.Sum256([]byte(k.Repository + "\x00" + k.Application + "\x00" + k.Environment))
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, k.Application+"-"+k.Environment)
	return strings.Trim(plain[:min(len(plain), 80)], "-") + "-" + hex.EncodeToString(sum[:4])
}
