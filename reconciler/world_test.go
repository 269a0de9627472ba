package reconciler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// world is a small model of repositories, targets and policy around Plan. It
// does what actions say, one at a time, so that a test can stop anywhere.
type world struct {
	now      time.Time
	releases []int
	content  map[int]string // of a release's folder and artifacts
	unproven map[int]bool
	envs     []*place
	commits  int
	violated []string // what must never be, when an action did it
}

type place struct {
	name, after string
	approvals   int
	soak        time.Duration
	branch      []*rendering // env/<name>
	proposal    *rendering   // promote/<name>
	told        repo.Hash
	report      Observed
}

type rendering struct {
	commit, parent, tree repo.Hash
	release              int
	id                   string
	held                 bool
	approvals            []Approval
	outcome              Outcome
	rollback             bool
}

func newWorld() *world {
	return &world{now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), content: map[int]string{}, unproven: map[int]bool{}}
}

func hashOf(parts ...any) repo.Hash {
	return plumbing.ComputeHash(plumbing.BlobObject, []byte(fmt.Sprint(parts...)))
}

func (w *world) place(name string) *place {
	for _, p := range w.envs {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (p *place) tip() *rendering {
	if len(p.branch) == 0 {
		return nil
	}
	return p.branch[len(p.branch)-1]
}

func (w *world) newCommit() repo.Hash {
	w.commits++
	return hashOf("commit", w.commits)
}

// treeOf is the promotion of a release: no hold, everything else as it is.
func (w *world) treeOf(release int) repo.Hash { return hashOf("release", release, w.content[release]) }

func (w *world) healthy(p *place) bool {
	t := p.tip()
	return t != nil && p.report.State == target.Healthy && p.report.Commit == t.commit.String() && t.outcome.State == target.Healthy
}

func (w *world) view(p *place) View {
	v := View{Now: w.now, Releases: w.releases, Observed: p.report, Told: p.told}
	if up := w.place(p.after); up != nil {
		v.Upstream = &Upstream{Name: up.name, Healthy: w.healthy(up)}
		if t := up.tip(); t != nil {
			v.Upstream.Release = t.outcome.covers(t.release)
		}
	}
	if t := p.tip(); t != nil {
		v.Declared = &Declared{Commit: t.commit, Sequence: len(p.branch), Release: t.release, Covers: t.outcome.covers(t.release), ID: t.id, Held: t.held}
		v.Outcome = t.outcome
	}
	if q := p.proposal; q != nil {
		v.Proposal = &Proposal{Commit: q.commit, Parent: q.parent, Tree: q.tree, Release: q.release, ID: q.id, Approvals: q.approvals}
	}
	if n := Want(v); n != 0 {
		v.Wanted = &Rendered{Release: n, Tree: w.treeOf(n), Unproven: w.unproven[n]}
		if t := p.tip(); t != nil && !t.held && !w.unproven[n] {
			v.Wanted.Same = w.content[n] == w.content[t.release]
		}
	}
	if v.Proposal != nil && v.Wanted != nil {
		v.Answer = w.answer(p, v)
	}
	return v
}

// answer is a policy of approvals and soak.
func (w *world) answer(p *place, v View) *Answer {
	a := &Answer{Proposal: v.Proposal.Commit, Decision: policies.Auto}
	if len(v.Proposal.Approvals) < p.approvals {
		a.Decision = policies.Manual
	}
	if up := w.place(p.after); up != nil && p.soak > 0 {
		until := up.tip().outcome.HealthySince.Add(p.soak)
		if w.now.Before(until) {
			a.Decision, a.NotBefore = policies.Manual, until
		}
	}
	if w.unproven[v.Proposal.Release] {
		a.Decision = policies.Deny
	}
	return a
}

func (w *world) forbid(format string, args ...any) {
	w.violated = append(w.violated, fmt.Sprintf(format, args...))
}

// act does one action and checks what must never be.
func (w *world) act(p *place, a Action) {
	t := p.tip()
	parent := repo.Zero
	if t != nil {
		parent = t.commit
	}
	switch a.Kind {
	case Converge:
		p.told = t.commit
		if p.report.Commit != t.commit.String() {
			p.report = Observed{Commit: t.commit.String(), State: target.Converging, Since: w.now}
		}
	case Note:
		covers := t.outcome.Covers
		t.outcome = a.Outcome
		t.outcome.Covers = covers
	case Cover:
		if w.content[a.Release] != w.content[t.release] {
			w.forbid("%s: release %d covers %d with other content", p.name, a.Release, t.release)
		}
		t.outcome = t.outcome.withCover(Covered{Release: a.Release})
	case Propose, Supersede:
		tree := w.treeOf(a.Release)
		for _, ap := range a.Approvals {
			if ap.Tree != tree {
				w.forbid("%s: approval of another tree counts for release %d", p.name, a.Release)
			}
		}
		p.proposal = &rendering{commit: w.newCommit(), parent: parent, tree: tree, release: a.Release,
			id: promotionID("hello", p.name, parent, tree), approvals: a.Approvals}
	case Drop:
		p.proposal = nil
	case Promote:
		q := p.proposal
		if q.parent != parent {
			w.forbid("%s: env branch would not be a line", p.name)
		}
		if t != nil && t.held && len(q.approvals) == 0 {
			w.forbid("%s: promoted release %d past a hold without a person", p.name, q.release)
		}
		if up := w.place(p.after); up != nil && (!w.healthy(up) || up.tip().outcome.covers(up.tip().release) < q.release) {
			w.forbid("%s: promoted release %d, which is not healthy in %s", p.name, q.release, up.name)
		}
		if len(q.approvals) < p.approvals {
			w.forbid("%s: promoted release %d with %d of %d approvals", p.name, q.release, len(q.approvals), p.approvals)
		}
		if w.unproven[q.release] {
			w.forbid("%s: promoted release %d, which does not verify", p.name, q.release)
		}
		for _, ap := range q.approvals {
			if ap.Tree != q.tree {
				w.forbid("%s: approval of another tree counted for release %d", p.name, q.release)
			}
		}
		p.branch = append(p.branch, &rendering{commit: w.newCommit(), parent: parent, tree: q.tree, release: q.release, id: q.id, approvals: q.approvals})
	}
}

// once plans for one environment and does the first action, if there is one.
func (w *world) once(p *place) (Action, bool) {
	for _, a := range Plan(w.view(p)) {
		if a.Kind != Wake {
			w.act(p, a)
			return a, true
		}
	}
	return Action{}, false
}

// settle acts until nothing is left to do anywhere; told hears of each action.
func (w *world) settle(told func(*place, Action)) error {
	for range 1000 {
		acted := false
		for _, p := range w.envs {
			if a, ok := w.once(p); ok {
				acted = true
				told(p, a)
			}
		}
		if !acted {
			return nil
		}
	}
	return fmt.Errorf("did not come to rest")
}

func (w *world) approve(p *place, user string) string {
	q := p.proposal
	switch {
	case q == nil:
		return "no open proposal"
	case approved(q.approvals, user):
		return "approved already"
	}
	n := *q
	n.commit = w.newCommit()
	n.approvals = append(slices.Clone(q.approvals), Approval{User: user, Tree: q.tree, At: w.now, Via: "ssh"})
	p.proposal = &n
	return ""
}

func (w *world) rollback(p *place, release int) string {
	for _, d := range slices.Backward(p.branch) {
		ok, _ := d.outcome.good()
		if d == p.tip() || d.release != release || !ok {
			continue
		}
		parent := p.tip().commit
		tree := hashOf("hold", w.now, d.tree)
		p.branch = append(p.branch, &rendering{commit: w.newCommit(), parent: parent, tree: tree, release: release, held: true,
			id: promotionID("hello", p.name, parent, tree), rollback: true})
		return ""
	}
	return fmt.Sprintf("release %d was not healthy to the end", release)
}

func (w *world) report(p *place, state target.State) {
	if t := p.tip(); t != nil {
		p.report = Observed{Commit: t.commit.String(), State: state, Since: w.now}
	}
}

// restart forgets what lives in the process: all but refs and notes.
func (w *world) restart() {
	for _, p := range w.envs {
		p.told, p.report = repo.Zero, Observed{}
	}
}

func (a Action) String() string {
	s := fmt.Sprintf("%s %d", a.Kind, a.Release)
	switch a.Kind {
	case Note:
		s += ": " + string(a.Outcome.State)
	case Drop:
		s += ": " + a.Reason
	case Wake:
		return "wake " + a.At.Format("15:04:05")
	case Propose, Supersede:
		if len(a.Approvals) > 0 {
			s += " keeping " + users(a.Approvals)
		}
	}
	return s
}

func users(as []Approval) string {
	var names []string
	for _, a := range as {
		names = append(names, a.User)
	}
	return strings.Join(names, ",")
}

// String shows an environment in one line.
func (p *place) String() string {
	s := p.name + ":"
	if t := p.tip(); t != nil {
		s += fmt.Sprintf(" release %d", t.release)
		if c := t.outcome.covers(t.release); c != t.release {
			s += fmt.Sprintf(" (also %d)", c)
		}
		s += fmt.Sprintf(" at %d %s", len(p.branch), t.outcome.State)
		if t.held {
			s += ", held"
		}
		if len(t.approvals) > 0 {
			s += ", approved by " + users(t.approvals)
		}
	} else {
		s += " nothing"
	}
	if q := p.proposal; q != nil {
		s += fmt.Sprintf("; proposed %d", q.release)
		if len(q.approvals) > 0 {
			s += ", approved by " + users(q.approvals)
		}
	}
	return s
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
