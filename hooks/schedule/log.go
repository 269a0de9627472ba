package schedule

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Refs is what the refs of all histories begin with.
const Refs = "refs/schedules/"

// Ref is the ref of a schedule's history.
func Ref(name string) string { return Refs + name }

// event is what a commit of a schedule's history tells.
type event string

const (
	declared event = "declared" // headgate.yaml names it, or says something else of when it is due
	removed  event = "removed"  // headgate.yaml does not name it any more
	due      event = "due"      // a build is to run; on record before it starts
	ended    event = "ended"    // what became of it
)

// kept is how many builds of a history are read, from its newest.
const kept = 100

// State is how a build is, or how it ended.
type State string

const (
	Open    State = "open"    // it runs, or waits for a worker
	Green   State = "green"   // it succeeded
	Failed  State = "failed"  // it failed, or could not be run
	Stopped State = "stopped" // its schedule was removed
)

// Build is one scheduled build. At most one of a schedule is open.
type Build struct {
	Number int       // of its schedule's, from 1
	At     time.Time // for which it was due; by hand: when it was asked for
	Late   bool      // earlier times were missed, and have come together in this one
	By     string    // who asked for it; "" for the schedule

	Branch    string
	Commit    repo.Hash // Zero: there was no such branch
	Tree      repo.Hash
	Buildspec string

	State   State
	Reason  string // failed, stopped: one line for people
	Phase   string
	Command string // that failed
	Exit    int
	LogLine int
	Log     string // digest of a build that ended, id of one that runs; "" if there is none
	Started time.Time
	Ended   time.Time
}

// History is what is on record of a schedule. The zero History is that of one
// that is not known yet.
type History struct {
	Name  string
	Tip   repo.Hash
	Cron  string // as it was declared last; "" when it was removed
	Zone  string
	Since time.Time // see cron.Entry
	// Builds has the newest ones, newest first. No build that is open is missing.
	Builds []Build
}

// Open is the build that has not ended.
func (h History) Open() (Build, bool) {
	for _, b := range h.Builds {
		if b.State == Open {
			return b, true
		}
	}
	return Build{}, false
}

// next is the number of the next build.
func (h History) next() int {
	if len(h.Builds) == 0 {
		return 1
	}
	return h.Builds[0].Number + 1
}

// histories reads and writes the histories of one repository's schedules: a chain
// of signed commits each, one a move of its ref. It is safe for concurrent use,
// and keeps what it has read by the tip.
//
// Each commit says when the schedule was declared and was due last, so that the
// newest ones are enough.
type histories struct {
	r       *repo.Repository
	changed func() // is called after an event

	mu    sync.Mutex
	known map[string]History
}

// list is the histories of all schedules that there ever were, by name.
func (hs *histories) list() (map[string]History, error) {
	refs, err := hs.r.Refs(Refs)
	if err != nil {
		return nil, err
	}
	all := map[string]History{}
	for _, ref := range refs {
		name := strings.TrimPrefix(ref.Name, Refs)
		if all[name], err = hs.read(name, ref.Hash); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// of is the history of one schedule.
func (hs *histories) of(name string) (History, error) {
	tip, err := hs.r.Ref(Ref(name))
	if err != nil || tip == repo.Zero {
		return History{Name: name}, err
	}
	return hs.read(name, tip)
}

func (hs *histories) read(name string, tip repo.Hash) (History, error) {
	hs.mu.Lock()
	known, ok := hs.known[name]
	hs.mu.Unlock()
	if ok && known.Tip == tip {
		return known, nil
	}

	type link struct {
		at       time.Time
		trailers []repo.Trailer
	}
	var links []link // newest first
	for at, builds := tip, 0; builds < kept; {
		c, err := hs.r.Commit(at)
		if err != nil {
			return History{}, fmt.Errorf("read schedule %s of %s: %w", name, hs.r.Name(), err)
		}
		links = append(links, link{c.Committer.When.UTC(), repo.Trailers(c.Message)})
		if repo.TrailerValue(c.Message, "Event") == string(due) {
			builds++
		}
		if len(c.ParentHashes) == 0 {
			break
		}
		at = c.ParentHashes[0]
	}
	h := History{Name: name, Tip: tip}
	for _, l := range slices.Backward(links) {
		h.apply(l.at, l.trailers)
	}
	hs.keep(h)
	return h, nil
}

// Ending is a build that has ended, and the commit that says so.
type Ending struct {
	Commit repo.Hash
	Build  Build
}

// newsFor is how old an ending may be that somebody hears of who knows of none before it.
const newsFor = 24 * time.Hour

// Endings are the builds of a schedule that ended after one commit of its history and up to
// another, oldest first; after the Zero commit, those of the last day. What is older than the
// history that is kept is left out.
func Endings(r *repo.Repository, name string, after, upTo repo.Hash, now time.Time) ([]Ending, error) {
	hs := histories{r: r, known: map[string]History{}, changed: func() {}}
	h, err := hs.read(name, upTo)
	if err != nil {
		return nil, err
	}
	var list []Ending
	const eventsOfABuild = 3 // and that it was declared, or removed
	for at, n := upTo, 0; at != after && n < eventsOfABuild*kept; n++ {
		c, err := r.Commit(at)
		if err != nil {
			return nil, fmt.Errorf("read schedule %s of %s: %w", name, r.Name(), err)
		}
		if after == repo.Zero && now.Sub(c.Committer.When) > newsFor {
			break
		}
		if repo.TrailerValue(c.Message, "Event") == string(ended) {
			number, _ := strconv.Atoi(repo.TrailerValue(c.Message, "Run")) // 0 is none's
			if i := slices.IndexFunc(h.Builds, func(b Build) bool { return b.Number == number }); i >= 0 {
				list = append(list, Ending{at, h.Builds[i]})
			}
		}
		if len(c.ParentHashes) == 0 {
			break
		}
		at = c.ParentHashes[0]
	}
	slices.Reverse(list)
	return list, nil
}

func (hs *histories) keep(h History) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.known[h.Name] = h
}

// append adds one event to a history as the caller knows it. It returns
// repo.ErrMoved, and adds nothing, when that has gone on since. h has Cron, Zone
// and Since as they are after the event, b is the build it is about.
func (hs *histories) append(ctx context.Context, h History, e event, subject string, at time.Time,
	b Build) (History, error) {
	trailers := trailersOf(h, e, b)
	parents := []repo.Hash{}
	if h.Tip != repo.Zero {
		parents = append(parents, h.Tip)
	}
	if e == due && b.Commit != repo.Zero {
		parents = append(parents, b.Commit) // which keeps it alive
	}
	commit, err := hs.r.WriteCommit(repo.NewCommit{
		Parents: parents,
		Author:  repo.Person{Name: b.By},
		At:      at,
		Message: repo.Message(terminal.Message(subject, 200), "", trailers...),
	})
	if err == nil {
		err = hs.r.Move(ctx, Ref(h.Name), h.Tip, commit)
	}
	if err != nil {
		return History{}, fmt.Errorf("note %q in schedule %s of %s: %w", e, h.Name, hs.r.Name(), err)
	}
	// It is durable now; nothing below may fail.
	h.Tip, h.Builds = commit, slices.Clone(h.Builds)
	h.apply(at.UTC().Truncate(time.Second), trailers)
	hs.keep(h)
	hs.changed()
	return h, nil
}

func trailersOf(h History, e event, b Build) []repo.Trailer {
	var ts []repo.Trailer
	text := func(key, value string) {
		if value = terminal.Message(value, 500); value != "" {
			ts = append(ts, repo.Trailer{Key: key, Value: value})
		}
	}
	number := func(key string, n int) {
		if n != 0 {
			text(key, strconv.Itoa(n))
		}
	}
	moment := func(key string, t time.Time) {
		if !t.IsZero() {
			text(key, t.UTC().Format(time.RFC3339))
		}
	}
	hash := func(key string, h repo.Hash) {
		if h != repo.Zero {
			text(key, h.String())
		}
	}

	text("Event", string(e))
	text("Cron", h.Cron)
	text("Zone", h.Zone)
	moment("Since", h.Since)
	number("Run", b.Number)
	switch e {
	case due:
		moment("At", b.At)
		if b.Late {
			text("Late", "yes")
		}
		text("By", b.By)
		text("Branch", b.Branch)
		hash("Commit", b.Commit)
		hash("Tree", b.Tree)
		text("Buildspec", b.Buildspec)
	case ended:
		text("State", string(b.State))
		text("Reason", b.Reason)
		text("Phase", b.Phase)
		text("Command", b.Command)
		number("Exit", b.Exit)
		number("Log-Line", b.LogLine)
		text("Log", b.Log)
		moment("Started", b.Started)
	}
	return ts
}

// apply takes up one commit. A trailer that it does not know is ignored.
func (h *History) apply(at time.Time, trailers []repo.Trailer) {
	value := map[string]string{}
	for _, t := range trailers {
		value[t.Key] = t.Value
	}
	number := func(key string) int { n, _ := strconv.Atoi(value[key]); return max(0, n) }
	moment := func(key string) time.Time { t, _ := time.Parse(time.RFC3339, value[key]); return t }
	hash := func(key string) repo.Hash { h, _ := repo.ParseHash(value[key]); return h }

	h.Cron, h.Zone, h.Since = value["Cron"], value["Zone"], moment("Since")
	b := Build{Number: number("Run")}
	i := slices.IndexFunc(h.Builds, func(k Build) bool { return k.Number == b.Number })
	if i >= 0 {
		b = h.Builds[i]
	}
	switch event(value["Event"]) {
	case due:
		b = Build{
			Number:    b.Number,
			At:        moment("At"),
			Late:      value["Late"] != "",
			By:        value["By"],
			Branch:    value["Branch"],
			Commit:    hash("Commit"),
			Tree:      hash("Tree"),
			Buildspec: value["Buildspec"],
			State:     Open,
		}
	case ended:
		if i < 0 {
			return // older than what is kept
		}
		b.State, b.Reason = State(value["State"]), value["Reason"]
		b.Phase, b.Command, b.Exit = value["Phase"], value["Command"], number("Exit")
		b.Log, b.LogLine = value["Log"], number("Log-Line")
		b.Started, b.Ended = moment("Started"), at
	default:
		return
	}
	if i < 0 {
		h.Builds = slices.Insert(h.Builds[:min(len(h.Builds), kept-1)], 0, b)
		return
	}
	h.Builds[i] = b
}
