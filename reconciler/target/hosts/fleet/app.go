package fleet

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/rollout"
)

// app is one application in one environment. Its goroutine decides; what it found is read
// by others under mu.
type app struct {
	t     *Target
	named atomic.Pointer[target.Key]
	wake  chan struct{}

	mu       sync.Mutex
	declared *target.Declared // nil: it is to be removed
	sequence int              // newest that was told
	seen     target.Observed
	hosts    map[string]bool // that it is for
	answers  []answer        // of alarms, that the goroutine has not seen

	// The goroutine's own:
	tries   int            // newest of Steer.Retried that state knows
	asked   sync.WaitGroup // questions to Prometheus, which asking ends
	asking  context.Context
	unask   context.CancelFunc // ends them; nil: none was asked
	stages  []*stage           // of the deployment of about, one after the other
	state   *rollout.State     // of the stage that it is in
	resumed bool               // it had begun before somebody came upon it
	about   *target.Declared   // what state is about
	watched map[string]watched // by the host's name
	removed map[string]bool    // hosts that were told to remove it
	under   target.Key         // by which name it is watched
}

// watched is a host whose reports wake the loop. One that has enrolled again is another agent.
type watched struct {
	agent Agent
	end   func()
}

func newApp(t *Target, k target.Key) *app {
	a := &app{t: t, wake: make(chan struct{}, 1), watched: map[string]watched{}}
	a.named.Store(&k)
	return a
}

func (a *app) key() target.Key { return *a.named.Load() }

func (a *app) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *app) rename(k target.Key) {
	a.mu.Lock()
	a.named.Store(&k)
	a.mu.Unlock()
}

func (a *app) declare(d *target.Declared) {
	a.mu.Lock()
	if d.Sequence >= a.sequence {
		if a.declared == nil || a.declared.Sequence != d.Sequence || a.declared.Commit != d.Commit ||
			a.declared.Retried[""] != d.Retried[""] {
			a.seen = target.Observed{
				Key:      d.Key,
				Commit:   d.Commit,
				Sequence: d.Sequence,
				Attempt:  d.Retried[""],
				State:    target.Converging,
				Since:    time.Now(),
				Units:    a.seen.Units,
			}
		}
		a.declared, a.sequence = d, d.Sequence
	}
	a.mu.Unlock()
	a.nudge()
	a.t.reports.Notify(d.Key)
}

// remove has it be removed, unless something newer was told.
func (a *app) remove(sequence int) bool {
	a.mu.Lock()
	older := sequence < a.sequence
	if !older {
		a.declared, a.sequence = nil, sequence
		a.seen.State, a.seen.Message, a.seen.RollBack = target.Converging, "being removed", false
	}
	a.mu.Unlock()
	a.nudge()
	a.t.reports.Notify(a.key())
	return !older
}

func (a *app) isRemoved() (sequence int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sequence, a.declared == nil
}

func (a *app) observe() target.Observed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

func (a *app) wants(host, artifact string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.declared == nil || !a.hosts[host] {
		return false
	}
	for _, d := range []*target.Declared{a.declared, a.declared.Fallback} {
		if d != nil && slices.Contains(slices.Collect(maps.Values(d.Release.Artifacts)), artifact) {
			return true
		}
	}
	return false
}

// run decides until the target ends, or all of it was removed.
func (a *app) run() {
	ctx := a.t.ctx
	defer func() {
		a.stopAsking()
		for _, w := range a.watched {
			w.end()
		}
	}()
	for {
		a.mu.Lock()
		d := a.declared
		a.mu.Unlock()
		var again <-chan time.Time
		if d == nil {
			if a.takeAway() && a.t.removed(a) {
				return
			}
		} else if wake := a.step(d); !wake.IsZero() {
			again = time.After(max(time.Until(wake), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-again:
		}
	}
}

// watch has it be woken by what hosts report, those alone.
func (a *app) watch(all []Host) {
	k := a.key()
	agents := map[string]Agent{}
	for _, h := range all {
		agents[h.Name] = h.Agent
	}
	for name, w := range a.watched {
		if a.under != k || agents[name] != w.agent {
			w.end()
			delete(a.watched, name)
		}
	}
	a.under = k
	for _, h := range all {
		if _, already := a.watched[h.Name]; already {
			continue
		}
		changed, end := h.Agent.Watch(a.under)
		var ended sync.WaitGroup
		ended.Go(func() {
			for range changed {
				a.nudge()
			}
		})
		a.watched[h.Name] = watched{h.Agent, func() {
			end()
			ended.Wait()
		}}
	}
}

// takeAway removes it from all hosts that have it, and reports whether none has. One that
// is away goes on with what it has.
func (a *app) takeAway() bool {
	k := a.key()
	all := a.t.Hosts(k.Repository)
	a.watch(all)
	sequence, _ := a.isRemoved()
	if a.removed == nil {
		a.removed = map[string]bool{}
	}
	gone := true
	for _, h := range all {
		if reflect.DeepEqual(h.Agent.Observe(k), target.Observed{}) {
			continue
		}
		if !a.removed[h.Name] {
			a.removed[h.Name] = true
			h.Agent.Remove(k, sequence)
		}
		if h.Agent.Live() && !reflect.DeepEqual(h.Agent.Observe(k), target.Observed{}) {
			gone = false
		}
	}
	a.stopAsking()
	a.state, a.stages, a.about = nil, nil, nil
	return gone
}

// step looks at the hosts, and has those begin whose turn it is. It says when to look
// again although nothing happens.
func (a *app) step(d *target.Declared) time.Time {
	c, problems := a.t.File.read("", d.Files)
	if c == nil {
		problems = append(problems, a.t.File.Check("", d.Files)...)
	}
	if len(problems) > 0 {
		a.report(d, target.Observed{State: target.Failed, Message: problems[0].Error()})
		return time.Time{}
	}
	var members, all, drained []Host
	names := map[string]bool{}
	for _, h := range a.t.Hosts(d.Repository) {
		if !c.groups.Matches(h.Tags) && !c.other.Matches(h.Tags) {
			continue
		}
		members = append(members, h)
		names[h.Name] = true // also drained: it may be at it still
		if h.Drained {
			drained = append(drained, h)
		} else {
			all = append(all, h)
		}
	}
	a.mu.Lock()
	a.hosts = names
	a.mu.Unlock()
	a.watch(members)

	looked := map[string]target.Observed{}
	for _, h := range all {
		looked[h.Name] = h.Agent.Observe(d.Key)
	}
	a.removed = nil
	if c.other != nil {
		if why := cannot(c, all); why != "" {
			a.stopAsking()
			o := target.Observed{State: target.Failed, Message: why, Attempt: d.Retried[""]}
			for _, h := range all {
				o.Units = append(o.Units, a.unitsOf(present(h), looked[h.Name])...)
			}
			a.report(d, withDrained(o, d, drained))
			return time.Time{}
		}
	}
	if why := a.begin(d, c, all, looked); why != "" {
		a.report(d, target.Observed{State: target.Converging, Message: why, Attempt: d.Retried[""]})
		return time.Time{}
	}
	a.listen()
	now := time.Now()
	var plan rollout.Plan
	parts := map[string]target.Part{} // that hosts are told
	for i, at := range a.stages {
		hosts := at.of(a, all)
		if i > 0 && len(hosts) == 0 {
			continue // nothing else was there
		}
		a.look(d, at, hosts, looked)
		plan = a.state.Plan(now)
		a.carryOut(d, c, plan, now)
		for _, h := range a.state.Hosts {
			// Also those that have it: what to do about drift may be another.
			if h.Attempt != rollout.None && h.Attempt != rollout.Skipped {
				parts[h.Name] = at.part
			}
		}
		if plan.Status != rollout.Done {
			break
		}
	}
	if plan.Status != rollout.InProgress && plan.Status != rollout.Waiting {
		a.stopAsking()
	}
	if plan.Status == rollout.Done {
		a.state = a.stages[0].state // that the release is there is what counts
	}
	for _, h := range all {
		if part, is := parts[h.Name]; is {
			told := *d
			told.Attempt, told.Part = d.Retried[h.Name], part
			h.Agent.Converge(told)
		}
	}
	o := a.sum(d, c, plan, looked)
	for _, h := range all {
		if !slices.ContainsFunc(a.state.Hosts, func(at rollout.Host) bool { return at.Name == h.Name }) {
			o.Units = append(o.Units, a.unitsOf(present(h), looked[h.Name])...)
		}
	}
	slices.SortStableFunc(o.Units, func(x, y target.Unit) int { return strings.Compare(x.Name, y.Name) })
	a.report(d, withDrained(o, d, drained))
	return plan.Wake
}

// carryOut begins with what a plan names.
func (a *app) carryOut(d *target.Declared, c *config, plan rollout.Plan, now time.Time) {
	if !d.Paused {
		for _, name := range slices.Concat(plan.Deploy, plan.Follow) {
			a.t.Log.Info("a host is deployed to", "app", d.Key.String(), "host", name, "release", d.Release.Number)
			a.state.Started(name, now)
		}
	}
	for _, name := range plan.Ask {
		a.state.Asked(name, now)
		a.ask(d, name, c)
	}
}

func (a *app) host(name string) *rollout.Host {
	i := slices.IndexFunc(a.state.Hosts, func(h rollout.Host) bool { return h.Name == name })
	return &a.state.Hosts[i]
}

// begin begins the deployment of what is declared, if that is another one. It says why it
// cannot yet.
func (a *app) begin(d *target.Declared, c *config, all []Host, looked map[string]target.Observed) (waits string) {
	if len(a.stages) > 0 && len(a.stages[0].hosts()) > 0 && a.about.Sequence == d.Sequence && a.about.Commit == d.Commit {
		return ""
	}
	stages := []*stage{{config: c.rollout, does: "have it"}}
	if c.other != nil {
		if stages, waits = blueGreen(d, c, all, looked); waits != "" {
			return waits
		}
	}
	a.stopAsking()
	a.stages, a.about, a.tries = stages, d, d.Retried[""]
	a.resumed = slices.ContainsFunc(all, func(h Host) bool {
		o := looked[h.Name]
		return h.Agent.Live() && o.Commit == d.Commit && o.Sequence == d.Sequence
	})
	a.state = nil
	return ""
}

// look brings the state of a stage of the deployment up to what hosts report.
func (a *app) look(d *target.Declared, of *stage, all []Host, looked map[string]target.Observed) {
	if of.state == nil {
		var members []rollout.Host
		for _, h := range all {
			members = append(members, rollout.Host{Name: h.Name, Zone: h.Tags[zoneTag], Health: rollout.Healthy})
		}
		of.state = rollout.Begin(of.config, members)
		of.state.Of, of.state.Since, of.state.Resumed = a.t.File.of(), time.Now(), a.resumed
		if a.state != nil {
			of.state.Alarms, of.state.Since = a.state.Alarms, a.state.Since
		}
		if a.resumed && a.tries == d.Retried[""] {
			of.state.Stop, of.state.Keeps = d.GaveUp, true
		}
	}
	a.state = of.state
	if tries := d.Retried[""]; tries > a.tries {
		for _, s := range a.stages {
			if s.state != nil {
				s.state.Retry()
			}
		}
		a.tries = tries
	}
	for _, h := range slices.Clone(a.state.Hosts) {
		if !slices.ContainsFunc(all, func(is Host) bool { return is.Name == h.Name }) {
			a.state.Left(h.Name)
		}
	}
	for _, h := range all {
		if !slices.ContainsFunc(a.state.Hosts, func(at rollout.Host) bool { return at.Name == h.Name }) {
			a.state.Seen(h.Name, h.Tags[zoneTag], rollout.Healthy)
		}
		a.lookAt(d, of.part, h, looked[h.Name])
		if slices.Contains(d.Skipped, h.Name) {
			a.state.Skip(h.Name)
		} else {
			a.state.Unskip(h.Name)
		}
	}
	if d.Stopped != "" && a.state.Stop != d.Stopped {
		a.state.Stop, a.state.Keeps = d.Stopped, false
	}
}

// lookAt is look for one host.
func (a *app) lookAt(d *target.Declared, part target.Part, h Host, o target.Observed) {
	at := a.host(h.Name)
	has := o.Commit == d.Commit && o.Sequence == d.Sequence && (a.t.File.Parts || o.Attempt >= d.Retried[h.Name]) &&
		!o.Part.Before(part)
	was := at.Attempt
	switch {
	case !h.Agent.Live():
		at.Health = rollout.Offline
		if at.Attempt == rollout.Running {
			at.Attempt = rollout.None // nobody knows; it is told again when it is back
		}
	case has && (o.State == target.Healthy || o.State == target.Degraded || part.Before(o.Part)):
		at.Attempt, at.Health, at.Revision = rollout.Succeeded, rollout.Healthy, rollout.Current
	case has && o.State == target.Failed:
		at.Attempt, at.Health = rollout.Failed, rollout.Unhealthy
	case has:
		if at.Attempt = rollout.Running; at.Health == rollout.Offline {
			at.Health = rollout.Healthy
		}
	default:
		at.Health, at.Revision = rollout.Healthy, rollout.Old
		if o.State == target.Failed {
			at.Health = rollout.Unhealthy
		}
		if o.Sequence == 0 {
			at.Revision = rollout.Unknown
		}
		if at.Attempt != rollout.Skipped && at.Attempt != rollout.Running {
			at.Attempt = rollout.None
		}
	}
	if at.Attempt != was && (at.Attempt == rollout.Succeeded || at.Attempt == rollout.Failed) {
		at.Ended = time.Now()
		if at.Attempt == rollout.Succeeded && at.Began.IsZero() && len(o.Units) > 0 && len(o.Units[0].Instances) > 0 {
			at.Ended = o.Units[0].Instances[0].Since // it had before anybody looked
		}
	}
}

// sum makes one state of all hosts.
func (a *app) sum(d *target.Declared, c *config, plan rollout.Plan,
	looked map[string]target.Observed) (o target.Observed) {
	var away, failed, drifted, working, skipped []string
	live, good, gaveUp := 0, 0, false
	for _, at := range a.state.Hosts {
		seen := looked[at.Name]
		o.Units = append(o.Units, a.unitsOf(at, seen)...)
		first, _, _ := strings.Cut(seen.Message, "\n")
		switch {
		case at.Attempt == rollout.Skipped:
			skipped = append(skipped, at.Name)
			continue
		case at.Health == rollout.Offline:
			away = append(away, at.Name)
			continue
		case at.Attempt == rollout.Failed:
			failed = append(failed, at.Name+": "+seen.Message)
			gaveUp = gaveUp || seen.RollBack
		case at.Attempt == rollout.Succeeded && seen.State == target.Degraded:
			drifted = append(drifted, at.Name+": "+first)
			o.Unhealed = o.Unhealed || seen.Unhealed
		case at.Attempt == rollout.Running:
			working = append(working, strings.TrimSuffix(at.Name+": "+first, ": "))
		}
		live++
		if at.Attempt == rollout.Succeeded {
			good++
		}
	}
	absent := ""
	if len(away) > 0 {
		absent = strings.Join(away, ", ") + " cannot be reached"
	}
	join := func(parts ...string) string {
		return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
	}
	progress := fmt.Sprintf("%d of %d %ss %s", good, len(a.state.Hosts)-len(skipped), a.t.File.of(), a.does())
	if left := a.state.ETA(a.state.Pace()).Round(time.Second); left > 0 && plan.Status == rollout.InProgress && !d.Paused {
		progress += fmt.Sprintf(", about %s left", left)
	}
	leftOut := ""
	switch len(skipped) {
	case 0:
	case 1:
		leftOut = skipped[0] + " is skipped"
	default:
		leftOut = strings.Join(skipped, ", ") + " are skipped"
	}
	defer func() { o.Message = join(o.Message, leftOut) }()
	o.Attempt = a.tries
	switch {
	case len(a.state.Hosts) == 0:
		o.State, o.Message = target.Failed, fmt.Sprintf("no %s has the tags that are asked for", a.t.File.of())
	case live == 0 && len(skipped) < len(a.state.Hosts):
		o.State, o.Message = target.Unknown, absent+", and what runs there goes on"
	case plan.Status == rollout.Broken:
		o.State, o.Message = target.Failed, join(plan.Why, strings.Join(failed, "; "))
		o.RollBack = c.rollBack && len(failed) > 0 && (!a.t.File.Parts || gaveUp)
		o.Unhealed = false
	case plan.Status == rollout.Stopped:
		o.State, o.Message = target.Failed, join(plan.Why, progress, strings.Join(failed, "; "), absent)
		o.RollBack, o.Unhealed = c.rollBack && !a.state.Keeps, false
	case plan.Status != rollout.Done || good == 0:
		o.State, o.Unhealed = target.Converging, false
		why := plan.Why
		if d.Paused {
			why = "paused"
		}
		o.Message = join(progress, why, strings.Join(working, "; "), strings.Join(failed, "; "), absent)
	case len(failed) > 0 || len(drifted) > 0:
		o.State = target.Degraded
		o.Message = join(strings.Join(failed, "; "), strings.Join(drifted, "; "), absent)
		o.Unhealed = o.Unhealed || len(failed) > 0
	default:
		o.State = target.Healthy
		if absent != "" {
			o.Message = progress + "; " + absent + ", and gets what is declared when it is back"
		}
	}
	return o
}

// report tells what is seen, unless something else is declared by now.
func (a *app) report(d *target.Declared, o target.Observed) {
	a.mu.Lock()
	if a.declared != d {
		a.mu.Unlock()
		return
	}
	o.Key, o.Commit, o.Sequence = d.Key, d.Commit, d.Sequence
	o.Since = a.seen.Since
	if o.State != a.seen.State || o.Commit != a.seen.Commit || o.Since.IsZero() {
		o.Since = time.Now()
	}
	same := reflect.DeepEqual(o, a.seen)
	a.seen = o
	a.mu.Unlock()
	if !same {
		a.t.reports.Notify(d.Key)
	}
}
