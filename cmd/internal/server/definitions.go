package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// definitions finds the files in artifacts by which builds name images.
type definitions struct {
	store *artifact.Store

	mu    sync.Mutex
	known map[string][]byte // by digest, which has no other bytes; nil: it has no such file
}

// Bounds of what is remembered.
const (
	maxDefinitions = 256 // artifacts
	maxKnown       = 64 << 10
)

// of are the files by artifact. The error matches fs.ErrNotExist when an artifact is gone.
func (d *definitions) of(ctx context.Context, kind string, files target.Files, r target.Release) (
	all map[string][]byte, err error,
) {
	name := services.DefinitionsFile(files)
	if kind != headgateyaml.Services || name == "" {
		return nil, nil
	}
	for of, digest := range r.Artifacts {
		data, err := d.file(ctx, digest, name)
		if err != nil {
			return nil, fmt.Errorf("release %d, artifact %s: %w", r.Number, of, err)
		}
		if data == nil {
			continue
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[of] = data
	}
	return all, nil
}

func (d *definitions) file(ctx context.Context, digest, name string) ([]byte, error) {
	d.mu.Lock()
	data, ok := d.known[digest]
	d.mu.Unlock()
	if ok {
		return data, nil
	}
	if !d.store.Has(digest) {
		return nil, fmt.Errorf("%s is not on this server any more: %w", digest, fs.ErrNotExist)
	}
	// One byte more than may be read has it be refused.
	data, err := d.store.ReadFile(ctx, digest, name, yamlfile.MaxBytes+1)
	switch {
	case errors.Is(err, artifact.ErrNoFile):
		data = nil
	case err != nil:
		return nil, err
	case data == nil:
		data = []byte{}
	}
	if len(data) > maxKnown {
		return data, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || len(d.known) >= maxDefinitions {
		d.known = map[string][]byte{}
	}
	d.known[digest] = data
	return data, nil
}
