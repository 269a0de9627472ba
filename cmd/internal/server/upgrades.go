package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// upgradable is an agent as nextUpgrade sees it.
type upgradable struct {
	name    string
	able    bool // it is there, and takes a program from here
	current bool // it works by this program
	busy    bool // something is deployed there
	failed  bool // it has not come about with this program
	asked   bool // somebody wants it tried, again
}

// nextUpgrade is the agent that is to get this program next, "" for none now: those that
// somebody asked for, and then one after the other, until one has failed.
func nextUpgrade(all []upgradable) string {
	all = slices.SortedFunc(slices.Values(all), func(x, y upgradable) int { return strings.Compare(x.name, y.name) })
	halted := slices.ContainsFunc(all, func(u upgradable) bool { return u.failed && !u.current })
	for _, asked := range []bool{true, false} {
		for _, u := range all {
			if u.able && !u.current && !u.busy && u.asked == asked && (asked || !halted) {
				return u.name
			}
		}
	}
	return ""
}

// Bounds of one upgrade.
const (
	upgradeEvery   = 10 * time.Second // when it is looked again whether one can begin
	offerTimeout   = 15 * time.Minute // of fetching the program
	returnTimeout  = 5 * time.Minute  // after which an agent that has it does not come back
	upgradeRetries = 3                // when its connection was cut meanwhile
)

// upgrading is what is known of upgrades besides what agents say. It is guarded by the
// mutex of remotes.
type upgrading struct {
	now    string            // whose turn it is; "": nobody's
	failed map[string]string // why, by name
	asked  map[string]bool
	cuts   map[string]int
}

// keepCurrent has agents go on with this program, one by one, until ctx ends.
func (r *remotes) keepCurrent(ctx context.Context) {
	tick := time.NewTicker(upgradeEvery)
	defer tick.Stop()
	for {
		name := r.beginUpgrade()
		if name != "" {
			err := r.upgrade(ctx, name)
			if ctx.Err() != nil {
				return
			}
			if !r.endUpgrade(name, err) {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.upgradeWake:
		}
	}
}

func (r *remotes) wakeUpgrades() {
	select {
	case r.upgradeWake <- struct{}{}:
	default:
	}
}

// beginUpgrade is whose turn it is.
func (r *remotes) beginUpgrade() string {
	config := r.access.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []upgradable
	for _, a := range config.Agents() {
		all = append(all, r.upgradable(a))
	}
	r.upgrades.now = nextUpgrade(all)
	return r.upgrades.now
}

// upgradable looks at an agent. It is called with mu held.
func (r *remotes) upgradable(a access.Agent) upgradable {
	u := upgradable{name: a.Name, asked: r.upgrades.asked[a.Name]}
	line, l := r.lines[a.Name], r.links[a.Name]
	if line == nil || l == nil || line.hello.Version == 0 {
		u.failed = r.upgrades.failed[a.Name] != ""
		return u
	}
	h := line.hello
	u.able = h.Platform == agent.Platform && l.target.Live()
	u.current = h.Digest == r.build
	u.failed = r.upgrades.failed[a.Name] != "" || h.Refused == r.build
	for _, o := range l.target.Known() {
		u.busy = u.busy || o.State == target.Converging
	}
	return u
}

// errCutMeanwhile is that an agent came back as it was, and nothing was wrong with the program.
var errCutMeanwhile = errors.New("its connection was cut while it fetched the program")

// endUpgrade notes how one went, and reports whether the next one has to wait.
func (r *remotes) endUpgrade(name string, err error) (wait bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upgrades.now = ""
	if errors.Is(err, errCutMeanwhile) {
		if r.upgrades.cuts[name]++; r.upgrades.cuts[name] < upgradeRetries {
			return true
		}
	}
	delete(r.upgrades.cuts, name)
	switch {
	case errors.Is(err, agent.ErrDeploying):
		return true
	case err != nil:
		r.log.Error("an agent does not work by this program, and no other one is given it", "agent", name, "err", err)
		r.upgrades.failed[name] = err.Error()
	default:
		r.log.Info("an agent works by this program", "agent", name)
		delete(r.upgrades.failed, name)
	}
	delete(r.upgrades.asked, name)
	r.moved.Notify(access.Own)
	return false
}

// upgrade has one agent go on with this program, and returns when it does, or does not.
func (r *remotes) upgrade(ctx context.Context, name string) error {
	r.mu.Lock()
	line := r.lines[name]
	delete(r.upgrades.failed, name)
	r.mu.Unlock()
	if line == nil {
		return errCutMeanwhile
	}
	offer, err := r.offer()
	if err == nil {
		err = offer.Sign(r.store.Signer(), line.line.Session())
	}
	if err != nil {
		return err
	}
	r.moved.Notify(access.Own)
	r.log.Info("an agent is to work by this program", "agent", name, "from", short(line.hello.Program))
	offered, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	hungUp := make(chan struct{})
	go func() { // ends with the offer
		defer close(hungUp)
		select {
		case <-line.ended:
			cancel() // nobody answers any more
		case <-offered.Done():
		}
	}()
	err = agent.Client{Dialer: line.line.Dial}.Offer(offered, offer)
	cancel()
	<-hungUp
	if err != nil && !errors.Is(err, agent.ErrAway) {
		return err // it says so itself
	}
	return r.back(ctx, name, line)
}

// back waits until an agent has come back by another connection, and looks at what works there.
func (r *remotes) back(ctx context.Context, name string, before *remote) error {
	late := time.NewTimer(returnTimeout)
	defer late.Stop()
	for {
		r.mu.Lock()
		line, arrived := r.lines[name], r.greeted
		r.mu.Unlock()
		if line != nil && line != before && line.hello.Version != 0 {
			switch h := line.hello; {
			case h.Digest == r.build:
				return nil
			case h.Refused == r.build:
				return errors.New(h.WhyRefused)
			}
			return errCutMeanwhile
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("it has not come back within %s", returnTimeout)
		case <-arrived:
		}
	}
}

// offer is this program.
func (r *remotes) offer() (o agent.Offer, err error) {
	digest, err := r.program()
	if err != nil {
		return o, err
	}
	info, err := os.Stat("/proc/self/exe")
	if err != nil {
		return o, fmt.Errorf("read this program: %w", err)
	}
	o = agent.Offer{Build: r.build, Digest: "sha256:" + digest, Size: info.Size(), Platform: agent.Platform}
	return o, nil
}

// openProgram opens this program for an agent that was offered it.
func (r *remotes) openProgram(digest string) (io.ReadSeekCloser, error) {
	own, err := r.program()
	if err != nil {
		return nil, err
	}
	if digest != "sha256:"+own {
		return nil, &show.Error{Kind: show.Forbidden, What: "this is not the program of this server"}
	}
	return os.Open("/proc/self/exe")
}

// shownUpgrade says whether an agent works by this program. It is called with mu held.
func (r *remotes) shownUpgrade(a access.Agent) *show.AgentUpgrade {
	line := r.lines[a.Name]
	u := r.upgradable(a)
	switch why := r.upgrades.failed[a.Name]; {
	case line == nil || line.hello.Version == 0 || u.current:
		return nil
	case r.upgrades.now == a.Name:
		return &show.AgentUpgrade{State: show.Running}
	case u.failed:
		return &show.AgentUpgrade{State: show.Failed, Message: cmp.Or(why, line.hello.WhyRefused)}
	case line.hello.Platform != agent.Platform:
		return nil // it is another program, or of before there were upgrades
	}
	return &show.AgentUpgrade{State: show.Queued}
}

// UpgradeAgents implements show.Backend.
func (s *Server) UpgradeAgents(_ context.Context, a access.Identity, name string) (done show.Done, err error) {
	if err := s.administrator(a, "upgrade agents"); err != nil {
		return done, err
	}
	config := s.access.Load()
	if _, ok := config.Agent(name); !ok && name != "" {
		return done, noAgent(name)
	}
	r := s.remotes
	r.mu.Lock()
	defer r.mu.Unlock()
	var asked []string
	for _, one := range config.Agents() {
		if name != "" && one.Name != name {
			continue
		}
		if u := r.upgradable(one); u.able && !u.current {
			r.upgrades.asked[one.Name] = true
			asked = append(asked, one.Name)
		}
	}
	switch {
	case len(asked) > 0:
		r.wakeUpgrades()
		done.What = strings.Join(asked, ", ") + ": to go on with the program of this server"
		done.Next = "one by one, each once nothing is deployed there; agent list says how far they are"
	case name == "":
		done.What = "no agent that is there could go on with another program than it has"
	default:
		done.What = name + " goes on as it is: it has this server's program, is away, or takes no program from here"
	}
	return done, nil
}
