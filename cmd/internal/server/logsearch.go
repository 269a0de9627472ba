package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/change"
)

// Bounds of a search of build logs.
const (
	maxFoundLines    = 500
	maxSearchedBytes = 8 << 30
	logSearchTimeout = 30 * time.Second

	// As a part of a search of everything it is a glance at what was built lately.
	maxGlancedLines  = 20
	logGlanceTimeout = 2 * time.Second
)

// SearchLogs implements show.Backend.
func (s *Server) SearchLogs(ctx context.Context, a access.Identity,
	q show.LogSearch) iter.Seq2[show.FoundLine, error] {
	return func(yield func(show.FoundLine, error) bool) {
		text := strings.TrimSpace(q.Text)
		var err error
		switch {
		case text == "":
			err = &show.Error{Kind: show.Usage, What: "a search of logs needs a text"}
		case len(text) > maxQuery:
			err = &show.Error{Kind: show.Usage, What: fmt.Sprintf("a search is at most %d bytes", maxQuery)}
		}
		var names []string
		if err == nil {
			names, err = s.searched(ctx, a, q.Repository)
		}
		if err != nil {
			yield(show.FoundLine{}, err)
			return
		}
		most := maxFoundLines
		if q.Lines > 0 {
			most = min(q.Lines, most)
		}
		ctx, cancel := context.WithTimeout(ctx, logSearchTimeout)
		defer cancel()
		search := s.logs.Search(text, maxSearchedBytes)
		found := 0
		for log, err := range s.builtLogs(ctx, names) {
			if err == nil {
				err = s.searchLog(ctx, a, search, log, func(l show.FoundLine) bool {
					if found++; found > most {
						return false
					}
					return yield(l, nil)
				})
			}
			cut := &show.SearchCut{Until: log.BuiltAt}
			switch {
			case errors.Is(err, errEnough) && found <= most:
				return // whoever asked wants no more
			case errors.Is(err, errEnough):
				cut.Why = fmt.Sprintf("there are more than %s", show.Plural(most, "line"))
			case errors.Is(err, buildlog.ErrSpent):
				cut.Why = fmt.Sprintf("%d GiB of logs were looked through", maxSearchedBytes>>30)
			case ctx.Err() == context.DeadlineExceeded:
				cut.Why = "time was up"
			case err != nil:
				yield(show.FoundLine{}, err)
				return
			default:
				continue
			}
			yield(show.FoundLine{}, cut)
			return
		}
	}
}

// errEnough is that no more lines are wanted.
var errEnough = errors.New("enough lines were found")

// searchLog looks through one log, and through those of the tasks of a batch that it names.
// Who may not read the repository any more finds nothing more there.
func (s *Server) searchLog(ctx context.Context, a access.Identity, search *buildlog.Search, of show.FoundLine,
	found func(show.FoundLine) bool) error {
	may := func() bool { return s.access.Load().May(a, access.Read, of.Repository) }
	for m, err := range search.In(ctx, of.Build) {
		if errors.Is(err, buildlog.ErrNoLog) || !may() {
			return nil // it was cleared away, as nothing depends on it
		}
		if err != nil {
			return err
		}
		l := of
		l.Step, l.Phase, l.Command = m.Step, m.Phase, m.Command
		l.Line, l.At, l.Text = m.Line, millis(m.At), m.Text
		l.URL = s.about.HTTP + l.Path()
		if !found(l) {
			return errEnough
		}
	}
	if of.Task {
		return nil
	}
	for _, log := range search.Named() {
		task := of
		task.Build, task.Task = "sha256:"+log, true
		if err := s.searchLog(ctx, a, search, task, found); err != nil {
			return err
		}
	}
	return nil
}

// searched are the repositories of a search.
func (s *Server) searched(ctx context.Context, a access.Identity, name string) (names []string, err error) {
	if name != "" {
		_, err := s.readable(a, name)
		return []string{name}, err
	}
	all, err := s.Repositories(ctx, a)
	for _, r := range all {
		if r.State != show.Damaged {
			names = append(names, r.Name)
		}
	}
	return names, err
}

// builtLogs are the logs of what was built in repositories: the newest first, as far as a
// change with a higher number is newer.
func (s *Server) builtLogs(ctx context.Context, names []string) iter.Seq2[show.FoundLine, error] {
	return func(yield func(show.FoundLine, error) bool) {
		type source struct {
			log  show.FoundLine
			err  error
			next func() (show.FoundLine, error, bool)
		}
		var sources []*source
		add := func(logs iter.Seq2[show.FoundLine, error]) (stop func()) {
			next, stop := iter.Pull2(logs)
			src := &source{next: next}
			var ok bool
			if src.log, src.err, ok = next(); ok {
				sources = append(sources, src)
			}
			return stop
		}
		for _, name := range names {
			defer add(s.changeLogs(name))()
			defer add(s.scheduleLogs(name))()
		}
		for len(sources) > 0 {
			newest := slices.MinFunc(sources, func(x, y *source) int { return y.log.BuiltAt.Compare(x.log.BuiltAt) })
			if !yield(newest.log, cmp.Or(newest.err, ctx.Err())) {
				return
			}
			var ok bool
			if newest.log, newest.err, ok = newest.next(); !ok {
				sources = slices.DeleteFunc(sources, func(src *source) bool { return src == newest })
			}
		}
	}
}

// changeLogs are those of a repository's changes; a log that several have is the newest's.
func (s *Server) changeLogs(name string) iter.Seq2[show.FoundLine, error] {
	return func(yield func(show.FoundLine, error) bool) {
		building := map[int]string{}
		for _, e := range s.gate.Queue(name) {
			building[e.Change] = e.Log
		}
		seen := map[string]bool{}
		for story, err := range s.gate.Changes(name).Find(func(change.Summary) bool { return true }) {
			if err != nil {
				yield(show.FoundLine{}, err)
				return
			}
			newest := true
			one := func(log string, at time.Time) bool {
				if log == "" || seen[log] {
					return true
				}
				seen[log] = true
				of := show.FoundLine{Repository: name, Change: story.Number, Build: log,
					Newest: newest, BuiltAt: at.UTC()}
				newest = false
				return yield(of, nil)
			}
			if !one(building[story.Number], time.Now()) {
				return
			}
			for _, e := range slices.Backward(story.Events) {
				if !one(e.Log, e.At) {
					return
				}
			}
		}
	}
}

// scheduleLogs are those of a repository's scheduled builds.
func (s *Server) scheduleLogs(name string) iter.Seq2[show.FoundLine, error] {
	return func(yield func(show.FoundLine, error) bool) {
		list, err := s.schedules.List(name)
		if err != nil {
			yield(show.FoundLine{}, err)
			return
		}
		var logs []show.FoundLine
		for _, st := range list {
			for _, b := range st.Builds {
				if b.Log != "" {
					logs = append(logs, show.FoundLine{Repository: name, Schedule: st.Name,
						Run: b.Number, Build: b.Log, Newest: true, BuiltAt: b.At.UTC()})
				}
			}
		}
		slices.SortStableFunc(logs, func(x, y show.FoundLine) int { return y.BuiltAt.Compare(x.BuiltAt) })
		for _, log := range logs {
			if !yield(log, nil) {
				return
			}
		}
	}
}

// BuildLog implements show.Backend.
func (s *Server) BuildLog(ctx context.Context, a access.Identity, name string, number int,
	log string) iter.Seq2[show.LogEvent, error] {
	return s.followed(ctx, a, name, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
		return func(yield func(show.LogEvent, error) bool) {
			whole, err := s.logOf(ctx, a, name, number, log)
			if err != nil {
				yield(show.LogEvent{}, err)
				return
			}
			for e, err := range s.logs.Events(ctx, whole, false) {
				if errors.Is(err, buildlog.ErrNoLog) {
					err = &show.Error{Kind: show.NotFound, What: "the log of that build is gone"}
				}
				if !yield(e, err) {
					return
				}
			}
		}
	})
}

// logOf is the whole name of the log of a build of a change, or of a task of such a build. It
// finds no other: whoever may read a repository may read the logs of no other.
func (s *Server) logOf(ctx context.Context, a access.Identity, name string, number int, given string) (string, error) {
	c, err := s.Change(ctx, a, name, number)
	if err != nil {
		return "", err
	}
	story, _, err := s.gate.Change(name, number)
	if err != nil {
		return "", err
	}
	var logs []string
	if c.Build != nil {
		logs = append(logs, c.Build.Log, c.Build.ID)
	}
	for _, e := range slices.Backward(story.Events) {
		logs = append(logs, e.Log)
	}
	logs = slices.DeleteFunc(logs, func(log string) bool { return log == "" })
	for _, log := range logs {
		if show.IsLog(log, given) {
			return log, nil
		}
	}
	slices.Sort(logs)
	for _, of := range slices.Compact(logs) {
		for e, err := range s.logs.Events(ctx, of, false) {
			if errors.Is(err, buildlog.ErrNoLog) {
				break
			}
			if err != nil {
				return "", err
			}
			if e.Log != "" && show.IsLog(e.Log, given) {
				return e.Log, nil
			}
		}
	}
	return "", &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("change %d of %s has no build with the log %q", number, name, given),
		Hint: "see the log of its newest build", Command: fmt.Sprintf("change log %s %d", name, number),
	}
}
