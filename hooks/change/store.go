package change

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// ErrNone is returned by Read for a number that no change has.
var ErrNone = errors.New("no such change")

// ErrMoved is returned by Append and Revise when the change's story has gone on
// since the caller read it.
var ErrMoved = repo.ErrMoved

const prefix = "refs/changes/"

// Ref is the ref of a change's log.
func Ref(number int) string { return prefix + strconv.Itoa(number) + "/log" }

// HeadRef is the ref of a change's newest revision.
func HeadRef(number int) string { return prefix + strconv.Itoa(number) + "/head" }

// Store is the changes of one repository. It is safe for concurrent
// use. What it has read it keeps, by the log's tip: a summary of each change, and the
// newest of the changes themselves.
type Store struct {
	r *repo.Repository

	mu        sync.Mutex
	changes   map[int]Change       // those that were read last: keep
	newest    int                  // highest number known to be taken
	roots     map[string]time.Time // by branch, see root
	summaries map[int]Summary      // of all, as their logs were; nil: not looked at
	listed    []Summary            // of all, as Summaries gave them last; never changed
	packed    packedLogs           // of most changes
	unwritten int                  // of those that are not on disk
	after     int                  // that many are not: rememberAfter
}

// Of is the Store of a repository.
func Of(r *repo.Repository) *Store {
	return &Store{r: r, changes: map[int]Change{}, roots: map[string]time.Time{}, after: rememberAfter}
}

// Push is an accepted push: what Open and Revise record.
type Push struct {
	Branch   string // short name
	Commit   repo.Hash
	By       string // the proven user
	Key      string // fingerprint of the proven key
	Via      string // "push" if empty
	Options  []string
	Decision repo.Hash
	At       time.Time
}

// Open makes a new change from a push. When it returns nil the change is
// durable and cannot be lost.
func (st *Store) Open(ctx context.Context, p Push) (Change, error) {
	if p.Branch == "" || p.Commit == repo.Zero || p.By == "" {
		return Change{}, fmt.Errorf("open change in %s: branch, commit and user must be known", st.r.Name())
	}
	number, err := st.next(false)
	for ; err == nil; number, err = st.next(true) {
		var s Change
		if s, err = st.open(ctx, number, p); !errors.Is(err, repo.ErrMoved) {
			return s, err
		}
	}
	return Change{}, err
}

func (st *Store) open(ctx context.Context, number int, p Push) (Change, error) {
	root, err := st.root(p.Branch, p.At)
	if err != nil {
		return Change{}, fmt.Errorf("open change %d of %s: %w", number, st.r.Name(), err)
	}
	s := Change{Repository: st.r.Name(), Number: number, Branch: p.Branch, Tip: root}
	return st.push(ctx, s, repo.Zero, p)
}

// root makes the commit that the chains of changes to a branch begin with, so that
// --first-parent never leads out of the story into the pushed commit's history.
// Equal content is one object: all changes that a process opens begin with the
// same one. It is written each time, for it may have been packed, or removed.
func (st *Store) root(branch string, now time.Time) (repo.Hash, error) {
	st.mu.Lock()
	at, known := st.roots[branch]
	if !known {
		at = now
		st.roots[branch] = at
	}
	st.mu.Unlock()
	return st.r.WriteCommit(repo.NewCommit{At: at, Message: repo.Message(
		fmt.Sprintf("changes of %s, to %s", st.r.Name(), branch), "",
		repo.Trailer{Key: "Repository", Value: st.r.Name()},
		repo.Trailer{Key: "Branch", Value: branch},
	)})
}

// Revise adds a revision to a change as the caller knows it.
func (st *Store) Revise(ctx context.Context, s Change, p Push) (Change, error) {
	p.Branch = s.Branch
	return st.push(ctx, s, s.Tip, p)
}

func (st *Store) push(ctx context.Context, s Change, old repo.Hash, p Push) (Change, error) {
	c, err := st.r.Commit(p.Commit)
	if err != nil {
		return Change{}, err
	}
	subject, via := terminal.Message(repo.Subject(c.Message), 200), p.Via
	if via == "" {
		via = "push"
	}
	e := Event{
		Kind:     Pushed,
		Revision: len(s.Revisions) + 1,
		At:       p.At,
		By:       p.By,
		Subject:  fmt.Sprintf("%s pushed revision %d to %s: %s", p.By, len(s.Revisions)+1, s.Branch, subject),
		Facts:    Facts{Decision: p.Decision},
	}
	trailers := []repo.Trailer{
		{Key: "Branch", Value: s.Branch},
		{Key: "Commit", Value: p.Commit.String()},
		{Key: "Subject", Value: subject},
		{Key: "Author", Value: c.Author.Name},
		{Key: "Key", Value: p.Key},
		{Key: "Via", Value: via},
	}
	for _, o := range p.Options {
		trailers = append(trailers, repo.Trailer{Key: "Option", Value: o})
	}
	crash.Point("push.proposed")
	s, err = st.append(ctx, s, old, e, trailers, p.Commit)
	if err != nil {
		return Change{}, err
	}
	crash.Point("push.accepted")
	return s, nil
}

// Append adds an event to a change as the caller knows it. It returns ErrMoved,
// and adds nothing, when the story has gone on since.
func (st *Store) Append(ctx context.Context, s Change, e Event) (Change, error) {
	if e.Revision == 0 {
		e.Revision = s.Head().Number
	}
	return st.append(ctx, s, s.Tip, e, nil)
}

// append writes e, with further trailers and parents, after s.Tip and moves the
// ref from old.
func (st *Store) append(
	ctx context.Context, s Change, old repo.Hash, e Event, trailers []repo.Trailer, parents ...repo.Hash,
) (Change, error) {
	author := repo.Person{}
	if e.By != "" {
		author = repo.Person{Name: e.By}
	}
	message := e.message(s.Number, trailers...)
	commit, err := st.r.WriteCommit(repo.NewCommit{
		Parents: append([]repo.Hash{s.Tip}, parents...),
		Author:  author, At: e.At, Message: message,
	})
	if err == nil {
		err = st.r.Move(ctx, Ref(s.Number), old, commit)
	}
	if err != nil {
		return Change{}, fmt.Errorf("note %q in change %d of %s: %w", e.Kind, s.Number, s.Repository, err)
	}
	// It is durable now; nothing below may fail.
	s.Tip = commit
	s.add(commit, e.At.UTC().Truncate(time.Second), message)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.newest = max(st.newest, s.Number)
	st.keep(s)
	if st.summaries != nil && e.Kind.ends() {
		st.learn(s.Summary())
	}
	return s, nil
}

// RepairHead makes refs/changes/<n>/head point at the newest revision. Opening
// and revising leave that to the caller: the head follows from the log.
func (st *Store) RepairHead(ctx context.Context, s Change) error {
	for {
		at, err := st.r.Ref(HeadRef(s.Number))
		if err != nil || at == s.Head().Commit {
			return err
		}
		if err := st.r.Move(ctx, HeadRef(s.Number), at, s.Head().Commit); !errors.Is(err, repo.ErrMoved) {
			return err
		}
		if s, err = st.Read(s.Number); err != nil {
			return err
		}
	}
}

// HeadsBehind are the changes, by number, whose head is not at their newest revision.
func (st *Store) HeadsBehind() ([]Change, error) {
	all, err := st.Summaries()
	if err != nil {
		return nil, err
	}
	refs, err := st.r.Refs(prefix)
	if err != nil {
		return nil, err
	}
	heads := make(map[string]repo.Hash, len(refs)/2)
	for _, ref := range refs {
		heads[ref.Name] = ref.Hash
	}
	var behind []Change
	for _, of := range all {
		if heads[HeadRef(of.Number)] == of.Head {
			continue
		}
		s, err := st.read(of.Number, of.Tip)
		if err != nil {
			return nil, err
		}
		behind = append(behind, s)
	}
	return behind, nil
}

// Read returns the story of one change, or ErrNone.
func (st *Store) Read(number int) (Change, error) {
	tip, err := st.r.Ref(Ref(number))
	if err != nil {
		return Change{}, err
	}
	if tip == repo.Zero {
		return Change{}, ErrNone
	}
	return st.read(number, tip)
}

// List returns all changes by number. It reads every log: what needs some of them finds
// those.
func (st *Store) List() ([]Change, error) {
	logs, err := st.logs()
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, log := range logs {
		s, err := st.read(log.number, log.tip)
		if err != nil {
			return nil, err
		}
		changes = append(changes, s)
	}
	return changes, nil
}

// next is a number that is probably free; Open finds out by creating its ref.
func (st *Store) next(look bool) (int, error) {
	st.mu.Lock()
	newest := st.newest
	st.mu.Unlock()
	if newest == 0 || look {
		logs, err := st.logs()
		if err != nil {
			return 0, err
		}
		if n := len(logs); n > 0 {
			newest = max(newest, logs[n-1].number)
		}
	}
	return newest + 1, nil
}

// read parses the chain below tip, as far as it is not known yet.
func (st *Store) read(number int, tip repo.Hash) (Change, error) {
	st.mu.Lock()
	known := st.changes[number]
	st.mu.Unlock()
	if known.Tip == tip {
		return known, nil
	}
	s := Change{Repository: st.r.Name(), Number: number, Tip: tip}
	type link struct {
		commit  repo.Hash
		at      time.Time
		message string
	}
	var links []link // newest first
	for at := tip; ; {
		if at == known.Tip {
			s.Branch, s.Revisions, s.Events = known.Branch, known.Revisions, known.Events
			break
		}
		c, err := st.r.Commit(at)
		if err != nil {
			return Change{}, fmt.Errorf("read change %d: %w", number, err)
		}
		if len(c.ParentHashes) == 0 {
			s.Branch = repo.TrailerValue(c.Message, "Branch")
			break
		}
		links = append(links, link{at, c.Committer.When.UTC(), c.Message})
		at = c.ParentHashes[0]
	}
	for _, k := range slices.Backward(links) {
		s.add(k.commit, k.at, k.message)
		if e := s.Events[len(s.Events)-1]; e.Revision < 1 || e.Revision > len(s.Revisions) || e.Kind == Pushed &&
			e.Revision != len(s.Revisions) {
			return Change{}, fmt.Errorf("read change %d of %s: its event %s is of revision %d, of %d", number, st.r.Name(),
				k.commit, e.Revision, len(s.Revisions))
		}
	}
	if len(s.Revisions) == 0 || s.Events[0].Kind != Pushed || s.Branch == "" {
		return Change{}, fmt.Errorf("read change %d of %s: its log at %s does not begin with a push", number,
			st.r.Name(), tip)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.keep(s)
	return s, nil
}

// kept bounds how many changes are kept in memory whole, at some kilobytes each.
const kept = 1000

// keep keeps a change for the next who reads it, and forgets old ones when there are too
// many. The caller holds mu.
func (st *Store) keep(s Change) {
	st.changes[s.Number] = s
	if len(st.changes) <= kept {
		return
	}
	numbers := slices.Sorted(maps.Keys(st.changes))
	for _, number := range numbers[:kept/4] {
		delete(st.changes, number)
	}
}

// add puts an event at the end, leaving changes that share the slices alone.
func (s *Change) add(commit repo.Hash, at time.Time, message string) {
	e, trailers := event(commit, at, message)
	s.Events = append(slices.Clip(s.Events), e)
	if e.Kind == Pushed {
		s.Revisions = append(slices.Clip(s.Revisions), revision(e, trailers))
	}
}

func revision(e Event, trailers []repo.Trailer) Revision {
	r := Revision{Number: e.Revision, By: e.By, At: e.At, Decision: e.Decision}
	for _, t := range trailers {
		switch t.Key {
		case "Commit":
			r.Commit, _ = repo.ParseHash(t.Value)
		case "Subject":
			r.Subject = t.Value
		case "Author":
			r.Author = t.Value
		case "Key":
			r.Key = t.Value
		case "Via":
			r.Via = t.Value
		case "Option":
			r.Options = append(r.Options, t.Value)
		}
	}
	return r
}
