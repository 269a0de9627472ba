package fleet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
)

// fails has release n fail on a machine; "" nothing any more.
func (m *machine) fails(t *testing.T, release string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(m.dir, "fails-*"))
	for _, name := range all {
		err = os.Remove(name)
	}
	if release != "" {
		err = os.WriteFile(filepath.Join(m.dir, "fails-"+release), nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRetryAndSkip: a host that failed is deployed to again when somebody says so, one is left
// out, and a server that starts later knows.
func TestRetryAndSkip(t *testing.T) {
	f, m := fleetOf(t, "a", "b", "c")
	end := run(t, f)
	f.Converge(declared(1, "OneAtATime"))
	await(t, f, "healthy", is(1, target.Healthy))
	m["a"].fails(t, "r2")
	d := declared(2, "OneAtATime\nrollback: false")
	f.Converge(d)
	if o := await(t, f, "failed", is(2, target.Failed)); o.RollBack || o.Attempt != 0 {
		t.Errorf("%+v", o)
	}
	// It fails again, as its second attempt.
	d.Retried = map[string]int{"": 1, "a": 1}
	f.Converge(d)
	again := func(attempt int) func(target.Observed) bool {
		return func(o target.Observed) bool { return is(2, target.Failed)(o) && o.Attempt == attempt }
	}
	await(t, f, "failed again", again(1))
	if ran := m["a"].ran(t); ran != "r1 r2 r1 r2 r1" || m["b"].ran(t) != "r1" {
		t.Errorf("a ran %q, b %q", ran, m["b"].ran(t))
	}
	// Without it the others go on.
	d.Skipped, d.Retried = []string{"a"}, map[string]int{"": 2, "a": 1}
	f.Converge(d)
	o := await(t, f, "healthy without a", is(2, target.Healthy))
	if o.Message != "a is skipped" || !strings.HasPrefix(o.Units[0].Instances[0].Message, "skipped: ") {
		t.Errorf("%+v", o)
	}
	end()

	next := &Target{Here: hosts.New(t.TempDir(), revision), Hosts: f.Hosts, Log: f.Log}
	run(t, next)
	next.Converge(d)
	await(t, next, "known to the next server", is(2, target.Healthy))
	m["a"].fails(t, "")
	d.Skipped, d.Retried = nil, map[string]int{"": 3, "a": 2}
	next.Converge(d)
	await(t, next, "healthy on all", func(o target.Observed) bool { return is(2, target.Healthy)(o) && o.Message == "" })
	if ran := m["a"].ran(t); ran != "r1 r2 r1 r2 r1 r2" || m["b"].ran(t) != "r1 r2" {
		t.Errorf("a ran %q, b %q", ran, m["b"].ran(t))
	}
}

// TestStop: no host is begun with any more, and it is rolled back where that is declared; what
// was given up stays so with the next server, until it is tried again.
func TestStop(t *testing.T) {
	f, m := fleetOf(t, "a", "b")
	end := run(t, f)
	f.Converge(declared(1, "AllAtOnce"))
	await(t, f, "healthy", is(1, target.Healthy))
	m["b"].leave() // so that it is not over before it is stopped
	await(t, f, "without b", func(o target.Observed) bool { return o.Units[1].State == target.Unknown })
	d := declared(2, "OneAtATime")
	f.Converge(d)
	await(t, f, "waiting for b", func(o target.Observed) bool { return strings.Contains(o.Message, "waiting for b") })
	d.Stopped = "stopped by ann: no"
	f.Converge(d)
	o := await(t, f, "stopped", is(2, target.Failed))
	if !o.RollBack || !strings.HasPrefix(o.Message, "stopped by ann: no; 0 of 2 hosts have it") {
		t.Errorf("%+v", o)
	}
	m["b"].come()
	d = declared(3, "OneAtATime\nrollback: false")
	m["a"].fails(t, "r3")
	f.Converge(d)
	await(t, f, "failed", is(3, target.Failed))
	m["a"].fails(t, "")
	end()

	next := &Target{Here: hosts.New(t.TempDir(), revision), Hosts: f.Hosts, Log: f.Log}
	run(t, next)
	d.GaveUp = "alarm errors: 9 is above 5"
	next.Converge(d)
	if o := await(t, next, "given up still", is(3, target.Failed)); o.RollBack || !strings.HasPrefix(o.Message, d.GaveUp) {
		t.Errorf("%+v", o)
	}
	d.GaveUp, d.Retried = "", map[string]int{"": 1, "a": 1}
	next.Converge(d)
	await(t, next, "healthy", is(3, target.Healthy))
}

// TestAlarm: Prometheus is asked before a host is begun with, and what it says stops the rest.
func TestAlarm(t *testing.T) {
	var value atomic.Int64
	var asked atomic.Value
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.FormValue("query"))
		fmt.Fprintf(w, `{"status": "success", "data": {"resultType": "scalar", "result": [1, "%d"]}}`, value.Load())
	}))
	defer prometheus.Close()
	f, m := fleetOf(t, "a", "b")
	run(t, f)
	d := declared(1, "OneAtATime\nbake: 24h\nalarms: [{name: errors, prometheus: \""+prometheus.URL+
		"\", query: \"errors{release=\\\"${HEADGATE_RELEASE}\\\"}\", above: 5, interval: 1s}]")
	f.Converge(d)
	await(t, f, "baking", func(o target.Observed) bool {
		return o.State == target.Converging && strings.Contains(o.Message, "2 of 2 hosts have it; alarms are asked until")
	})
	if asked.Load() != `errors{release="1"}` {
		t.Errorf("asked: %s", asked.Load())
	}
	value.Store(9)
	o := await(t, f, "stopped", is(1, target.Failed))
	if !o.RollBack || !strings.HasPrefix(o.Message, "alarm errors: 9 is above 5") {
		t.Errorf("%+v", o)
	}
	if m["a"].ran(t) != "r1" || m["b"].ran(t) != "r1" {
		t.Errorf("a ran %q, b %q", m["a"].ran(t), m["b"].ran(t))
	}
}
