package change

import (
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Summary is the part of a change by which one is found among many: of all of them it
// is kept in memory and on disk, so that neither a start nor a search reads every log.
type Summary struct {
	Number  int
	Tip     repo.Hash // of the log, which says all the rest
	Branch  string    // short name: main
	Via     string    // what the first revision came by: Revision.Via
	Ended   bool      // the newest revision has come to its end
	State   show.State
	Head    repo.Hash // commit of the newest revision
	By      string    // the user who pushed that
	Author  string    // what the commit says, unproven
	Subject string    // of the commit
	Landed  bool      // some revision has landed
	Old     repo.Hash // where the newest landing moved the branch from; Zero too: it came with another's
	New     repo.Hash // and to
}

// Summary is the part of a change that is kept of all.
func (s Change) Summary() Summary {
	head := s.Head()
	sum := Summary{
		Number:  s.Number,
		Tip:     s.Tip,
		Branch:  s.Branch,
		Via:     s.Revisions[0].Via,
		Ended:   !s.Open(),
		State:   s.State(),
		Head:    head.Commit,
		By:      head.By,
		Author:  head.Author,
		Subject: head.Subject,
	}
	if e, ok := s.Landing(); ok {
		sum.Landed, sum.Old, sum.New = true, e.Old, e.New
	}
	return sum
}

// Summaries are those of all changes, by number, which the caller does not change. Logs
// are read as far as they are new.
func (st *Store) Summaries() ([]Summary, error) {
	logs, err := st.logs()
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	st.recall()
	known := st.listed // which others have
	is := func(s Summary, log log) bool { return s.Number == log.number && s.Tip == log.tip }
	if slices.EqualFunc(known, logs, is) {
		st.mu.Unlock()
		return known, nil
	}
	known = make([]Summary, len(logs)) // of which some are others' than their logs are now
	for i, log := range logs {
		if i < len(st.listed) && is(st.listed[i], log) {
			known[i] = st.listed[i]
		} else {
			known[i] = st.summaries[log.number]
		}
	}
	st.mu.Unlock()

	var fresh []Summary
	for i, log := range logs {
		if known[i].Tip == log.tip && known[i].State != "" { // without, an earlier version wrote it down
			continue
		}
		s, err := st.read(log.number, log.tip)
		if err != nil {
			return nil, err
		}
		known[i] = s.Summary()
		fresh = append(fresh, known[i])
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.learn(fresh...)
	st.listed = known
	return known, nil
}

// Find yields the changes of which the summary matches, newest first. Only those are read.
func (st *Store) Find(match func(Summary) bool) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		all, err := st.Summaries()
		if err != nil {
			yield(Change{}, err)
			return
		}
		for _, sum := range slices.Backward(all) {
			if !match(sum) {
				continue
			}
			if s, err := st.read(sum.Number, sum.Tip); !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// First is the newest change of which the summary matches; found is false if none does.
func (st *Store) First(match func(Summary) bool) (s Change, found bool, err error) {
	for s, err := range st.Find(match) {
		return s, err == nil, err
	}
	return Change{}, false, nil
}

// log is where a change's log is.
type log struct {
	number int
	tip    repo.Hash
}

func byNumber(a, b log) int { return a.number - b.number }

// packedLogs are those of refs that are packed.
type packedLogs struct {
	refs []repo.Ref
	logs []log
}

// logs are those of all changes, by number, which the caller does not change.
func (st *Store) logs() ([]log, error) {
	loose, packed, err := st.r.RefParts(prefix)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	if was := st.packed.refs; len(was) != len(packed) || len(was) > 0 && &was[0] != &packed[0] {
		st.packed = packedLogs{packed, logsOf(packed)}
	}
	old := st.packed.logs
	st.mu.Unlock()

	fresh := logsOf(loose)
	if len(fresh) == 0 {
		return old, nil
	}
	logs := append(make([]log, 0, len(old)+len(fresh)), old...)
	for _, log := range fresh {
		if i, found := slices.BinarySearchFunc(logs, log, byNumber); found {
			logs[i] = log
		} else {
			logs = slices.Insert(logs, i, log)
		}
	}
	return logs, nil
}

// logsOf are those among refs, by number.
func logsOf(refs []repo.Ref) []log {
	logs := make([]log, 0, len(refs)/2)
	for _, ref := range refs {
		if number, ok := numberOf(ref.Name); ok {
			logs = append(logs, log{number, ref.Hash})
		}
	}
	slices.SortFunc(logs, byNumber)
	return logs
}

// The file in which all summaries are kept is written again when so many are new.
const (
	remembered    = "changes"
	rememberAfter = 200
)

// row is a Summary as the file has it. Hashes are strings of bytes, which are read in
// a tenth of the time of arrays.
type row struct {
	Number                   int
	Ended, Landed            bool
	Tip, Head, Old, New      string
	State, Branch            string
	Via, By, Author, Subject string
}

// recall reads what is remembered, once. The caller holds mu.
func (st *Store) recall() {
	if st.summaries != nil {
		return
	}
	st.summaries = map[int]Summary{}
	var rows []row
	if !st.r.Recall(remembered, &rows) {
		return
	}
	for _, of := range rows {
		st.summaries[of.Number] = Summary{
			Number:  of.Number,
			Tip:     hashOf(of.Tip),
			Branch:  of.Branch,
			Via:     of.Via,
			Ended:   of.Ended,
			State:   show.State(of.State),
			Landed:  of.Landed,
			Head:    hashOf(of.Head),
			By:      of.By,
			Author:  of.Author,
			Subject: of.Subject,
			Old:     hashOf(of.Old),
			New:     hashOf(of.New),
		}
	}
}

// learn takes summaries, and writes all of them for the next start when many are new.
// The caller holds mu.
func (st *Store) learn(list ...Summary) {
	for _, sum := range list {
		st.summaries[sum.Number] = sum
	}
	if st.unwritten += len(list); st.unwritten < st.after {
		return
	}
	rows := make([]row, 0, len(st.summaries))
	for _, sum := range st.summaries {
		rows = append(rows, row{
			Number:  sum.Number,
			Tip:     string(sum.Tip[:]),
			Branch:  sum.Branch,
			Via:     sum.Via,
			Ended:   sum.Ended,
			State:   string(sum.State),
			Landed:  sum.Landed,
			Head:    string(sum.Head[:]),
			By:      sum.By,
			Author:  sum.Author,
			Subject: sum.Subject,
			Old:     string(sum.Old[:]),
			New:     string(sum.New[:]),
		})
	}
	_ = st.r.Remember(remembered, rows) // the next start reads the logs, then
	st.unwritten = 0
}

func hashOf(raw string) (h repo.Hash) {
	copy(h[:], raw)
	return h
}

// numberOf reads "refs/changes/7/log".
func numberOf(ref string) (int, bool) {
	middle, ok := strings.CutSuffix(strings.TrimPrefix(ref, prefix), "/log")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(middle)
	return n, err == nil && n > 0 && '1' <= middle[0] && middle[0] <= '9'
}
