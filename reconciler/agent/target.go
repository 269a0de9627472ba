package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// Target is the target `services` of an agent, for a server. It says Unknown of
// everything while the agent is silent, and tells it again what is declared when it
// is back: the agent decides by its fence what is news.
type Target struct {
	// Dial connects to the agent.
	Dial func(ctx context.Context) (net.Conn, error)
	// Settings are told whenever the agent is back, and when Changed was called. Nothing is
	// told before there are some. nil: there are none.
	Settings func() (_ Settings, known bool)
	// Prove finds what proves a declared state to an agent on another machine, which takes
	// nothing without. nil: it is of this machine, and believes who reaches it.
	Prove func(d target.Declared) (Proof, error)
	// Secrets are the values of those secrets of a repository that are set, of names. They are
	// told to the agent that runs what names them. nil: nothing is told.
	Secrets func(repository string, names []string) target.Secrets
	// Heard is called when the agent is heard, and when it is not any more. It must not
	// block. nil: nobody wants to know.
	Heard func()
	Log   *slog.Logger

	once    sync.Once
	client  *http.Client
	wake    chan struct{}
	reports target.Topic

	mu       sync.Mutex
	told     map[target.Key]*told
	seen     map[target.Key]target.Observed
	live     bool   // the agent is heard
	lives    int    // how often it was lost: what one accepted says nothing about the next
	why      string // it is not, for people
	version  int    // of the protocol, that it said when it was heard last
	settings *Settings
}

// told is the newest that was said of an application.
type told struct {
	declared *target.Declared // nil: it is to be removed
	secrets  []string         // names of those that it is to be given
	sequence int
	accepted bool
	refused  int    // the fence that it was refused by; 0: it was not
	unproven string // why it was refused besides; "": it was not
}

// rejected reports whether the agent does not take it.
func (t *told) rejected() bool { return t.refused > 0 || t.unproven != "" }

func (t *Target) init() {
	t.once.Do(func() {
		t.wake = make(chan struct{}, 1)
		t.told, t.seen = map[target.Key]*told{}, map[target.Key]target.Observed{}
		t.why = "the agent has not been heard yet"
		t.client = &http.Client{Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return t.Dial(ctx) },
			MaxIdleConnsPerHost: 4,
			DisableCompression:  true,
			// There may be a thousand agents, and little is said.
			ReadBufferSize:  lineBuffer,
			WriteBufferSize: lineBuffer,
		}}
	})
}

func (t *Target) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Check implements target.Target.
func (t *Target) Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	return services.Check(dir, files)
}

// Addresses implements target.Addresser.
func (t *Target) Addresses(files target.Files) []target.Address { return services.Addresses(files) }

// Converge implements target.Target.
func (t *Target) Converge(d target.Declared) {
	t.init()
	t.mu.Lock()
	last := t.told[d.Key]
	if last != nil && (d.Sequence < last.sequence ||
		d.Sequence == last.sequence && last.declared != nil && last.declared.Drift == d.Drift &&
			last.declared.Steer.Equal(d.Steer) && last.declared.Attempt == d.Attempt &&
			last.declared.Part == d.Part) {
		t.mu.Unlock()
		return
	}
	t.told[d.Key] = &told{declared: &d, secrets: t.secretsOf(d), sequence: d.Sequence}
	for _, was := range d.Was { // that name is not to be brought back to an agent that has forgotten it
		delete(t.told, target.Key{Repository: d.Repository, Application: d.Application, Environment: was})
	}
	t.mu.Unlock()
	t.nudge()
	t.reports.Notify(d.Key)
}

// Remove implements target.Target.
func (t *Target) Remove(k target.Key, sequence int) {
	t.init()
	t.mu.Lock()
	if last := t.told[k]; last != nil && sequence < last.sequence {
		t.mu.Unlock()
		return
	}
	t.told[k] = &told{sequence: sequence}
	t.mu.Unlock()
	t.nudge()
	t.reports.Notify(k)
}

// secretsOf names the secrets of what is declared.
func (t *Target) secretsOf(d target.Declared) (names []string) {
	if t.Secrets == nil {
		return nil
	}
	uses := services.Secrets(d.Files)
	if d.Fallback != nil {
		uses = append(uses, services.Secrets(d.Fallback.Files)...)
	}
	for _, use := range uses {
		names = append(names, use.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// SecretSet has what is given a secret of a repository be told what it is now, and says
// what that is.
func (t *Target) SecretSet(repository, name string) (keys []target.Key) {
	t.init()
	t.mu.Lock()
	for k, last := range t.told {
		if k.Repository != repository || last.declared == nil || !slices.Contains(last.secrets, name) {
			continue
		}
		again := *last
		again.accepted = false
		t.told[k] = &again
		keys = append(keys, k)
	}
	t.mu.Unlock()
	t.nudge()
	slices.SortFunc(keys, func(a, b target.Key) int { return strings.Compare(a.Environment, b.Environment) })
	return keys
}

// Changed has the settings be told again, if they differ.
func (t *Target) Changed() {
	t.init()
	t.nudge()
}

// Known are the applications that the agent has told of, nil while it is silent.
func (t *Target) Known() map[target.Key]target.Observed {
	t.init()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.live {
		return nil
	}
	all := map[target.Key]target.Observed{}
	for k, o := range t.seen {
		all[k] = o
	}
	return all
}

// Observe implements target.Target.
func (t *Target) Observe(k target.Key) target.Observed {
	t.init()
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.told[k]
	o, known := t.seen[k]
	if last == nil && !known || last != nil && last.declared == nil && !known {
		return target.Observed{}
	}
	o.Key = k
	newer := last != nil && last.declared != nil && (!known || o.Sequence < last.sequence)
	if newer || !t.live || last != nil && last.rejected() {
		o.RollBack, o.Waits = false, "" // it is about what is not known any more
	}
	if newer {
		o.Commit, o.Sequence, o.Since, o.Unhealed = last.declared.Commit, last.sequence, time.Time{}, false
		o.Attempt, o.Part = last.declared.Attempt, last.declared.Part
	}
	switch {
	case !t.live:
		o.State, o.Message, o.Unhealed = target.Unknown, t.why, false
		o.Units, o.Strays = silenced(o.Units), nil
	case last != nil && last.refused > 0 && last.declared != nil:
		o.Commit, o.Sequence = last.declared.Commit, last.sequence
		o.State = target.Failed
		o.Message = fmt.Sprintf(
			"the agent of the machine has acted on a newer commit of this environment (place %d, this is %d) and takes nothing older, "+
				"also from another server; promote forward until it is newer", last.refused, last.sequence)
	case last != nil && last.unproven != "" && last.declared != nil:
		o.Commit, o.Sequence = last.declared.Commit, last.sequence
		o.State, o.Message = target.Failed, "the machine refuses it, and what runs there goes on: "+last.unproven
	case newer:
		o.State, o.Message = target.Converging, "just declared"
	case last != nil && last.declared == nil:
		o.State, o.Message = target.Converging, "being removed"
	}
	return o
}

// silenced is what is left of units of which nothing is heard: where they were, and what
// had happened to them.
func silenced(units []target.Unit) (all []target.Unit) {
	for _, u := range units {
		all = append(all, target.Unit{Name: u.Name, URL: u.URL, Release: u.Release, Schedule: u.Schedule, Events: u.Events})
	}
	return all
}

// Watch implements target.Target.
func (t *Target) Watch(k target.Key) (changed <-chan struct{}, end func()) { return t.reports.Watch(k) }

// lineBuffer is what a connection to an agent holds of what is said.
const lineBuffer = 1 << 10

// Pauses between tries to reach the agent.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Run implements target.Target: it speaks to the agent until ctx ends. What runs there
// goes on then.
func (t *Target) Run(ctx context.Context) error {
	t.init()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sending sync.WaitGroup
	sending.Go(func() { t.send(ctx) })
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := t.listen(ctx)
		t.lost(err)
		if time.Since(began) > maxPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	cancel()
	sending.Wait()
	t.lost(errors.New("the server is stopping"))
	t.client.CloseIdleConnections()
	return nil
}

// lost notes that nothing is heard of the agent.
func (t *Target) lost(err error) {
	t.mu.Lock()
	was := t.live
	t.live = false
	t.lives++
	t.why = "nothing is heard of the agent of this machine: " + plainly(err) + "; what runs goes on running, unwatched"
	keys := t.keys()
	for _, last := range t.told {
		last.accepted = false // it may be another one that comes back
	}
	t.settings = nil
	t.mu.Unlock()
	if was {
		t.log().Warn("nothing is heard of the agent", "err", err)
		t.notify(keys)
		t.heard()
	}
}

func (t *Target) heard() {
	if t.Heard != nil {
		t.Heard()
	}
}

// Live reports whether the agent is heard.
func (t *Target) Live() bool {
	t.init()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// TakesParts reports whether the agent, as it was heard last, knows parts of a deployment.
func (t *Target) TakesParts() bool {
	t.init()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version >= partsVersion
}

func (t *Target) log() *slog.Logger {
	if t.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return t.Log
}

// keys are all applications, for one who holds t.mu.
func (t *Target) keys() map[target.Key]bool {
	keys := map[target.Key]bool{}
	for k := range t.told {
		keys[k] = true
	}
	for k := range t.seen {
		keys[k] = true
	}
	return keys
}

func (t *Target) notify(keys map[target.Key]bool) {
	for k := range keys {
		t.reports.Notify(k)
	}
}

// plainly is an error without the address of a request, which says nothing to people.
func plainly(err error) string {
	if err == nil {
		return "it has hung up"
	}
	text := err.Error()
	if _, after, ok := strings.Cut(text, pathWatch+"\": "); ok {
		text = after
	}
	return text
}

// Logs implements target.Logger.
func (t *Target) Logs(ctx context.Context, k target.Key, q target.LogQuery) iter.Seq2[target.LogLine, error] {
	return func(yield func(target.LogLine, error) bool) {
		t.init()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := t.request(ctx, http.MethodPost, pathLogs, logQuery{k, q.Unit, q.Since, q.Lines, q.Follow})
		if err != nil {
			if ctx.Err() == nil {
				yield(target.LogLine{}, fmt.Errorf("read logs: %w", err))
			}
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			var l logLine
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				yield(target.LogLine{}, fmt.Errorf("read logs: %w", err))
				return
			}
			switch {
			case l.Error != "":
				yield(target.LogLine{}, errors.New(l.Error))
				return
			case l.End:
				return
			case l.Line != nil && !yield(*l.Line, nil):
				return
			}
		}
		if ctx.Err() == nil {
			yield(target.LogLine{}, fmt.Errorf("read logs: the agent has hung up: %w", cmpErr(lines.Err())))
		}
	}
}

func cmpErr(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}
