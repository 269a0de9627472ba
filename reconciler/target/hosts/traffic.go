package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/deploy"
)

// placed is what a host has of an application, and whether it gets traffic: what a
// deployment that only moves traffic has to know.
type placed struct {
	Release int       `json:"release"` // 0: nothing
	Content string    `json:"content"` // of the deploy.Request
	Serving bool      `json:"serving"`
	Moving  bool      `json:"moving,omitempty"` // it was being let in or out, and nobody knows how far that came
	Since   time.Time `json:"since,omitzero"`
}

func (t *Target) placedFile(group string) string {
	return filepath.Join(t.Host.Root, "traffic", group+".json")
}

// placed reads it. What was installed by an agent that did not note it, gets traffic.
func (t *Target) placed(group string) (p placed, err error) {
	data, err := os.ReadFile(t.placedFile(group))
	if errors.Is(err, fs.ErrNotExist) {
		installed, _, err := t.Host.Installed(group)
		return placed{Serving: installed != ""}, err
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		err = fmt.Errorf("%s, which says what gets traffic here, cannot be read: %w", t.placedFile(group), err)
	}
	return p, err
}

func (t *Target) keepPlaced(group string, p placed) error {
	data, err := json.Marshal(p)
	if err == nil {
		err = repo.MakeDir(filepath.Dir(t.placedFile(group)), 0o755)
	}
	if err == nil {
		err = repo.WriteFile(t.placedFile(group), append(data, '\n'), 0o600)
	}
	return err
}

// place notes how a deployment of a revision has ended.
func (a *app) place(group string, d *target.Declared, r deploy.Result) (p placed, err error) {
	crash.Point("hosts.deployed")
	p, err = a.t.placed(group)
	switch {
	case err != nil:
		return p, err
	case r.Status == deploy.Succeeded:
		p.Release, p.Content, p.Since = d.Release.Number, r.Content, r.Finished
		if d.Part == target.Replacement { // it was taken out before
			p.Serving, p.Moving = false, false
		}
	case r.Restored == deploy.Emptied || r.Restored == deploy.NotRestored:
		p.Release, p.Content = 0, ""
	}
	return p, a.t.keepPlaced(group, p)
}

// takePart does what a blue/green deployment wants of this host besides installing. It
// reports whether nothing more is to be done.
func (a *app) takePart(ctx context.Context, d *target.Declared, group, digest string) (done bool, err error) {
	p, err := a.t.placed(group)
	if err != nil {
		return false, err
	}
	has := p.Content != "" && p.Content == contentOf(d, digest)
	switch {
	case d.Part == target.Replacement && has:
		a.report(d, func(o *target.Observed) { a.inPlaceOf(o, d, p) })
		return true, nil
	case d.Part == target.Replacement:
		if p.Serving || p.Moving { // it is not replaced under its visitors
			if ok, err := a.moveTraffic(ctx, d, group, digest, &p, false); err != nil || !ok {
				return true, err
			}
		}
		return false, nil
	case d.Part == target.Allowed && !has:
		a.report(d, func(o *target.Observed) {
			o.State, o.Message = target.Failed, "the release that is to get the traffic is not installed here; retry"
		})
		return true, nil
	}
	if wants := d.Part == target.Allowed; p.Serving != wants || p.Moving {
		if ok, err := a.moveTraffic(ctx, d, group, digest, &p, wants); err != nil || !ok {
			return true, err
		}
	}
	a.report(d, func(o *target.Observed) { a.inPlaceOf(o, d, p) })
	return true, nil
}

// moveTraffic has the host's scripts take it out of the traffic, or into it.
func (a *app) moveTraffic(ctx context.Context, d *target.Declared, group, digest string, p *placed,
	allow bool) (ok bool, err error) {
	id, kind := deploymentID(d)+"-block", deploy.Original
	if allow {
		id, kind = deploymentID(d)+"-allow", deploy.RollbackOriginal
	}
	if installed, _, err := a.t.Host.Installed(group); err != nil {
		return false, err
	} else if installed != "" {
		running, end := a.started(ctx, d)
		if running == nil {
			return false, nil
		}
		defer end()
		p.Moving = true
		if err := a.t.keepPlaced(group, *p); err != nil {
			return false, err
		}
		crash.Point("hosts.traffic-moving")
		request := a.request(deploy.Request{ID: id, Sequence: d.Sequence, Kind: kind,
			Progress: func(p deploy.Progress) { a.progress(d, p) }}, d, group, nil, digest)
		request.Content = p.Content // what is declared is not installed by that
		result, err := a.t.Host.Run(running, request, ctx.Done())
		switch {
		case errors.Is(err, deploy.ErrSuspended):
			return false, nil
		case err != nil:
			return false, err
		case result.Status != deploy.Succeeded:
			a.report(d, func(o *target.Observed) {
				a.inPlaceOf(o, d, *p)
				o.State, o.Message = target.Failed, result.Failure.Error()
			})
			return false, nil
		}
	}
	crash.Point("hosts.traffic-moved")
	p.Serving, p.Moving = allow, false
	if err := a.t.keepPlaced(group, *p); err != nil {
		return false, err
	}
	crash.Point("hosts.traffic-kept")
	return true, nil
}

// inPlaceOf makes a state of what is placed here.
func (a *app) inPlaceOf(o *target.Observed, d *target.Declared, p placed) {
	unit := target.Unit{Name: a.t.Name, State: target.Healthy, Release: p.Release}
	if p.Release > 0 {
		unit.Instances = []target.Instance{{
			ID:      deploymentID(d),
			Release: p.Release,
			Phase:   target.PhaseHealthy,
			Since:   p.Since,
			Serving: p.Serving,
		}}
	}
	o.State, o.Message, o.Units = target.Healthy, "", []target.Unit{unit}
}
