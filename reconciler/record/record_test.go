package record

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/target"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func hashOf(parts ...any) repo.Hash {
	return plumbing.ComputeHash(plumbing.BlobObject, []byte(fmt.Sprint(parts...)))
}

// drawn is any promotion or rollback that can be written, whatever people put
// into subjects and reasons.
func drawn(t *rapid.T, tree repo.Hash) Promotion {
	text := rapid.StringN(0, 60, -1)
	oneLine := func(label string) string {
		return strings.Join(strings.Fields(terminal.Message(text.Draw(t, label), maxWhy)), " ")
	}
	moment := func(label string) time.Time {
		return noon.Add(time.Duration(rapid.IntRange(0, 1e8).Draw(t, label)) * time.Second)
	}

	p := Promotion{
		ID:       PromotionID("hello", "staging", hashOf("parent"), tree),
		Sequence: rapid.IntRange(0, 1e6).Draw(t, "sequence"),
		Release:  rapid.IntRange(1, 1e6).Draw(t, "release"),
		Source:   hashOf("source"),
		Path:     "deploy/staging",
		Policy:   "sha256:p",
		Decision: Decision{policies.Auto, hashOf("decision"), rapid.IntRange(0, 1e6).Draw(t, "place")},
		Subject:  text.Draw(t, "subject"),
		Carries:  Span{rapid.IntRange(0, 3).Draw(t, "carries"), rapid.IntRange(0, 3).Draw(t, "since")},
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "artifacts") {
		p.Artifacts = append(p.Artifacts, Artifact{Name: fmt.Sprintf("a@%d", i), Digest: "sha256:aa"})
	}
	if rapid.Bool().Draw(t, "upstream") {
		p.From = Origin{"test-1", hashOf("up")}
		p.Soak = Soak{moment("healthy"), time.Duration(rapid.IntRange(1, 1e6).Draw(t, "soak")) * time.Second}
	}
	if rapid.IntRange(0, 4).Draw(t, "removal") == 0 {
		p.Removal, p.Release, p.Path = true, 0, ""
		return p
	}
	if rapid.Bool().Draw(t, "rollback") {
		p.Rollback = &Rollback{Of: hashOf("of"), Restores: hashOf("restores"), By: "jun", Reason: oneLine("reason")}
		return p
	}
	if rapid.Bool().Draw(t, "replaces") {
		p.Replaces = hashOf("before")
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "approvals") {
		a := Approval{User: fmt.Sprintf("ada%d", i), Email: "ada@example.com", Tree: tree, At: moment("at"), Via: "ssh",
			Why: oneLine("why")}
		if !a.Written() {
			t.Fatalf("cannot be written: %+v", a)
		}
		p.Approvals = append(p.Approvals, a)
	}
	for range rapid.IntRange(0, 2).Draw(t, "former") {
		p.Former = append(p.Former, Approval{User: "sam", Tree: hashOf("another"), At: moment("then"), Via: "push"})
	}
	return p
}

// TestPromotionReadsBack writes promotions and rollbacks and reads them.
func TestPromotionReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := hashOf("tree", rapid.Int().Draw(t, "tree"))
		p := drawn(t, tree)
		message := p.Message("hello", "staging")
		got, ok := ParsePromotion(message, tree)
		if !ok {
			t.Fatalf("not read back:\n%s", message)
		}

		p.Carries, p.Subject, got.Subject = Span{}, "", "" // for people
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("wrote %+v\nread  %+v\nof\n%s", p, got, message)
		}
	})
}

// TestMessage is the message as people and git see it.
func TestMessage(t *testing.T) {
	tree := hashOf("tree")
	p := Promotion{
		ID:        "p-0123456789ab",
		Release:   3,
		Source:    hashOf("source"),
		Path:      "deploy/production",
		Artifacts: []Artifact{{Name: "web", Digest: "sha256:aa"}},
		From:      Origin{"staging", hashOf("up")},
		Soak:      Soak{noon, 4 * time.Hour},
		Replaces:  hashOf("before"),
		Policy:    "sha256:p",
		Decision:  Decision{policies.Auto, hashOf("d"), 7},
		Approvals: []Approval{{User: "ada", Email: "ada@example.com", Tree: tree, At: noon, Via: "ssh", Why: "fine by me"}},
		Subject:   "Say it louder",
		Carries:   Span{2, 1},
	}
	replacer := strings.NewReplacer(
		hashOf("source").String(), "SOURCE", hashOf("source").String()[:7], "SOURCE7", hashOf("up").String(), "UP",
		hashOf("before").String(), "BEFORE", hashOf("d").String(), "DECISION", hashOf(
			"d").String()[:7], "DECISION7", tree.String(), "TREE")
	want := `promote web to production: release 3 (SOURCE7)

Say it louder

2 releases since release 1

Release: 3
Source-Commit: SOURCE
Path: deploy/production
Includes: BEFORE..SOURCE
Artifact: web@sha256:aa
Promoted-From: env/staging@UP
Soak: healthy there since 2026-11-24T12:00:00Z (required 4h0m0s)
Policy: sha256:p
Decision: auto d-DECISION7 DECISION #7
Approved-by: ada <ada@example.com> tree=TREE at=2026-11-24T12:00:00Z via=ssh why="fine by me"
Promotion-Id: p-0123456789ab
`
	if got := replacer.Replace(p.Message("web", "production")); got != want {
		t.Errorf("got\n%s", got)
	}

	p.Approvals, p.From, p.Soak, p.Replaces = nil, Origin{}, Soak{}, repo.Zero
	p.Rollback = &Rollback{Of: hashOf("before"), Restores: hashOf("up"), By: "jun", Reason: "5xx"}
	want = `rollback web in production to release 3

Reason: "5xx"
Rollback-Of: BEFORE
Restores: UP
Trigger: jun
Hold: web until promoted forward
Release: 3
Source-Commit: SOURCE
Path: deploy/production
Artifact: web@sha256:aa
Policy: sha256:p
Decision: auto d-DECISION7 DECISION #7
Promotion-Id: p-0123456789ab
`
	if got := replacer.Replace(p.Message("web", "production")); got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestOnlyWholeApprovalsCount reads trailers that are nearly approvals.
func TestOnlyWholeApprovalsCount(t *testing.T) {
	tree := hashOf("tree")
	good := "ada <ada@example.com> tree=" + tree.String() + " at=2026-11-24T12:00:00Z via=ssh"
	for value, want := range map[string]bool{
		good:                       true,
		good + ` why="fine by me"`: true,
		strings.Replace(good, "<ada@example.com>", "<>", 1): true,
		good + ` why=fine`:                                            false,
		good + " ":                                                    false,
		good + " tree=" + tree.String():                               false,
		strings.Replace(good, "ada ", "", 1):                          false,
		strings.Replace(good, "tree=", "", 1):                         false,
		strings.Replace(good, tree.String(), tree.String()[:39], 1):   false,
		strings.Replace(good, "2026-11-24T12:00:00Z", "yesterday", 1): false,
		"policy": false,
		"":       false,
	} {
		if _, ok := parseApproval(value); ok != want {
			t.Errorf("%q: %t", value, ok)
		}
	}

	// Of another tree, and a second time by the same user: neither counts.
	another := strings.Replace(strings.Replace(good, "ada ", "jun ", 1), tree.String(), hashOf("other").String(), 1)
	message := repo.Message("promote", "",
		repo.Trailer{Key: "Release", Value: "1"},
		repo.Trailer{Key: "Source-Commit", Value: hashOf("s").String()},
		repo.Trailer{Key: "Promotion-Id", Value: "p-1"},
		repo.Trailer{Key: "Approved-by", Value: good},
		repo.Trailer{Key: "Approved-by", Value: good},
		repo.Trailer{Key: "Approved-by", Value: another})
	p, ok := ParsePromotion(message, tree)
	if !ok || len(p.Approvals) != 1 || p.Approvals[0].User != "ada" {
		t.Fatalf("%+v, %t", p.Approvals, ok)
	}
}

// What dies again and again, four times a minute, makes few notes, and each of them
// is right: what the note calls healthy has lasted, or had not failed before.
func TestCrashLoopMakesFewNotes(t *testing.T) {
	t.Parallel()
	commit := hashOf("commit")
	var o Outcome
	notes := 0
	take := func(state target.State, since, now time.Time) {
		next, news, _ := o.Next(commit, Report{Commit: commit.String(), State: state, Since: since}, now)
		if news {
			notes++
		}
		o = next
	}
	at := noon
	for range 4 * 60 { // an hour of it
		take(target.Converging, at, at)
		take(target.Healthy, at.Add(5*time.Second), at.Add(5*time.Second))
		take(target.Healthy, at.Add(5*time.Second), at.Add(14*time.Second))
		take(target.Degraded, at.Add(14*time.Second), at.Add(14*time.Second))
		at = at.Add(15 * time.Second)
	}
	if notes > 8 || o.State != target.Degraded || !o.HealthySince.IsZero() {
		t.Errorf("%d notes, and then %+v", notes, o)
	}

	// It lasts at last.
	take(target.Healthy, at, at.Add(29*time.Second))
	if o.State != target.Degraded {
		t.Errorf("it is %+v after 29 seconds", o)
	}
	take(target.Healthy, at, at.Add(30*time.Second))
	if o.State != target.Healthy || !o.HealthySince.Equal(at) {
		t.Errorf("it is %+v, healthy since %s", o, at)
	}
	take(target.Failed, at.Add(calm), at.Add(calm))
	if o.Lost != 1 {
		t.Errorf("after an hour of health, %d losses are remembered", o.Lost)
	}
}

// TestOutcomeReadsBack writes and reads notes, and adds covered releases.
func TestOutcomeReadsBack(t *testing.T) {
	states := []target.State{target.Unknown, target.Converging, target.Healthy, target.Degraded, target.Failed}
	rapid.Check(t, func(t *rapid.T) {
		commit := hashOf("commit")
		var o Outcome
		for range rapid.IntRange(0, 20).Draw(t, "reports") {
			report := Report{
				Commit:  commit.String(),
				State:   rapid.SampledFrom(states).Draw(t, "state"),
				Since:   noon.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "since")) * time.Minute),
				Message: rapid.String().Draw(t, "message"),
			}
			before := o
			now := report.Since.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "later")) * time.Second)
			next, news, again := o.Next(commit, report, now)
			if again.After(now) == news && news {
				t.Fatal("it is news, and to be asked again")
			}
			if settled, ok, _ := o.Next(commit, report, again); !again.IsZero() && (!ok || settled.State != target.Healthy) {
				t.Fatalf("asked again it is %+v, %t", settled, ok)
			}
			if !news && !reflect.DeepEqual(next, before) {
				t.Fatalf("no news, but %+v became %+v", before, next)
			}
			if next.State == target.Healthy != !next.HealthySince.IsZero() {
				t.Fatalf("%s since %s", next.State, next.HealthySince)
			}
			if before.FailedAt.IsZero() && !next.FailedAt.IsZero() && report.State != target.Failed {
				t.Fatalf("failed by %s", report.State)
			}
			if _, twice, _ := next.Next(commit, report, now); twice {
				t.Fatalf("the same report is news twice: %+v", report)
			}
			o = next
		}
		if n := rapid.IntRange(0, 3).Draw(t, "covers"); n > 0 {
			o = o.WithCover(Covered{n, hashOf("cover", n).String()})
		}

		data, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got := ParseOutcome(data); !reflect.DeepEqual(got, o) {
			t.Fatalf("wrote %+v\nread  %+v", o, got)
		}
	})
}

// TestCoversTheNewest: a note names newer releases, and slips in it name none.
func TestCoversTheNewest(t *testing.T) {
	source := hashOf("source")
	o := Outcome{}.WithCover(Covered{5, hashOf("five").String()}).WithCover(Covered{4,
		hashOf("four").String()}).WithCover(Covered{9, "nine"})
	if n, h := o.Newest(3, source); n != 5 || h != hashOf("five") {
		t.Errorf("covers %d, %s", n, h)
	}
	if n, h := o.Newest(7, source); n != 7 || h != source {
		t.Errorf("covers %d, %s", n, h)
	}
}

// FuzzPromotion reads messages from anywhere: no panic, nothing that counts
// without saying which content it is about, and what is read is written again so
// that it reads the same.
func FuzzPromotion(f *testing.F) {
	tree := hashOf("tree")
	p := Promotion{ID: "p-1", Release: 1, Source: hashOf("s"),
		Approvals: []Approval{{User: "ada", Tree: tree, At: noon, Via: "ssh"}}}
	f.Add(p.Message("hello", "staging"))
	p.Approvals, p.Rollback = nil, &Rollback{Of: hashOf("of"), Restores: hashOf("r"), By: "jun", Reason: "slow"}
	f.Add(p.Message("hello", "staging"))
	f.Add("a\n\nApproved-by: ada <a> tree=0 at=x via=y")
	f.Fuzz(func(t *testing.T, message string) {
		p, ok := ParsePromotion(message, tree)
		for _, a := range p.Approvals {
			if a.Tree != tree || a.User == "" {
				t.Fatalf("%+v", a)
			}
		}
		if ok && (p.Release < 1 && !p.Removal || p.ID == "" || p.Source == repo.Zero) {
			t.Fatalf("%+v", p)
		}
		if !ok {
			return
		}
		again, ok := ParsePromotion(p.Message("hello", "staging"), tree)
		if !ok || again.Release != p.Release || again.Source != p.Source || len(again.Approvals) > len(p.Approvals) {
			t.Fatalf("read %+v\nwrote it and read %+v", p, again)
		}
	})
}

// FuzzNotes reads notes, holds and manifests from anywhere. What cannot be read
// is never healthy, and always a hold.
func FuzzNotes(f *testing.F) {
	f.Add([]byte(`{"state": "healthy"}`))
	f.Add([]byte(`{"covers": [{"release": 1e9, "commit": "x"}]}`))
	f.Add([]byte(`{"by": "ada", "at": "2026-11-24T12:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o := ParseOutcome(data)
		if o.Good() && !strings.Contains(strings.ToLower(string(data)), "healthy") {
			t.Fatalf("good by %q", data)
		}
		if encoded, err := o.Encode(); err == nil && !reflect.DeepEqual(ParseOutcome(encoded).Covers, o.Covers) {
			t.Fatalf("%+v", o)
		}
		if parseHold(data) == nil {
			t.Fatal("a hold that is there is none")
		}
	})
}

// newRepository is an empty repository in a store of its own.
func newRepository(t *testing.T) *repo.Repository {
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

// TestTreesReadBack renders a release beside another application, rolls it back,
// and reads what was written.
func TestTreesReadBack(t *testing.T) {
	r := newRepository(t)
	file := repo.Blob([]byte("services: {}\n"))
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	edit := repo.Edit{Mode: filemode.Regular, Hash: file.Hash()}
	source, err := r.TreeWith(repo.Zero, map[string]repo.Edit{"deploy/compose.yaml": edit, "deploy/release.json": edit})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := r.WriteCommit(repo.NewCommit{Tree: source, At: noon, Message: "one"})
	if err != nil {
		t.Fatal(err)
	}
	rel := Release{Number: 1, Commit: commit, Change: 4, Artifacts: []Artifact{{Name: "web", Digest: "sha256:aa"}}}

	base, err := r.TreeWith(repo.Zero, map[string]repo.Edit{"apps/other/compose.yaml": edit, HoldPath("web"): edit})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Render(r, base, "web", rel, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	m, err := ManifestOf(r, tree, "web")
	want := Manifest{Release: 1, Commit: commit.String(), Tree: source.String(), Change: 4,
		Artifacts: map[string]string{"web": "sha256:aa"}}
	if err != nil || !reflect.DeepEqual(m, want) {
		t.Fatalf("manifest %+v, %v", m, err)
	}
	if hold, err := holdOf(r, tree, "web"); hold != nil || err != nil {
		t.Fatalf("held: %+v, %v", hold, err)
	}
	if other, err := r.File(tree, "apps/other/compose.yaml"); err != nil || string(other) != "services: {}\n" {
		t.Fatalf("the other application: %q, %v", other, err)
	}

	if same, err := SameContent(r, tree, "web", Release{Number: 2, Commit: commit, Artifacts: rel.Artifacts},
		"deploy"); !same || err != nil {
		t.Fatalf("same: %t, %v", same, err)
	}
	if same, err := SameContent(r, tree, "web", Release{Number: 2, Commit: commit}, "deploy"); same || err != nil {
		t.Fatalf("with other artifacts: %t, %v", same, err)
	}
	if _, err := Render(r, base, "web", rel, "nowhere"); err != ErrNoDirectory {
		t.Fatalf("without the directory: %v", err)
	}

	held := Hold{By: "jun", At: noon, Reason: "5xx"}
	back, err := Restore(r, base, tree, "web", held)
	if err != nil {
		t.Fatal(err)
	}
	if hold, err := holdOf(r, back, "web"); err != nil || hold == nil || *hold != held {
		t.Fatalf("held: %+v, %v", hold, err)
	}
	was, _ := r.Lookup(tree, ApplicationPath("web"))
	is, err := r.Lookup(back, ApplicationPath("web"))
	if err != nil || was.Hash != is.Hash {
		t.Fatalf("restored %s as %s, %v", was.Hash, is.Hash, err)
	}
}
