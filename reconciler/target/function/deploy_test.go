package function

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
)

// clock is a time that only the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// forward moves the time, and has the application look at it.
func (h *harness) forward(c *clock, by time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(by)
	c.mu.Unlock()
	h.app().mu.Lock()
	h.app().nudge()
	h.app().mu.Unlock()
}

func (h *harness) app() *app {
	h.target.mu.Lock()
	defer h.target.mu.Unlock()
	return h.target.apps[h.key]
}

// alias is where the alias is, as the API tells it.
func (h *harness) alias() string {
	h.Helper()
	resp, err := http.Get(h.app().invokeURL() + "/2015-03-31/functions/hello/aliases/live")
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	var at struct {
		FunctionVersion string
		RoutingConfig   struct{ AdditionalVersionWeights map[string]float64 }
	}
	if err := json.NewDecoder(resp.Body).Decode(&at); err != nil {
		h.Fatal(err)
	}
	for version, weight := range at.RoutingConfig.AdditionalVersionWeights {
		return fmt.Sprintf("%s, %s: %g", at.FunctionVersion, version, weight)
	}
	return at.FunctionVersion
}

// weight waits until the second version has a share of the requests.
func (h *harness) weight(percent int) {
	h.Helper()
	h.await(fmt.Sprint(percent, " %"),
		func(o target.Observed) bool { return len(o.Units) > 0 && o.Units[0].Weight == percent })
}

// hooked declares hooks with their reports, and a version that nothing else is.
func hooked(version int, before, after string) target.Files {
	text := spec + "Hooks:\n"
	if before != "" {
		text += "  - BeforeAllowTraffic: before\n"
	}
	if after != "" {
		text += "  - AfterAllowTraffic: after\n"
	}
	f := files(
		fmt.Sprintf(
			"functions:\n  hello: {timeout: 5m, environment: {GREETING: %q}}\n  before: {timeout: 5m, environment: {DO: hook, REPORT: %q}}\n  after: {timeout: 5m, environment: {DO: hook, REPORT: %q}}\n",
			fmt.Sprint(version), before, after))
	f["appspec.yml"] = []byte(text)
	return f
}

// TestHooks: what hooks report decides, and the alias is where it was when they fail.
func TestHooks(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.declare(1, 1, files(""))
	h.healthy(1)
	at := "1"
	for i, c := range []struct{ before, after, why string }{
		{"Succeeded", "Succeeded", ""},
		{"Failed", "", "hook before (BeforeAllowTraffic) failed: it reported so"},
		{"error", "", "hook before (BeforeAllowTraffic) failed: errorString: it does not validate"},
		{"Maybe", "", "InvalidLifecycleEventHookExecutionStatusException"},
		{"elsewhere", "", "InvalidLifecycleEventHookExecutionIdException"},
		{"Succeeded", "Failed", "hook after (AfterAllowTraffic) failed: it reported so"},
		{"", "error", "hook after (AfterAllowTraffic) failed: errorString: it does not validate"},
		{"", "Succeeded", ""},
	} {
		n := i + 2
		h.declare(n, 1, hooked(n, c.before, c.after))
		if c.why == "" {
			h.healthy(n)
			at = fmt.Sprint(n)
		} else if o := h.failed(n); !strings.Contains(o.Message, c.why) || !o.RollBack {
			t.Errorf("before %s, after %s: %+v", c.before, c.after, o)
		}
		if got := h.alias(); got != at {
			t.Errorf("before %s, after %s: the alias is at %s, not at %s", c.before, c.after, got, at)
		}
		if _, said := h.invoke("hello:live", `{}`); !strings.Contains(said, fmt.Sprintf(`"version":%q`, at)) {
			t.Errorf("before %s, after %s: %s", c.before, c.after, said)
		}
	}
}

func newClock(h *harness) *clock {
	c := &clock{now: time.Now()}
	h.target.now = c.read
	return c
}

// held is a harness whose time only the test moves.
func held(t *testing.T) (*harness, *clock) {
	h := &harness{TB: t, target: newTarget(t),
		key: target.Key{Repository: "shop", Application: "shop", Environment: "production"}}
	c := newClock(h)
	h.start()
	return h, c
}

// TestSilentHook: a hook that returns without a report has its hour, and what it reports
// after that is refused. So is a report while nothing waits for one.
func TestSilentHook(t *testing.T) {
	t.Parallel()
	h, c := held(t)
	h.declare(1, 1, files("functions: {hello: {timeout: 5m}}\n"))
	h.healthy(1)
	h.declare(2, 1, hooked(2, "none", ""))
	h.await("waiting for its hook",
		func(o target.Observed) bool { return o.Message == "BeforeAllowTraffic: waits for the report of before" })
	a := h.app()
	a.stateMu.Lock()
	execution, deployment := a.state.Deployment.Hook.Execution, a.state.Deployment.ID
	a.stateMu.Unlock()
	h.forward(c, 59*time.Minute)
	h.forward(c, 2*time.Minute)
	if o := h.failed(2); o.Message != "hook before did not report within 1h0m0s" || !o.RollBack {
		t.Errorf("it is %+v", o)
	}
	report := fmt.Sprintf(`{"deploymentId":%q,"lifecycleEventHookExecutionId":%q,"status":"Succeeded"}`,
		deployment, execution)
	resp, said := h.post(a.invokeURL(), report, "X-Amz-Target", "CodeDeploy_20141006.PutLifecycleEventHookExecutionStatus")
	if resp.StatusCode != http.StatusBadRequest ||
		!strings.Contains(said, "InvalidLifecycleEventHookExecutionIdException") {
		t.Errorf("a late report: %s: %s", resp.Status, said)
	}
	if got := h.alias(); got != "1" {
		t.Errorf("the alias is at %s", got)
	}
}

const canary = "deployment: CodeDeployDefault.LambdaCanary10Percent5Minutes\nfunctions: {hello: {timeout: 5m}}\n"

// TestShares: of 10,000 requests that many ask for at once a canary gets its share, for any
// weight, and of any hundred in a row as well.
func TestShares(t *testing.T) {
	t.Parallel()
	for weight := 1; weight < 100; weight++ {
		var r router
		r.set(rollout.Alias{Version: 1, Canary: 2, Weight: weight})
		const requests, workers = 10_000, 4
		var canary atomic.Int64
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for range requests / workers {
					if r.next() == 2 {
						canary.Add(1)
					}
				}
			})
		}
		all.Wait()
		if got := canary.Load(); got != int64(weight)*requests/100 {
			t.Errorf("%d %%: it got %d of %d", weight, got, requests)
		}
		for range 7 {
			r.next()
		}
		hundred := 0
		for range 100 {
			if r.next() == 2 {
				hundred++
			}
		}
		if hundred != weight {
			t.Errorf("%d %%: it got %d of a hundred", weight, hundred)
		}
	}
}

// TestCanary: of the requests through a canary its version gets its share, as answered by the
// processes themselves; then all of them.
func TestCanary(t *testing.T) {
	t.Parallel()
	h, c := held(t)
	h.declare(1, 1, files(canary))
	h.healthy(1)
	h.declare(2, 2, files(canary))
	h.weight(10)
	if got := h.alias(); got != "1, 2: 0.1" {
		t.Errorf("the alias is at %s", got)
	}
	o := h.target.Observe(h.key)
	if u := o.Units[0]; u.Release != 1 || u.Canary != 2 || o.State != target.Converging ||
		!strings.Contains(o.Message, "version 2 gets 10 % of the requests") {
		t.Errorf("it is %+v", o)
	}
	const requests, workers = 1000, 4
	var got [workers]map[string]int
	var all sync.WaitGroup
	for w := range workers {
		got[w] = map[string]int{}
		all.Go(func() {
			for range requests / workers {
				resp, said := h.invoke("hello:live", `{}`)
				version := resp.Header.Get("X-Amz-Executed-Version")
				if !strings.Contains(said, fmt.Sprintf(`"version":%q`, version)) {
					t.Errorf("%s answered %s", version, said)
					return
				}
				got[w][version]++
			}
		})
	}
	all.Wait()
	second := 0
	for _, g := range got {
		second += g["2"]
	}
	if share := float64(second) / requests; share < 0.09 || share > 0.11 {
		t.Errorf("version 2 got %d of %d requests", second, requests)
	}
	h.forward(c, 5*time.Minute)
	h.healthy(2)
	if got := h.alias(); got != "2" {
		t.Errorf("the alias is at %s", got)
	}
	h.await("without version 1", func(o target.Observed) bool {
		for _, in := range o.Units[0].Instances {
			if in.Release != 2 {
				return false
			}
		}
		return true
	})
}

// TestSupersede: a newer commit finds a canary on its way. The alias goes back before the
// newer deployment begins, and what the older one waits for does not come any more.
func TestSupersede(t *testing.T) {
	t.Parallel()
	h, c := held(t)
	h.declare(1, 1, files(canary))
	h.healthy(1)
	h.declare(2, 2, files(canary))
	h.weight(10)
	h.declare(3, 3, files("functions: {hello: {environment: {DO: exit}}}\n"+strings.Split(canary, "\n")[0]+"\n"))
	h.failed(3)
	if got := h.alias(); got != "1" {
		t.Errorf("after one that does not start the alias is at %s", got)
	}
	h.declare(4, 2, files(canary))
	h.weight(10)
	h.declare(5, 4, files(canary))
	h.await("at version 4", func(o target.Observed) bool {
		return o.Sequence == 5 && len(o.Units) > 0 &&
			o.Units[0].Canary == 4
	})
	if got := h.alias(); got != "1, 4: 0.1" {
		t.Errorf("the alias is at %s", got)
	}
	// Back to what serves is done at once.
	h.declare(6, 1, files(canary))
	h.healthy(6)
	if got := h.alias(); got != "1" {
		t.Errorf("the alias is at %s", got)
	}
	h.forward(c, time.Hour)
	h.healthy(6)
	if got := h.alias(); got != "1" {
		t.Errorf("an hour later the alias is at %s", got)
	}
}

// TestRestart: another run of the program goes on where the one before was, at the same
// address, with the same versions.
func TestRestart(t *testing.T) {
	t.Parallel()
	h, c := held(t)
	// A port that any will do for is asked for again, and may be somebody else's by then.
	canary := fmt.Sprintf("invoke: %d\n", freePort(t)) + canary
	h.declare(1, 1, files(canary))
	h.healthy(1)
	h.declare(2, 2, files(canary))
	h.weight(10)
	address := h.app().invokeURL()
	h.restart()
	h.weight(10)
	if got := h.app().invokeURL(); got != address {
		t.Errorf("it is at %s, and was at %s", got, address)
	}
	h.forward(c, 5*time.Minute)
	h.healthy(2)
	h.restart()
	h.healthy(2)
	if got := h.alias(); got != "2" {
		t.Errorf("the alias is at %s", got)
	}
	if resp, said := h.invoke("hello:live", `{}`); !strings.Contains(said, `"version":"2"`) {
		t.Errorf("%s: %s", resp.Status, said)
	}
	// What is refused after a restart takes nothing from what serves.
	h.declare(3, 3, files("functions: {hello: {code: plain, timeout: 5m}}\n"))
	h.failed(3)
	h.restart()
	if o := h.failed(3); !o.RollBack {
		t.Errorf("after a restart it is %+v", o)
	}
	if resp, said := h.invoke("hello:live", `{}`); !strings.Contains(said, `"version":"2"`) {
		t.Errorf("%s: %s", resp.Status, said)
	}
	// The same code and configuration is the same version.
	h.declare(4, 1, files("functions: {hello: {timeout: 5m}}\n"))
	h.healthy(4)
	if got := h.alias(); got != "1" {
		t.Errorf("the first release again is version %s", got)
	}
}

// TestFallback: where nothing serves yet, what was good last does when a release fails.
func TestFallback(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	good := target.Declared{Key: h.key, Commit: "commit-1", Sequence: 1,
		Files: files("functions: {hello: {timeout: 5m}}\n"), Release: release(1)}
	h.target.Converge(target.Declared{
		Key:      h.key,
		Commit:   "commit-2",
		Sequence: 2,
		Files:    files("functions: {hello: {environment: {DO: exit}}}\n"),
		Release:  release(2),
		Fallback: &good,
	})
	if o := h.failed(2); !o.RollBack || o.Units[0].Release != 1 {
		t.Errorf("it is %+v", o)
	}
	if resp, said := h.invoke("hello:live", `{}`); !strings.Contains(said, `"version":"1"`) {
		t.Errorf("%s: %s", resp.Status, said)
	}
}

// TestVersionsAreBounded: the oldest are forgotten, but not what an alias is at.
func TestVersionsAreBounded(t *testing.T) {
	var s state
	for n := range maxVersions + 50 {
		number, isNew := s.publish("hello", version{Digest: fmt.Sprint(n)}, time.Time{})
		if number != n+1 || !isNew {
			t.Fatalf("publication %d is version %d, %v", n, number, isNew)
		}
		if n == 5 {
			s.Aliases = map[string]rollout.Alias{"hello:live": {Version: 2, Canary: 4, Weight: 10}, "other:live": {Version: 3}}
		}
	}
	for number, want := range map[int]bool{1: false, 2: true, 3: false, 4: true, 52: false, 53: true, 150: true} {
		if _, got := s.version("hello", number); got != want {
			t.Errorf("version %d is there: %v", number, got)
		}
	}
	if len(s.Functions["hello"]) != maxVersions {
		t.Errorf("%d are kept", len(s.Functions["hello"]))
	}
}

// TestVersionsThatAreGiven: as at CodeDeploy they must be right, and both are named.
func TestVersionsThatAreGiven(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	with := func(current, goal string) target.Files {
		f := files("")
		more := ""
		if current != "" {
			more += ", CurrentVersion: " + current
		}
		if goal != "" {
			more += ", TargetVersion: " + goal
		}
		f["appspec.yml"] = []byte(strings.Replace(spec, "Alias: live", "Alias: live"+more, 1))
		return f
	}
	h.declare(1, 1, with("1", ""))
	if o := h.failed(1); !strings.Contains(o.Message,
		"CurrentVersion is 1, and the alias live of hello points to nothing") {
		t.Errorf("an absent alias: %s", o.Message)
	}
	h.declare(2, 1, with("", "1"))
	h.healthy(2)
	h.declare(3, 2, with("7", "2"))
	if o := h.failed(3); !strings.Contains(o.Message,
		"CurrentVersion is 7, and the alias live of hello points to version 1") || o.RollBack {
		t.Errorf("another current version: %+v", o)
	}
	h.declare(4, 2, with("1", "9"))
	if o := h.failed(4); !strings.Contains(o.Message, "TargetVersion is 9, and release 2 is version 2 of hello") {
		t.Errorf("another target version: %s", o.Message)
	}
	h.declare(5, 2, with("1", "2"))
	h.healthy(5)
}

// TestRejectedIsSuperseded: while the loop is about a commit that cannot be deployed another
// one is declared. Nothing of the first is looked at as if it were deployed.
func TestRejectedIsSuperseded(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	f := files("")
	f["appspec.yml"] = []byte(strings.Replace(spec, "Alias: live", "Alias: live, CurrentVersion: 1", 1))
	h.declare(1, 1, f)
	h.failed(1)

	a := h.app()
	h.stop() // what follows is done in place of the loop
	a.mu.Lock()
	rejected, next := a.declared, *a.declared
	next.Sequence, next.Commit = 2, "commit-2"
	a.declared, a.seen.State = &next, target.Converging
	a.mu.Unlock()
	if _, err := a.turn(t.Context(), rejected); err != nil {
		t.Error(err)
	}
	if o := a.observe(); o.State != target.Converging || len(a.state.Aliases) > 0 {
		t.Errorf("aliases are at %v, and it is %s", a.state.Aliases, o.State)
	}
}

// TestAliasMovedByHand is drift: healed, or reported and obeyed.
func TestAliasMovedByHand(t *testing.T) {
	t.Parallel()
	h, c := held(t)
	h.declare(1, 1, files("functions: {hello: {timeout: 5m}}\n"))
	h.healthy(1)
	h.declare(2, 2, h.last.Files)
	h.healthy(2)
	move := func() {
		t.Helper()
		file := filepath.Join(h.app().dir, "state.json")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		moved := strings.Replace(string(data), "\"hello:live\": {\n      \"version\": 2",
			"\"hello:live\": {\n      \"version\": 1", 1)
		if moved == string(data) {
			t.Fatalf("the alias is not in %s", data)
		}
		if err := os.WriteFile(file, []byte(moved), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.last.Drift = target.Report
	h.target.Converge(h.last)
	move()
	h.forward(c, time.Minute)
	o := h.await("drifted", func(o target.Observed) bool { return o.State == target.Degraded })
	if !o.Unhealed || o.Message != "drift: the alias live of hello points to version 1, not to version 2" {
		t.Errorf("it is %+v", o)
	}
	if got := h.alias(); got != "1" {
		t.Errorf("moved by hand it is at %s", got)
	}
	if resp, said := h.invoke("hello:live", `{}`); !strings.Contains(said, `"version":"1"`) {
		t.Errorf("%s: %s", resp.Status, said)
	}
	h.last.Drift = target.Heal
	h.target.Converge(h.last)
	h.healthy(2)
	if got := h.alias(); got != "2" {
		t.Errorf("healed it is at %s", got)
	}
}

// TestAlarm: a value beyond its bound takes the alias back.
func TestAlarm(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	value, asked := "0", make(chan string, 100)
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,%q]}]}}`, value)
		asked <- r.URL.Query().Get("query")
	}))
	defer prometheus.Close()
	h, c := held(t)
	h.declare(1, 1, files(canary))
	h.healthy(1)
	settings := fmt.Sprintf(`deployment:
  strategy: canary
  percent: 20
  interval: 10m
  alarms:
    - {name: errors, prometheus: %q, query: 'errors{release="$HEADGATE_RELEASE"}', above: 0.05}
`, prometheus.URL)
	h.declare(2, 2, files(settings))
	h.weight(20)
	if q := <-asked; q != `errors{release="2"}` {
		t.Errorf("asked %s", q)
	}
	mu.Lock()
	value = "0.5"
	mu.Unlock()
	h.forward(c, time.Minute)
	if o := h.failed(2); o.Message != "alarm errors: 0.5 is above 0.05" || !o.RollBack {
		t.Errorf("it is %+v", o)
	}
	if got := h.alias(); got != "1" {
		t.Errorf("the alias is at %s", got)
	}
}
