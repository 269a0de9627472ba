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
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// model is repositories, targets and policy around Plan, reduced to what Plan can
// tell apart. It does what actions say, one at a time, so that a test can stop
// anywhere.
type model struct {
	now      time.Time
	releases []int
	content  map[int]string // of a release's directory and artifacts
	unproven map[int]bool
	envs     []*place
	commits  int
	violated []string // what must never be, when an action did it
}

// place is one environment.
type place struct {
	name, after string
	approvals   int
	soak        time.Duration
	branch      []*record.Commit // env/<name>
	proposal    *record.Proposal // promote/<name>
	drift       target.Drift
	given       Given
	observed    record.Report
	rejected    []record.Rejection // newest first
}

// covers is the newest release that the place stands for.
func (p *place) covers() int {
	if t := p.tip(); t != nil {
		return t.Covers()
	}
	return 0
}

// stood forbids a promotion of what was not healthy in the environment before when
// something newer took its place there, or is not now. It looks at the history its
// own way: the newest commit that stands for the release decides, and everything
// after it has to contain the release.
func (m *model) stood(p, up *place, release int) {
	for i, c := range slices.Backward(up.branch) {
		if c.Covers() < release {
			break
		}
		exactly := c.Release == release
		for _, o := range c.Outcome.Covers {
			exactly = exactly || o.Release == release
		}
		if !exactly {
			continue
		}
		undone := i+1 < len(up.branch) && up.branch[i+1].Rollback != nil
		if undone {
			continue
		}
		if last := i == len(up.branch)-1; last && healthy(c, up.observed) || !last && c.Outcome.State == target.Healthy {
			return
		}
		break
	}
	m.forbid("%s: promoted release %d, which did not stand %s", p.name, release, up.name)
}

func newModel() *model {
	return &model{now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), content: map[int]string{}, unproven: map[int]bool{}}
}

func hashOf(parts ...any) repo.Hash {
	return plumbing.ComputeHash(plumbing.BlobObject, []byte(fmt.Sprint(parts...)))
}

func (m *model) place(name string) *place {
	for _, p := range m.envs {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (p *place) tip() *record.Commit {
	if len(p.branch) == 0 {
		return nil
	}
	return p.branch[len(p.branch)-1]
}

func (m *model) newCommit() repo.Hash {
	m.commits++
	return hashOf("commit", m.commits)
}

// treeOf is the promotion of a release: no hold, everything else as it is.
func (m *model) treeOf(release int) repo.Hash { return hashOf("release", release, m.content[release]) }

func (m *model) view(p *place) View {
	v := View{Now: m.now, Releases: m.releases, Observed: p.observed, Given: p.given, Drift: p.drift, Proposal: p.proposal}
	if up := m.place(p.after); up != nil {
		v.Upstream = &Upstream{Name: up.name, Declared: up.tip(), Observed: up.observed}
		for _, c := range slices.Backward(up.branch[:max(0, len(up.branch)-1)]) {
			v.Upstream.Before = append(v.Upstream.Before, *c)
		}
		v.Soak = p.soak
	}
	v.Rejected = p.rejected
	if t := p.tip(); t != nil {
		v.Declared = &Declared{Commit: *t, Sequence: len(p.branch)}
	}
	for i, n := range Wants(v) {
		if i > 0 && m.unproven[n] {
			continue
		}
		v.Wanted = &Rendered{Release: n, Tree: m.treeOf(n), Unproven: m.unproven[n]}
		if t := p.tip(); t != nil && t.Held == nil && !m.unproven[n] {
			v.Wanted.Same = m.content[n] == m.content[t.Release]
		}
		if !m.unproven[n] {
			break
		}
	}
	switch {
	case v.unproposed():
		v.Proposal = &record.Proposal{Parent: v.tip(), Tree: v.Wanted.Tree}
		v.Proposal.Release = v.Wanted.Release
		v.Proposal.ID = record.PromotionID("hello", p.name, v.tip(), v.Wanted.Tree)
		if v.Decision = m.decide(p, v); !v.promotable() {
			v.Proposal, v.Decision = nil, nil
		}
	case v.Proposal != nil && v.Wanted != nil:
		v.Decision = m.decide(p, v)
	}
	return v
}

// decide is a policy of approvals and soak.
func (m *model) decide(p *place, v View) *Decision {
	d := &Decision{Proposal: v.Proposal.Commit, Result: policies.Auto}
	if len(v.Proposal.Approvals) < p.approvals {
		d.Result = policies.Manual
	}
	if up := m.place(p.after); up != nil && p.soak > 0 {
		standing := v.Upstream.Standing(v.Proposal.Release)
		if standing.After(m.now) < p.soak {
			d.Result = policies.Manual
			if !standing.Since.IsZero() {
				d.NotBefore = standing.Since.Add(p.soak - standing.For)
			}
		}
	}
	if m.unproven[v.Proposal.Release] {
		d.Result = policies.Deny
	}
	return d
}

func (m *model) forbid(format string, args ...any) {
	m.violated = append(m.violated, fmt.Sprintf(format, args...))
}

// act does one action and checks what must never be.
func (m *model) act(p *place, a Action) {
	t := p.tip()
	parent := repo.Zero
	if t != nil {
		parent = t.Hash
	}
	switch a.Kind {
	case Converge:
		p.given = Given{Commit: t.Hash, Drift: a.Drift, Steer: steered(t.Outcome.Steer())}
		if p.observed.Commit != t.Hash.String() {
			p.observed = record.Report{Commit: t.Hash.String(), State: target.Converging, Since: m.now}
		}
	case Note:
		covers := t.Outcome.Covers
		t.Outcome = a.Outcome
		t.Outcome.Covers = covers
	case Cover:
		if m.content[a.Release] != m.content[t.Release] {
			m.forbid("%s: release %d covers %d with other content", p.name, a.Release, t.Release)
		}
		t.Outcome = t.Outcome.WithCover(record.Covered{Release: a.Release, Commit: hashOf("source", a.Release).String()})
	case Propose, Supersede:
		tree := m.treeOf(a.Release)
		for _, ap := range a.Approvals {
			if ap.Tree != tree {
				m.forbid("%s: approval of another tree counts for release %d", p.name, a.Release)
			}
		}
		var chosen *record.Choice
		if p.proposal != nil && p.proposal.Release == a.Release {
			chosen = p.proposal.Chosen
		}
		p.proposal = &record.Proposal{Commit: m.newCommit(), Parent: parent, Tree: tree}
		p.proposal.Chosen = chosen
		p.proposal.Release, p.proposal.Approvals = a.Release, a.Approvals
		p.proposal.ID = record.PromotionID("hello", p.name, parent, tree)
	case Drop:
		p.proposal = nil
	case Promote:
		q := m.view(p).Proposal
		if q.Parent != parent {
			m.forbid("%s: env branch would not be a line", p.name)
		}
		if t != nil && t.Held != nil && len(q.Approvals) == 0 {
			m.forbid("%s: promoted release %d past a hold without a person", p.name, q.Release)
		}
		if up := m.place(p.after); up != nil {
			m.stood(p, up, q.Release)
		}
		if q.Release <= p.covers() {
			m.forbid("%s: promoted release %d over %d", p.name, q.Release, p.covers())
		}
		if len(q.Approvals) < p.approvals {
			m.forbid("%s: promoted release %d with %d of %d approvals", p.name, q.Release, len(q.Approvals), p.approvals)
		}
		if m.unproven[q.Release] {
			m.forbid("%s: promoted release %d, which does not verify", p.name, q.Release)
		}
		for _, ap := range q.Approvals {
			if ap.Tree != q.Tree {
				m.forbid("%s: approval of another tree counted for release %d", p.name, q.Release)
			}
		}
		p.branch = append(p.branch, &record.Commit{Promotion: q.Promotion, Hash: m.newCommit(), Parent: parent,
			Tree: q.Tree, At: m.now})
	}
}

// once plans for one environment and does the first action, if there is one.
func (m *model) once(p *place) (Action, bool) {
	for _, a := range Plan(m.view(p)) {
		if a.Kind != Wake {
			m.act(p, a)
			return a, true
		}
	}
	return Action{}, false
}

// settle acts until nothing is left to do anywhere; told hears of each action.
func (m *model) settle(told func(*place, Action)) error {
	for range 1000 {
		acted := false
		for _, p := range m.envs {
			if a, ok := m.once(p); ok {
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

func (m *model) approve(p *place, user string) string {
	q := p.proposal
	switch {
	case q == nil:
		return "no open proposal"
	case record.ApprovedBy(q.Approvals, user):
		return "approved already"
	}
	n := *q
	n.Commit = m.newCommit()
	n.Approvals = append(slices.Clone(q.Approvals), record.Approval{User: user, Tree: q.Tree, At: m.now, Via: "ssh"})
	p.proposal = &n
	return ""
}

// choose proposes a release because a person says so.
func (m *model) choose(p *place, release int) string {
	if release <= p.covers() || !slices.Contains(m.releases, release) {
		return fmt.Sprintf("release %d cannot be chosen", release)
	}
	parent := repo.Zero
	if t := p.tip(); t != nil {
		parent = t.Hash
	}
	tree := m.treeOf(release)
	n := &record.Proposal{Commit: m.newCommit(), Parent: parent, Tree: tree}
	n.Release, n.ID = release, record.PromotionID("hello", p.name, parent, tree)
	if q := p.proposal; q != nil && q.Release == release && q.Tree == tree {
		n.Approvals = q.Approvals
	}
	n.Chosen = &record.Choice{User: "kim", At: m.now}
	if len(p.rejected) > 0 {
		n.Chosen.Rejections = p.rejected[0].Hash
	}
	p.proposal = n
	return ""
}

func (m *model) reject(p *place) string {
	if p.proposal == nil {
		return "no open proposal"
	}
	r := record.Rejection{Hash: m.newCommit(), Release: p.proposal.Release, Proposal: p.proposal.Commit,
		By: "kim", At: m.now}
	p.rejected = append([]record.Rejection{r}, p.rejected...)
	return ""
}

func (m *model) rollback(p *place, release int) string {
	for _, d := range slices.Backward(p.branch) {
		if mayRollback(*p.tip(), *d) != "" || d.Release != release {
			continue
		}
		parent := p.tip().Hash
		tree := hashOf("hold", m.now, d.Tree)
		back := &record.Commit{Hash: m.newCommit(), Parent: parent, Tree: tree, Held: &record.Hold{}, At: m.now}
		back.Release, back.ID = release, record.PromotionID("hello", p.name, parent, tree)
		back.Rollback = &record.Rollback{Of: parent, Restores: d.Hash}
		p.branch = append(p.branch, back)
		return ""
	}
	return fmt.Sprintf("release %d was not healthy to the end", release)
}

func (m *model) report(p *place, state target.State) {
	if t := p.tip(); t != nil {
		p.observed = record.Report{Commit: t.Hash.String(), State: state, Since: m.now}
	}
}

// restart forgets what lives in the process: all but refs and notes.
func (m *model) restart() {
	for _, p := range m.envs {
		p.given, p.observed = Given{}, record.Report{}
	}
}

func (a Action) String() string {
	s := fmt.Sprintf("%s %d", a.Kind, a.Release)
	switch a.Kind {
	case Note:
		s += ": " + string(a.Outcome.State)
	case Drop:
		s += ": " + string(a.Reason)
	case Wake:
		return "wake " + a.At.Format("15:04:05")
	case Converge:
		if a.Drift != target.Heal {
			s += ", drift: " + string(a.Drift)
		}
	case Propose, Supersede:
		if len(a.Approvals) > 0 {
			s += " keeping " + users(a.Approvals)
		}
	}
	return s
}

func users(as []record.Approval) string {
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
		s += fmt.Sprintf(" release %d", t.Release)
		if c := t.Covers(); c != t.Release {
			s += fmt.Sprintf(" (also %d)", c)
		}
		s += fmt.Sprintf(" at %d %s", len(p.branch), t.Outcome.State)
		if t.Held != nil {
			s += ", held"
		}
		if len(t.Approvals) > 0 {
			s += ", approved by " + users(t.Approvals)
		}
	} else {
		s += " nothing"
	}
	if q := p.proposal; q != nil {
		s += fmt.Sprintf("; proposed %d", q.Release)
		if q.Chosen != nil {
			s += " by " + q.Chosen.User
		}
		if len(q.Approvals) > 0 {
			s += ", approved by " + users(q.Approvals)
		}
	}
	return s
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
