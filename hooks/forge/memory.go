package forge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// memory is what was last heard of a connection's requests, and said at the forge.
// Losing it costs a repetition of what was said, and no landing.
type memory struct {
	path string
	kept string // what is on disk

	all  map[int]*remembered      // requests
	tips map[string]*publishedTip // by branch

	promotions  map[string]*proposedPromotion // by environment
	deployments map[string]*saidDeployment    // by environment
	protections map[string]*protection        // by run and environment
}

// memoryFile is what is on disk.
type memoryFile struct {
	Requests map[int]*remembered      `json:"requests"`
	Tips     map[string]*publishedTip `json:"tips,omitempty"`

	Promotions  map[string]*proposedPromotion `json:"promotions,omitempty"`
	Deployments map[string]*saidDeployment    `json:"deployments,omitempty"`
	Protections map[string]*protection        `json:"protections,omitempty"`
}

// publishedTip is what was said last of the tip of a branch.
type publishedTip struct {
	Commit string    `json:"commit"`
	Check  Check     `json:"check"`
	As     CheckKind `json:"as,omitempty"`
	At     time.Time `json:"at"`
}

// remembered is one request.
type remembered struct {
	Open    bool   `json:"open"`
	Head    string `json:"head"`
	Target  string `json:"target"`
	Ignored string `json:"ignored,omitempty"` // why nothing is done about it

	OK      string    `json:"ok_to_test,omitempty"` // the head that somebody who may write has said /ok-to-test to
	Seen    int64     `json:"seen,omitempty"`       // the newest comment that was read
	SeenAt  time.Time `json:"seen_at,omitzero"`
	Replies []string  `json:"replies,omitempty"` // to commands about Head, newest last

	Published   Check     `json:"published"` // of the commit PublishedOf
	PublishedOf string    `json:"published_of,omitempty"`
	PublishedAs CheckKind `json:"published_as,omitempty"`
	PublishedAt time.Time `json:"published_at,omitzero"`
	Comment     int64     `json:"comment,omitempty"` // ours
	Said        string    `json:"said,omitempty"`    // in it
}

const (
	maxMemory  = 32 << 20
	maxReplies = 5
)

// openMemory reads what was kept. What cannot be read is begun again.
func openMemory(path string) (*memory, error) {
	m := &memory{
		path:        path,
		all:         map[int]*remembered{},
		tips:        map[string]*publishedTip{},
		promotions:  map[string]*proposedPromotion{},
		deployments: map[string]*saidDeployment{},
		protections: map[string]*protection{},
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if len(data) > maxMemory {
		return nil, fmt.Errorf("%s is longer than %d MiB", path, maxMemory>>20)
	}
	var f memoryFile
	if json.Unmarshal(data, &f) != nil {
		return m, nil
	}
	keep(m.all, f.Requests)
	keep(m.tips, f.Tips)
	keep(m.promotions, f.Promotions)
	keep(m.deployments, f.Deployments)
	keep(m.protections, f.Protections)
	m.kept = string(data)
	return m, nil
}

// keep takes over what is there.
func keep[K comparable, V any](to, from map[K]*V) {
	for key, one := range from {
		if one != nil {
			to[key] = one
		}
	}
}

func (m *memory) of(request int) *remembered {
	if m.all[request] == nil {
		m.all[request] = &remembered{}
	}
	return m.all[request]
}

// save keeps what there is now.
func (m *memory) save() error {
	data, err := json.Marshal(memoryFile{m.all, m.tips, m.promotions, m.deployments, m.protections})
	if err != nil || string(data) == m.kept {
		return err
	}
	if err := repo.WriteFile(m.path, data, 0o600); err != nil {
		return err
	}
	m.kept = string(data)
	return nil
}

// reply notes an answer to a comment.
func (m *remembered) reply(format string, args ...any) {
	m.Replies = append(m.Replies, fmt.Sprintf(format, args...))
	m.Replies = m.Replies[max(0, len(m.Replies)-maxReplies):]
}

// code is text that a forge shows as it is: no mention, link or markup in it counts.
func code(s string) string {
	s = strings.Join(strings.Fields(strings.ReplaceAll(s, "`", "'")), " ")
	if s == "" {
		return ""
	}
	return "`" + cut(s, 300) + "`"
}
