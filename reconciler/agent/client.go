package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// listen hears what the agent says until it is silent.
func (t *Target) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silentTimeout, func() { cancel(fmt.Errorf("it was silent for %s", silentTimeout)) })
	defer quiet.Stop()
	said, end, err := t.watch(ctx)
	if err != nil {
		return cause(ctx, err)
	}
	defer end()
	lines := bufio.NewScanner(said)
	lines.Buffer(make([]byte, 0, lineBuffer), maxLine)
	fresh := map[target.Key]target.Observed{} // until all has been said
	ready := false
	for lines.Scan() {
		quiet.Reset(silentTimeout)
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("it says what cannot be read: %w", err)
		}
		if e.Observed != nil && !ready {
			fresh[e.Observed.Key] = *e.Observed
			continue
		}
		changed := map[target.Key]bool{}
		t.mu.Lock()
		switch {
		case e.Ready:
			changed = t.keys()
			for k := range fresh {
				changed[k] = true
			}
			t.seen, t.live, t.version, ready = fresh, true, e.Version, true
			t.nudge()
		case e.Observed != nil:
			k := e.Observed.Key
			changed[k] = !reflect.DeepEqual(t.seen[k], *e.Observed)
			t.seen[k] = *e.Observed
		case e.Gone != nil:
			delete(t.seen, *e.Gone)
			changed[*e.Gone] = true
		}
		t.mu.Unlock()
		t.notify(changed)
		if e.Ready {
			t.heard()
		}
	}
	return cause(ctx, lines.Err())
}

// watch asks the agent to say what is, on a connection of its own. It goes without http's
// client, whose two goroutines for each connection are, with a thousand agents, most of
// what one costs.
func (t *Target) watch(ctx context.Context) (said io.Reader, end func(), err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+pathWatch, nil)
	if err != nil {
		return nil, nil, err
	}
	conn, err := t.Dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	end = func() {
		stop()
		conn.Close()
	}
	if err := req.Write(conn); err != nil {
		end()
		return nil, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, lineBuffer), req)
	if err == nil {
		resp, err = answered(resp)
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return resp.Body, end, nil // of which nothing is to be closed but the connection
}

func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && ctx.Err() != nil {
		return c
	}
	return err
}

// send tells the agent what it has not accepted yet, until ctx ends.
func (t *Target) send(ctx context.Context) {
	pause := firstPause
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-again.C:
		}
		if err := t.sendAll(ctx); err != nil && ctx.Err() == nil {
			t.log().Warn("cannot tell the agent what is declared", "err", err)
			again.Reset(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = firstPause
	}
}

func (t *Target) sendAll(ctx context.Context) error {
	type item struct {
		key target.Key
		*told
	}
	t.mu.Lock()
	if !t.live {
		t.mu.Unlock()
		return nil // all of it is told when it is back
	}
	var items []item
	for k, last := range t.told {
		if !last.accepted {
			items = append(items, item{k, last})
		}
	}
	known, life, version := t.settings, t.lives, t.version
	t.mu.Unlock()

	if t.Settings != nil {
		s, ready := t.Settings()
		if !ready {
			return nil
		}
		if known == nil || !reflect.DeepEqual(*known, s) {
			if _, err := t.call(ctx, http.MethodPut, pathSettings, s); err != nil {
				return err
			}
			t.mu.Lock()
			if t.lives == life {
				t.settings = &s
			}
			t.mu.Unlock()
		}
	}
	var errs []error
	for _, i := range items {
		refused, err := 0, error(nil)
		switch {
		case i.declared != nil && i.declared.Part != target.InPlace && version < partsVersion:
			err = errUnproven("its agent is too old for a part of a deployment: agent upgrade")
		case i.declared != nil && t.Prove != nil:
			var p Proof
			if p, err = t.Prove(*i.declared); err == nil {
				refused, err = t.call(ctx, http.MethodPut, declaredAt(true, i.declared.Part), provenDeclared{*i.declared, p})
			}
		case i.declared != nil:
			refused, err = t.call(ctx, http.MethodPut, declaredAt(false, i.declared.Part), t.declaration(i.declared, i.secrets))
		default:
			_, err = t.call(ctx, http.MethodPost, pathRemove, removal{i.key, i.sequence})
		}
		var why errUnproven
		if err != nil && !errors.As(err, &why) {
			errs = append(errs, err)
			continue
		}
		t.mu.Lock()
		i.told.accepted, i.told.refused, i.told.unproven = t.lives == life, refused, string(why)
		t.mu.Unlock()
		if why != "" {
			t.log().Error("the agent refuses what is declared", "env", i.key.Environment, "app", i.key.Application, "err", err)
			t.reports.Notify(i.key)
		}
		if refused > 0 {
			t.log().Error("the agent refuses what is older than what it has acted on", "env", i.key.Environment, "app",
				i.key.Application, "place", i.sequence, "newest", refused)
			t.reports.Notify(i.key)
		}
	}
	return errors.Join(errs...)
}

// declaration is what is told of what is declared, with secrets as they are now.
func (t *Target) declaration(d *target.Declared, names []string) declaration {
	all := declaration{Declared: *d}
	if len(names) == 0 {
		return all
	}
	for name, s := range t.Secrets(d.Repository, names) {
		all.Secrets = append(all.Secrets, givenSecret{Name: name, Revision: s.Revision, Value: s.Value.Reveal()})
	}
	return all
}

// request begins a request. The caller closes the body.
func (t *Target) request(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, r)
	if err != nil {
		return nil, err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	return answered(resp)
}

// answered makes an error of an answer that is one.
func answered(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusConflict ||
		resp.StatusCode == http.StatusUnprocessableEntity {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what could be read of it
	if resp.StatusCode == http.StatusServiceUnavailable {
		return nil, fmt.Errorf("%w: %s", errUnavailable, bytes.TrimSpace(text))
	}
	return nil, fmt.Errorf("the agent answered %s: %s", resp.Status, bytes.TrimSpace(text))
}

// errUnavailable is that an agent does not do just now what it is asked for.
var errUnavailable = errors.New("the agent cannot do it now")

// call makes a request, and says by which fence it was refused, 0 for none. An error is
// errUnproven when it was refused for another reason.
func (t *Target) call(ctx context.Context, method, path string, body any) (refused int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.request(ctx, method, path, body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusConflict {
		var r refusal
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&r); err != nil {
			return 0, fmt.Errorf("the agent's refusal cannot be read: %w", err)
		}
		return r.Fence, nil
	}
	if resp.StatusCode == http.StatusUnprocessableEntity {
		var u unproven
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&u); err != nil || u.Why == "" {
			return 0, fmt.Errorf("the agent's refusal cannot be read: %w", cmpErr(err))
		}
		return 0, errUnproven(u.Why[:min(len(u.Why), maxWhy)])
	}
	return 0, nil
}

// maxWhy bounds why an agent refuses something.
const maxWhy = 2000
