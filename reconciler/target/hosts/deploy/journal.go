package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// journal is how far the newest deployment of a group has come. It is written before
// and after whatever must not be done twice.
type journal struct {
	ID       string          `json:"id"`
	Group    string          `json:"group"`
	Sequence int             `json:"sequence"`
	Content  string          `json:"content,omitempty"`
	Kind     Kind            `json:"kind"`
	Events   []appspec.Event `json:"events"`
	Started  time.Time       `json:"started"`

	// What there was before.
	Previous string `json:"previous"` // the last successful install
	Recent   string `json:"recent"`   // the most recent install

	// Cleanup is what the last install had put on the host. It may be long, so it is
	// written once, to a file of its own.
	Cleanup []string `json:"-"`

	progress
	Touched      bool            `json:"touched"` // a script was begun, or something of the host changed
	Saved        bool            `json:"saved"`   // what Install replaces
	Installation installation    `json:"installation"`
	Begun        []appspec.Event `json:"begun"` // events of which a script was begun, or the host's own part

	Failure   *Failure `json:"failure,omitempty"`
	Restoring bool     `json:"restoring"`
	Restore   progress `json:"restore"`
	Troubles  []string `json:"troubles,omitempty"` // of restoring

	Result *Result `json:"result,omitempty"` // when it has ended
}

// progress is how far a list of steps with scripts has come.
type progress struct {
	Done    int  `json:"done"`    // steps that have ended
	Script  int  `json:"script"`  // scripts of the next step that have ended
	Running bool `json:"running"` // the next script was begun
}

// installation is how far Install has come.
type installation string

const (
	notInstalling installation = ""
	staging       installation = "staging"    // nothing of the host is changed yet
	committing    installation = "committing" // from here on it can be changed
	installed     installation = "installed"
)

// deployment is one that goes on.
type deployment struct {
	*Host
	request Request
	journal *journal
	log     *scriptLog
	suspend <-chan struct{}
}

func (h *Host) journalFile(group string) string { return h.instruction(group + "-deployment.json") }

func (d *deployment) save() error { return d.writeJSON(d.journalFile(d.journal.Group), d.journal) }

func (h *Host) readJournal(group string) (j journal, found bool, err error) {
	if found, err = h.readJSON(h.journalFile(group), &j); err != nil || !found {
		return j, found, err
	}
	dir := h.deploymentDir(group, j.ID)
	if !exists(filepath.Join(dir, going)) {
		j.Restoring = true
	}
	_, err = h.readJSON(filepath.Join(dir, "cleanup.json"), &j.Cleanup)
	return j, true, err
}

// going is the name of a file that is there until the previous revision is put back.
const going = "going"

func (d *deployment) goingFile() string { return filepath.Join(d.dir(), going) }

func (d *deployment) dir() string { return d.deploymentDir(d.journal.Group, d.journal.ID) }

func (d *deployment) identity() string { return d.dir() }

func (d *deployment) hasStarted(events ...appspec.Event) bool {
	return slices.ContainsFunc(events, func(e appspec.Event) bool { return slices.Contains(d.journal.Begun, e) })
}

// ErrSuspended is the error of a deployment that goes on the next time it is asked for,
// since the process that did it was told to end.
var ErrSuspended = errors.New("the deployment is suspended")

// Run deploys a revision and says how it ended. It blocks. The same request again goes
// on with what was not ended, and otherwise answers the same. When ctx ends, the
// deployment fails and the previous revision is put back; when suspend is closed, it
// returns soon with ErrSuspended. Another error is about the request or the host's records;
// nothing was changed then.
func (h *Host) Run(ctx context.Context, r Request, suspend <-chan struct{}) (Result, error) {
	if err := r.validate(); err != nil {
		return Result{}, err
	}
	if h.MaxRevisions < 0 {
		return Result{}, fmt.Errorf("%d revisions cannot be kept: keep at least 1", h.MaxRevisions)
	}
	unlock, err := h.lock(r.Group)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	highest, err := h.fence(r.Group)
	if err != nil {
		return Result{}, err
	}
	if r.Sequence > 0 && r.Sequence < highest {
		return Result{}, ErrFenced
	}
	last, found, err := h.readJournal(r.Group)
	if err != nil {
		return Result{}, err
	}
	d := &deployment{Host: h, request: r, suspend: suspend}
	if found && last.ID == r.ID {
		if last.Result != nil {
			(&deployment{Host: h, journal: &last}).tidy()
			return *last.Result, nil
		}
		d.journal = &last
		return d.proceed(ctx)
	}
	if found && last.Result != nil {
		(&deployment{Host: h, journal: &last}).tidy()
	} else if found {
		if err := d.abandon(ctx, &last); err != nil {
			return Result{}, err
		}
	}
	var earlier Result
	if ended, err := h.readJSON(filepath.Join(h.deploymentDir(r.Group, r.ID), "result.json"), &earlier); err != nil ||
		ended {
		return earlier, err
	}
	if exists(archiveIn(h.deploymentDir(r.Group, r.ID))) {
		return Result{}, fmt.Errorf("a deployment with the id %s was there before: ids are used once", r.ID)
	}
	if r.Sequence > highest {
		if err := h.raiseFence(r.Group, r.Sequence); err != nil {
			return Result{}, err
		}
		crash.Point("deploy.fence-raised")
	}
	if err := d.begin(); err != nil {
		return Result{}, err
	}
	return d.proceed(ctx)
}

// Recover goes on with a deployment of a group that a process which was killed has
// left, without its request: it fails, and the previous revision is put back.
func (h *Host) Recover(ctx context.Context, group string, suspend <-chan struct{}) error {
	unlock, err := h.lock(group)
	if err != nil {
		return err
	}
	defer unlock()
	last, found, err := h.readJournal(group)
	if err != nil || !found || last.Result != nil {
		return err
	}
	d := &deployment{Host: h, request: Request{ID: last.ID, Group: group}, suspend: suspend}
	return d.abandon(ctx, &last)
}

// Last is the result of the newest deployment of a group that has ended, and the id
// of the newest one, ended or not; "" when there was none.
func (h *Host) Last(group string) (id string, result *Result, err error) {
	last, found, err := h.readJournal(group)
	if err != nil || !found {
		return "", nil, err
	}
	return last.ID, last.Result, nil
}

// begin writes the journal of a new deployment.
func (d *deployment) begin() error {
	r := &d.request
	j := &journal{
		ID:       r.ID,
		Group:    r.Group,
		Sequence: r.Sequence,
		Content:  r.Content,
		Kind:     r.Kind,
		Events:   r.events(),
		Started:  time.Now(),
	}
	var err error
	if j.Previous, err = d.pointed(r.Group, lastSuccessful); err != nil {
		return err
	}
	if j.Recent, err = d.pointed(r.Group, mostRecent); err != nil {
		return err
	}
	if j.Cleanup, err = d.cleanup(r.Group); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.deploymentDir(r.Group, r.ID), "logs"), 0o755); err != nil {
		return err
	}
	if err := d.writeJSON(filepath.Join(d.deploymentDir(r.Group, r.ID), "cleanup.json"), j.Cleanup); err != nil {
		return err
	}
	d.journal = j
	if err := d.write(d.goingFile(), nil); err != nil {
		return err
	}
	if err := d.save(); err != nil {
		return err
	}
	crash.Point("deploy.begun")
	return nil
}

// abandon ends a deployment that nobody goes on with.
func (d *deployment) abandon(ctx context.Context, j *journal) error {
	old := &deployment{Host: d.Host, request: Request{ID: j.ID, Group: j.Group}, journal: j, suspend: d.suspend}
	old.request.Application, old.request.GroupName = d.request.Application, d.request.GroupName
	old.request.Progress, old.request.Traffic = d.request.Progress, d.request.Traffic
	old.log = openLog(logIn(old.dir()), d.request.Progress)
	defer old.log.close()
	if j.Failure == nil {
		j.Failure = old.interrupted()
	}
	_, err := old.fail(ctx, j.Failure)
	return err
}

// interrupted is the failure of what a process was doing when it was killed.
func (d *deployment) interrupted() *Failure {
	f := &Failure{
		What: "failed after a restart: whoever did it was ended meanwhile, and another deployment came",
		Code: CodeInterrupted,
	}
	if d.journal.Done < len(d.journal.Events) {
		f.Event = d.journal.Events[d.journal.Done]
	}
	return f
}

// proceed takes the deployment to its end, from wherever it is.
func (d *deployment) proceed(ctx context.Context) (Result, error) {
	d.log = openLog(logIn(d.dir()), d.request.Progress)
	defer d.log.close()
	if d.journal.Restoring {
		if d.journal.Failure == nil {
			d.journal.Failure = d.interrupted()
		}
		return d.restore(ctx)
	}
	if d.journal.Failure != nil { // a save failed, or the process was killed, between both
		return d.fail(ctx, d.journal.Failure)
	}
	if d.journal.Done == 0 && !d.journal.Touched {
		if f := d.prepare(ctx); f != nil {
			if d.suspended() {
				return Result{}, ErrSuspended
			}
			return d.fail(ctx, f)
		}
	}
	for d.journal.Done < len(d.journal.Events) {
		event := d.journal.Events[d.journal.Done]
		f := d.event(ctx, event)
		if d.suspended() && f != nil {
			return Result{}, ErrSuspended
		}
		if f != nil && d.request.IgnoreStopFailures && ignorable(event) {
			d.log.warn(event, "ignored: "+f.What)
			f = nil
		}
		if f != nil {
			return d.fail(ctx, f)
		}
		d.log.tell(Progress{Kind: EventEnded, Event: event}, "")
		d.journal.Done, d.journal.Script, d.journal.Running = d.journal.Done+1, 0, false
		if err := d.save(); err != nil {
			return d.fail(ctx, failure(event, err))
		}
		crash.Point("deploy.event-done")
	}
	return d.succeed(ctx)
}

func (d *deployment) suspended() bool {
	select {
	case <-d.suspend:
		return d.suspend != nil
	default:
		return false
	}
}

func ignorable(e appspec.Event) bool {
	return e == appspec.ApplicationStop || e == appspec.BeforeBlockTraffic || e == appspec.AfterBlockTraffic
}

func (d *deployment) succeed(ctx context.Context) (Result, error) {
	if d.hasRevision() {
		if err := d.saveBaseline(); err != nil {
			return d.fail(ctx, failure(appspec.End, fmt.Errorf("write down what is installed: %w", err)))
		}
		if err := d.point(d.journal.Group, lastVerified, d.journal.ID); err != nil {
			return d.fail(ctx, failure(appspec.End, err))
		}
		crash.Point("deploy.verified")
	}
	if d.journal.Kind == Restart {
		_ = d.pruneLogs() // they are pruned before the next revision at the latest
	}
	return d.end(Result{Status: Succeeded})
}

// end writes how it ended and removes what only its course had needed.
func (d *deployment) end(r Result) (Result, error) {
	j := d.journal
	r.ID, r.Content, r.Previous = j.ID, j.Content, j.Previous
	r.Failure, r.Started, r.Finished = j.Failure, j.Started, time.Now().UTC().Round(0) // as it is read back
	var err error
	if r.Installed, r.Verified, err = d.Installed(j.Group); err != nil {
		return Result{}, err
	}
	if err := d.writeJSON(filepath.Join(d.dir(), "result.json"), r); err != nil {
		return Result{}, err
	}
	crash.Point("deploy.result-written")
	j.Result = &r
	if err := d.save(); err != nil {
		j.Result = nil
		return Result{}, err
	}
	crash.Point("deploy.ended")
	d.tidy()
	return r, nil
}

// tidy removes what a deployment that has ended does not need any more. What cannot be
// removed now is tried once more before the next.
func (d *deployment) tidy() {
	for _, dir := range d.stages() {
		_ = os.RemoveAll(dir)
	}
	_ = os.RemoveAll(d.beforeDir())
	_ = os.RemoveAll(archiveIn(d.dir()) + ".unpacking")
	for _, name := range []string{d.goingFile(), d.beforeFile(), filepath.Join(d.dir(), "cleanup.json")} {
		_ = os.Remove(name)
	}
}

// hasRevision reports whether the deployment brings one; what only moves traffic does not.
func (d *deployment) hasRevision() bool {
	return slices.Contains(d.journal.Events, appspec.Install)
}

// specOf is the appspec.yml of a deployment of the group, as it was read then; nil
// when it has none.
func (d *deployment) specOf(id string) (*appspec.Spec, error) {
	data, err := os.ReadFile(filepath.Join(d.deploymentDir(d.journal.Group, id), "appspec.json"))
	if err != nil {
		return nil, err
	}
	var s appspec.Spec
	return &s, json.Unmarshal(data, &s)
}
