package forge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/signal"
)

// publisher pushes a repository of this server to a forge. Its goroutine (run) owns
// what is not behind mu, and holds up nobody: what moves here has moved.
//
// It is level-triggered: where the refs are here is compared with where they are there.
// What it moves there by force or deletes is only what it has put there itself, which is
// on disk before it is put; what somebody has moved to what is not here it leaves alone.
type publisher struct {
	hub  *Hub
	conf access.Publication
	mail signal.Mailbox[struct{}]

	put    *published
	inStep map[string]repo.Hash // where the refs were here when they last were so there

	mu     sync.Mutex
	status Publishing
	asked  bool // to look at the forge at once
}

// Publishing says how a publication is.
type Publishing struct {
	Refs     int       // that are to be there
	LastStep time.Time // that all of them were where they are here, but those that diverged
	NextLook time.Time
	Moved    int64    // moves there, since the start
	Diverged []string // refs there that somebody has moved, or made, and that stay; the first of them
	Left     int      // that have names that no forge is given
	Failing  string
	RetryAt  time.Time
}

// published is what was put at a forge, on disk.
type published struct {
	path string
	URL  string              `json:"url"` // of that forge
	Refs map[string]putThere `json:"refs"`
}

// putThere is where a ref was put. Next is where it was about to be put when the server
// was last heard of.
type putThere struct {
	At   string `json:"at,omitempty"`
	Next string `json:"next,omitempty"`
}

func (p putThere) is(h repo.Hash) bool {
	return h != repo.Zero && (p.At == h.String() || p.Next == h.String())
}

const (
	lookAgain    = time.Hour // at a forge where nobody else is meant to move anything
	pushesAtOnce = 100
	maxDiverged  = 20 // that are shown
)

// openPublished reads what was kept. What cannot be read is begun again: then all that
// does not follow from what is here is somebody's.
func openPublished(path, url string) (*published, error) {
	p := &published{path: path, URL: url, Refs: map[string]putThere{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	var kept published
	if len(data) > maxMemory || json.Unmarshal(data, &kept) != nil || kept.URL != url || kept.Refs == nil {
		return p, nil
	}
	p.Refs = kept.Refs
	return p, nil
}

func (p *published) save() error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return repo.WriteFile(p.path, data, 0o600)
}

// Status says how it is.
func (p *publisher) Status() Publishing {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Diverged = slices.Clone(s.Diverged)
	return s
}

// askNow has the forge looked at now.
func (p *publisher) askNow() {
	p.mu.Lock()
	p.asked = true
	p.mu.Unlock()
	p.mail.Wake()
}

// run works until ctx is done.
func (p *publisher) run(ctx context.Context) {
	moved, unwatch := p.hub.Store.Watch(p.conf.Repository)
	defer unwatch()
	var tries backOff
	look := time.Now()
	for {
		p.mu.Lock()
		if p.asked {
			p.asked, look, tries = false, time.Now(), backOff{}
		}
		p.mu.Unlock()
		now := time.Now()
		var err error
		if !tries.until.After(now) {
			err = p.pass(ctx, !look.After(now))
			if ctx.Err() != nil {
				return
			}
			if now = time.Now(); err == nil {
				tries = backOff{}
				if !look.After(now) {
					look = now.Add(lookAgain)
				}
			} else {
				look = tries.failed(err, now)
				p.hub.Log.Warn("could not publish", "publication", p.conf.Name, "repo", p.conf.Repository, "err", err,
					"again_at", look.UTC().Format(time.RFC3339))
			}
			p.mu.Lock()
			p.status.Failing, p.status.RetryAt, p.status.NextLook = "", time.Time{}, look
			if err != nil {
				p.status.Failing, p.status.RetryAt = err.Error(), look
			}
			p.mu.Unlock()
		}
		timer := time.NewTimer(time.Until(later(look, tries.until)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.mail.C():
		case <-moved:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wanted is where refs are here that are to be there, and how many have names that no
// forge is given.
func (p *publisher) wanted(r *repo.Repository) (want map[string]repo.Hash, left int, err error) {
	want = map[string]repo.Hash{}
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		refs, err := r.Refs(prefix)
		if err != nil {
			return nil, 0, err
		}
		for _, ref := range refs {
			switch {
			case !p.conf.Publishes(ref.Name):
			case !mirrored(ref.Name):
				left++
			default:
				want[ref.Name] = ref.Hash
			}
		}
	}
	return want, left, nil
}

// pass brings the forge to where the repository is. Without look it asks it nothing
// while nothing has moved here.
func (p *publisher) pass(ctx context.Context, look bool) error {
	r, err := p.hub.Store.Repository(p.conf.Repository)
	if err != nil {
		return err
	}
	want, left, err := p.wanted(r)
	if err != nil {
		return err
	}
	if !look && maps.Equal(want, p.inStep) {
		return nil
	}
	m, err := p.hub.remoteOf(p.conf.Forge, p.conf.URL, repositoryAt(p.conf.URL), p.conf.Credentials,
		appUse{writes: true})
	if err != nil {
		return err
	}
	there, err := m.list(ctx, r)
	if err != nil {
		return err
	}
	due, diverged, err := p.plan(ctx, r, want, there.refs)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(due, pushesAtOnce) {
		if err = p.push(ctx, m, r, batch); err != nil {
			break
		}
	}
	slices.Sort(diverged)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(diverged) > len(p.status.Diverged) {
		p.hub.Log.Warn("left alone what was moved at the forge", "publication", p.conf.Name, "refs", len(diverged), "first",
			diverged[0])
	}
	p.status.Refs, p.status.Left = len(want), left
	p.status.Diverged = diverged[:min(len(diverged), maxDiverged)]
	if err == nil {
		p.inStep, p.status.LastStep = want, time.Now()
	}
	return err
}

// plan says what has to move there, deletions first, and what stays because it is
// somebody else's.
func (p *publisher) plan(ctx context.Context, r *repo.Repository,
	want, there map[string]repo.Hash) (due []Move, diverged []string, err error) {
	changed := false
	for name, put := range p.put.Refs {
		if want[name] != repo.Zero {
			continue
		}
		here, err := r.Ref(name)
		if err != nil {
			return nil, nil, err
		}
		if here == repo.Zero && put.is(there[name]) && len(want) > 0 {
			due = append(due, Move{Ref: name, Old: there[name]})
			continue
		}
		if len(want) > 0 { // it is not published any more, or is somebody's, or is gone
			delete(p.put.Refs, name)
			changed = true
		}
	}
	byName := func(a, b Move) int { return strings.Compare(a.Ref, b.Ref) }
	slices.SortFunc(due, byName)
	var moves []Move
	for name, hash := range want {
		at := there[name]
		switch follows, err := p.follows(ctx, r, name, at, hash); {
		case err != nil:
			return nil, nil, err
		case at == hash:
			if kept := (putThere{At: hash.String()}); p.put.Refs[name] != kept {
				p.put.Refs[name], changed = kept, true
			}
		case follows:
			moves = append(moves, Move{Ref: name, Old: at, New: hash})
		default:
			diverged = append(diverged, name)
		}
	}
	slices.SortFunc(moves, byName)
	if changed {
		err = p.put.save()
	}
	return append(due, moves...), diverged, err
}

// follows reports whether a ref may be moved there from at to hash: it is not there, or
// was put there by this server, or is a branch of whose commits all are in hash.
func (p *publisher) follows(ctx context.Context, r *repo.Repository, name string, at, hash repo.Hash) (bool, error) {
	switch {
	case at == hash, at == repo.Zero, p.put.Refs[name].is(at):
		return true, nil
	case !strings.HasPrefix(name, "refs/heads/") || !r.Has(at):
		return false, nil
	}
	return r.Contains(ctx, hash, at)
}

// push moves refs at the forge, each from where it was seen or not at all. What is about
// to be put is on disk first: after a kill it is known for ours.
func (p *publisher) push(ctx context.Context, m remote, r *repo.Repository, moves []Move) error {
	args := []string{"push", "--quiet", "--no-verify", "--no-follow-tags", "--no-signed", "--recurse-submodules=no"}
	var refspecs, names []string
	for _, move := range moves {
		lease, source := move.Old.String(), move.New.String()
		if move.Old == repo.Zero {
			lease = ""
		}
		if put := p.put.Refs[move.Ref]; move.New == repo.Zero {
			source = ""
		} else {
			if put.is(move.Old) {
				put.At = move.Old.String() // which a kill may have kept from being noted
			}
			p.put.Refs[move.Ref] = putThere{At: put.At, Next: move.New.String()}
		}
		args = append(args, "--force-with-lease="+move.Ref+":"+lease)
		refspecs, names = append(refspecs, source+":"+move.Ref), append(names, move.Ref)
	}
	if err := p.put.save(); err != nil {
		return err
	}
	crash.Point("publish.noted")
	timeout, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	_, refused := m.git(timeout, r, nil, append(append(args, "--end-of-options", m.url), refspecs...)...)
	crash.Point("publish.pushed")
	now, err := m.refsAt(ctx, r, names...)
	if err != nil {
		if refused != nil {
			err = gitSaid("push to the forge", refused)
		}
		return err
	}
	var behind []string
	for _, move := range moves {
		if now[move.Ref] != move.New {
			behind = append(behind, move.Ref)
			continue
		}
		p.put.Refs[move.Ref] = putThere{At: move.New.String()}
		if move.New == repo.Zero {
			delete(p.put.Refs, move.Ref)
		}
		p.mu.Lock()
		p.status.Moved++
		p.mu.Unlock()
		p.hub.Log.Info("published", "publication", p.conf.Name, "repo", r.Name(), "ref", move.Ref, "commit",
			move.New.String())
	}
	if err := p.put.save(); err != nil || len(behind) == 0 {
		return err
	}
	if refused == nil {
		return fmt.Errorf("%s moved at the forge meanwhile", behind[0])
	}
	return gitSaid(fmt.Sprintf("push %s to the forge", strings.Join(behind[:min(len(behind), 3)], ", ")), refused)
}
