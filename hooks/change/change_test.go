package change

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

func testRepository(t testing.TB) *repo.Repository {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func push(t testing.TB, r *repo.Repository, message string, options ...string) Push {
	t.Helper()
	c, err := r.WriteCommit(repo.NewCommit{At: noon, Message: message})
	if err != nil {
		t.Fatal(err)
	}
	return Push{Branch: "main", Commit: c, By: "ada", Key: "SHA256:abc", Options: options, At: noon}
}

func TestLog(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	p := push(t, r, "Show fees\n\nwith a body", "priority=high", "title=fix: the thing")
	s, err := l.Open(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if s.Number != 1 || s.Branch != "main" || !s.Open() || s.State() != show.Queued || s.Head().Subject != "Show fees" {
		t.Fatalf("%+v", s)
	}
	if v, ok := s.Head().Option("title"); !ok || v != "fix: the thing" {
		t.Fatalf("%q", v)
	}
	s, err = l.Append(t.Context(), s, Event{
		Kind:    Refused,
		At:      noon.Add(time.Minute),
		Subject: `refused: build: "go test" exited 1`,
		Details: []string{"first", "", "second"},
		Facts:   Facts{Reason: "it is red", Took: 90 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	second := push(t, r, "Show fees, better")
	second.By = "jun"
	if s, err = l.Revise(t.Context(), s, second); err != nil {
		t.Fatal(err)
	}
	check := func(s Change) {
		t.Helper()
		if len(s.Revisions) != 2 || len(s.Events) != 3 || s.Head().Number != 2 || s.Head().By != "jun" || !s.Open() {
			t.Fatalf("%+v", s)
		}
		e := s.Events[1]
		if e.Kind != Refused || e.Revision != 1 || !slices.Equal(e.Details, []string{"first", "second"}) ||
			e.Reason != "it is red" || e.Took != 90*time.Second || !e.At.Equal(noon.Add(time.Minute)) {
			t.Fatalf("%+v", e)
		}
		if rev := s.Revisions[0]; rev.Commit != p.Commit || rev.Key != "SHA256:abc" || rev.Via != "push" ||
			len(rev.Options) != 2 {
			t.Fatalf("%+v", rev)
		}
	}
	check(s)
	fresh, err := Of(r).Read(1) // nothing remembered
	if err != nil {
		t.Fatal(err)
	}
	check(fresh)
	c, err := r.Commit(fresh.Events[2].Commit)
	if err != nil || len(c.ParentHashes) != 2 || c.ParentHashes[1] != second.Commit {
		t.Fatalf("%v, %v", c, err)
	}
	if err := l.RepairHead(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if h, err := r.Ref(HeadRef(1)); err != nil || h != second.Commit {
		t.Fatalf("%s, %v", h, err)
	}
	if _, err := l.Read(2); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
}

func TestAppendNeedsTheNewestChange(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	s, err := l.Open(t.Context(), push(t, r, "one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), s, Event{Kind: Withdrawn, At: noon, Subject: "withdrawn"}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), s, Event{Kind: Landed, At: noon, Subject: "landed"}); !errors.Is(err, ErrMoved) {
		t.Fatalf("two events after one: %v", err)
	}
	if s, err = l.Read(1); err != nil || s.State() != show.Withdrawn || s.Open() {
		t.Fatalf("%+v, %v", s, err)
	}
}

func TestNumbersAreTakenOnce(t *testing.T) {
	r := testRepository(t)
	const n = 20
	var wg sync.WaitGroup
	numbers := make(chan int, n)
	for i := range n {
		p := push(t, r, fmt.Sprint("change ", i))
		l := Of(r) // each with its own idea of the newest
		wg.Go(func() {
			s, err := l.Open(t.Context(), p)
			if err != nil {
				t.Error(err)
			}
			numbers <- s.Number
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for range n {
		seen[<-numbers] = true
	}
	list, err := Of(r).List()
	if err != nil || len(seen) != n || len(list) != n || list[n-1].Number != n {
		t.Fatalf("%d numbers, %d changes, %v", len(seen), len(list), err)
	}
}

// TestHostileText: nothing that a pusher writes can add a line to the story.
func TestHostileText(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	p := push(t, r, "evil\x1b]0;x\x07\nEvent: landed", "a=b\n\nEvent: landed\nRevision: 1", strings.Repeat("x", 5000))
	s, err := l.Open(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := Of(r).Read(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Change{s, fresh} {
		if len(s.Events) != 1 || !s.Open() || strings.ContainsAny(s.Events[0].Subject, "\x1b\x07\n") {
			t.Fatalf("%+v", s.Events)
		}
		if o := s.Head().Options; len(o) != 2 || o[0] != "a=b  Event: landed Revision: 1" &&
			o[0] != "a=b Event: landed Revision: 1" || len(o[1]) > 1100 {
			t.Fatalf("%q", o)
		}
	}
}

// TestListReadsOnlyWhatIsNew: a log is parsed once for each of its tips.
func TestListReadsOnlyWhatIsNew(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	for i := range 5 {
		if _, err := l.Open(t.Context(), push(t, r, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	l = Of(r)
	first, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Of(r).Append(t.Context(), first[2], Event{Kind: Withdrawn, At: noon, Subject: "withdrawn"}); err != nil {
		t.Fatal(err)
	}
	second, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	for i := range second {
		if same := &second[i].Events[0] == &first[i].Events[0]; same != (i != 2) {
			t.Errorf("change %d was read again: %v", i+1, !same)
		}
	}
	if len(second[2].Events) != 2 || len(first[2].Events) != 1 {
		t.Fatal("the new event is not there, or changed what was given out")
	}
}

// TestSummariesFollow: whatever moves, and whether refs are packed, who has listed
// before is told what somebody is who never did; and what was given out stays.
func TestSummariesFollow(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	pack := func() {
		t.Helper()
		if _, err := r.Pack(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	steps := []func(open []Change) error{
		func([]Change) error { pack(); return nil },
		func(open []Change) error {
			_, err := Of(r).Revise(t.Context(), open[1], push(t, r, "again"))
			return err
		},
		func(open []Change) error {
			_, err := Of(r).Append(t.Context(), open[0], Event{Kind: Withdrawn, At: noon, Subject: "withdrawn"})
			return err
		},
		func([]Change) error { pack(); return nil },
		func([]Change) error { _, err := Of(r).Open(t.Context(), push(t, r, "one more")); return err },
		func(open []Change) error { return r.Move(t.Context(), Ref(2), open[1].Tip, repo.Zero) },
		func([]Change) error { pack(); return nil },
		func([]Change) error { return nil },
	}
	for i := range 12 {
		if _, err := l.Open(t.Context(), push(t, r, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	var given [][]Summary // and as they were
	for i, step := range steps {
		open, err := Of(r).List()
		if err != nil {
			t.Fatal(err)
		}
		if err := step(open); err != nil {
			t.Fatal(err)
		}
		got, err := l.Summaries()
		if err != nil {
			t.Fatal(err)
		}
		want, err := Of(r).Summaries()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("after step %d: %+v, %v, and not\n%+v", i, got, err, want)
		}
		given = append(given, got, slices.Clone(got))
	}
	for i := 0; i < len(given); i += 2 {
		if !slices.Equal(given[i], given[i+1]) {
			t.Errorf("what was given out after step %d is another now", i/2)
		}
	}
}

// TestSummariesAreRemembered: another process reads what is remembered instead of the
// logs; the log of a change that went on is read, and a file that is damaged, or of
// another history, changes nothing.
func TestSummariesAreRemembered(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	l.after = 3
	if _, err := l.Summaries(); err != nil { // what begins with nothing learns of the first landing on
		t.Fatal(err)
	}
	var all []Change
	for i := range 4 {
		s, err := l.Open(t.Context(), push(t, r, fmt.Sprint(i), "title=x"))
		if err == nil && i > 0 {
			s, err = l.Append(t.Context(), s, Event{Kind: Landed, At: noon, Subject: "landed",
				Facts: Facts{Old: s.Head().Commit, New: s.Tip}})
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	file := filepath.Join(r.Dir(), "headgate", "changes")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if all[3], err = l.Revise(t.Context(), all[3], push(t, r, "again")); err != nil {
		t.Fatal(err)
	}

	recalled := Of(r)
	recalled.recall()
	if len(recalled.summaries) != 3 || recalled.summaries[2] != all[1].Summary() {
		t.Fatalf("recalled are %+v", recalled.summaries)
	}
	torn := slices.Clone(old) // a page of it was never written
	at := bytes.Index(torn, []byte("push"))
	clear(torn[at : at+4])
	for name, content := range map[string][]byte{"": old, "damaged": old[:len(old)/2], "torn": torn, "empty": {}} {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		fresh := Of(r)
		got, err := fresh.Summaries()
		want := []Summary{all[0].Summary(), all[1].Summary(), all[2].Summary(), all[3].Summary()}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %+v, %v, want\n%+v", name, got, err, want)
		}
		if read := slices.Sorted(maps.Keys(fresh.changes)); name == "" && !slices.Equal(read, []int{1, 4}) {
			t.Errorf("the logs of %d were read, and those of 2 and 3 are as they were", read)
		}
	}

	// A log that begins anew shares nothing with what is remembered of its number.
	if err := os.WriteFile(file, old, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Move(t.Context(), Ref(3), all[2].Tip, repo.Zero); err != nil {
		t.Fatal(err)
	}
	if _, err := l.open(t.Context(), 3, push(t, r, "anew")); err != nil {
		t.Fatal(err)
	}
	got, found, err := Of(r).First(func(of Summary) bool { return of.Number == 3 })
	if err != nil || !found || got.Head().Subject != "anew" || len(got.Revisions) != 1 {
		t.Errorf("%+v, %v, %v", got, found, err)
	}
}

// TestFind: what matches is read, newest first, and no more of it than is taken.
func TestFind(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	for i := range 12 {
		if _, err := l.Open(t.Context(), push(t, r, fmt.Sprint("number ", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	fresh := Of(r)
	if _, err := fresh.Summaries(); err != nil {
		t.Fatal(err)
	}
	clear(fresh.changes)
	var got []int
	for s, err := range fresh.Find(func(of Summary) bool { return of.Number%2 == 0 }) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, s.Number); len(got) == 3 {
			break
		}
	}
	read := slices.Sorted(maps.Keys(fresh.changes))
	if !slices.Equal(got, []int{12, 10, 8}) || !slices.Equal(read, []int{8, 10, 12}) {
		t.Errorf("found %d, read %d", got, read)
	}
	if s, found, err := fresh.First(func(of Summary) bool { return of.Subject == "no such" }); found || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestHeadsBehind: a head that a kill left behind its log is found among all.
func TestHeadsBehind(t *testing.T) {
	r := testRepository(t)
	l := Of(r)
	for i := range 3 {
		s, err := l.Open(t.Context(), push(t, r, fmt.Sprint(i)))
		if err == nil && i != 1 {
			err = l.RepairHead(t.Context(), s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := Of(r).HeadsBehind()
	if err != nil || len(got) != 1 || got[0].Number != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func BenchmarkSummaries1000(b *testing.B) {
	r := testRepository(b)
	l := Of(r)
	p := push(b, r, "one")
	for range 1000 {
		if _, err := l.Open(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := r.Pack(b.Context(), time.Now()); err != nil { // as the server does
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := l.Summaries(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFactsRoundTrip: what is written as trailers is read back, each fact of it.
func TestFactsRoundTrip(t *testing.T) {
	hash := func(digit string) repo.Hash {
		h, _ := repo.ParseHash(strings.Repeat(digit, 40))
		return h
	}
	want := Facts{
		Candidate: hash("1"),
		Base:      hash("2"),
		Tree:      hash("3"),
		Verdict:   "sha256:ab",
		Log:       "sha256:cd",
		Took:      90 * time.Second,
		Decision:  hash("4"),
		Rules:     []string{"owners", "freeze"},
		Until:     noon.Add(time.Hour),
		Old:       hash("5"),
		New:       hash("6"),
		In:        hash("7"),
		Tip:       hash("8"),
		Cause:     DeniedByPolicy,
		Files:     []string{"a.txt", "and 3 more files", "main is at b"},
		MoreFiles: 3,
		With:      12,
		Assertion: "ancestor",
		Reason:    "policy: no",
		Short:     "no",
		Hint:      "ask: somebody",
	}
	for i, f := range reflect.VisibleFields(reflect.TypeFor[Facts]()) {
		if reflect.ValueOf(want).Field(i).IsZero() {
			t.Errorf("the test says nothing of %s", f.Name)
		}
	}
	message := Event{Kind: Refused, Revision: 2, Subject: "refused", Details: []string{"more"}, Facts: want}.message(7)
	if got, _ := event(repo.Zero, noon, message); !reflect.DeepEqual(got.Facts, want) {
		t.Errorf("read back:\n%+v\nfrom:\n%s", got.Facts, message)
	}
	if ts := (Facts{}).trailers(); slices.ContainsFunc(ts, func(t repo.Trailer) bool { return t.Value != "" }) {
		t.Errorf("no facts are %+v", ts)
	}
}
