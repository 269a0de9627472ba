package forge

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// lost is how many webhooks of a connection never came: what a poll found, and none told
// of. It is kept, for whoever is to see that webhooks do not arrive.
type lost struct {
	path string

	mu   sync.Mutex
	kept keptLost
}

// keptLost is what is on disk.
type keptLost struct {
	Count int64     `json:"count"`
	Last  time.Time `json:"last,omitzero"` // when the last of them was counted
	// Seen is set once all requests have been looked at: what fills an empty memory was
	// not lost.
	Seen bool `json:"seen,omitempty"`
	// Until is how far the forge's own log of deliveries has been read.
	Until time.Time `json:"until,omitzero"`
}

// openLost reads what was kept. What cannot be read is counted anew.
func openLost(path string) (*lost, error) {
	l := &lost{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(data, &l.kept) != nil {
		l.kept = keptLost{}
	}
	return l, nil
}

func (l *lost) read() keptLost {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept
}

// change keeps a change. What could not be written counts until the next start.
func (l *lost) change(do func(*keptLost)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.kept
	do(&l.kept)
	if l.kept == before {
		return nil
	}
	data, err := json.Marshal(l.kept)
	if err != nil {
		return err
	}
	return repo.WriteFile(l.path, data, 0o600)
}

func (l *lost) add(n int64, now time.Time) error {
	return l.change(func(k *keptLost) { k.Count, k.Last = k.Count+n, now })
}
