package repo

import (
	"fmt"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

// InMemory is a repository that holds just these objects, for reading them as those of any
// other: it has no refs, and belongs to no store. Each is there by the id that its bytes
// have, whatever whoever sent it calls it.
func InMemory(name string, objects []Object) (*Repository, error) {
	storage := memory.NewStorage()
	for _, o := range objects {
		encoded := &plumbing.MemoryObject{}
		encoded.SetType(o.Kind)
		if _, err := encoded.Write(o.Content); err != nil {
			return nil, err
		}
		if _, err := storage.SetEncodedObject(encoded); err != nil {
			return nil, fmt.Errorf("hold an object of %s: %w", name, err)
		}
	}
	g, err := git.Init(storage, nil)
	if err != nil {
		return nil, err
	}
	return &Repository{store: &Store{}, name: name, git: g}, nil
}
