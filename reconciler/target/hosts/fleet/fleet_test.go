package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile/schematest"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/rollout"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

const appspec = `version: 0.0
os: linux
hooks:
  ApplicationStart: [{location: start.sh}]
`

// machine is a host with the parts that an agent has: its target, answering the protocol.
type machine struct {
	name   string
	dir    string
	target *hosts.Target
	link   *agent.Target

	mu   sync.Mutex
	away bool
	old  bool // it answers as an agent before parts of deployments
	open []net.Conn
	back chan struct{}
}

// fleetOf is a fleet of running machines, which are all web.
func fleetOf(t *testing.T, names ...string) (*Target, map[string]*machine) {
	t.Helper()
	all := map[string]*machine{}
	var list []Host
	f := &Target{Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	here := t.TempDir()
	for _, name := range names {
		all[name] = &machine{name: name, dir: t.TempDir(), back: make(chan struct{})}
	}
	t.Cleanup(func() { // before the directories go
		cancel()
		running.Wait()
	})
	for _, name := range names {
		m := all[name]
		m.target = hosts.New(m.dir, revision)
		m.target.Name = "whatever it says"
		handler := &agent.Handler{Engine: m.target, Hello: func() agent.Hello { return agent.Hello{Version: agent.Version} }}
		l, err := net.Listen("unix", filepath.Join(m.dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: m.answers(handler)}
		m.link = &agent.Target{Dial: m.dial(l.Addr()), Heard: func() { f.Changed() }}
		running.Go(func() { _ = server.Serve(l) })
		running.Go(func() { _ = m.target.Run(ctx) })
		running.Go(func() { _ = m.link.Run(ctx) })
		running.Go(func() {
			<-ctx.Done()
			server.Close()
		})
		list = append(list, Host{Name: name, Tags: map[string]string{"role": "web"}, Agent: m.link})
	}
	f.Here = hosts.New(here, revision)
	f.Hosts = func(string) []Host { return list }
	return f, all
}

// answers is how a machine answers what its handler does.
func (m *machine) answers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		old := m.old
		m.mu.Unlock()
		switch {
		case old && strings.HasSuffix(r.URL.Path, "/part"):
			http.NotFound(w, r)
			return
		case old:
			w = unversioned{w}
		}
		h.ServeHTTP(w, r)
	})
}

// unversioned is an answer of before versions were said.
type unversioned struct{ http.ResponseWriter }

func (u unversioned) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func (u unversioned) Write(data []byte) (int, error) {
	_, err := u.ResponseWriter.Write(bytes.Replace(data, fmt.Appendf(nil, `,"version":%d`, agent.Version), nil, 1))
	return len(data), err
}

func (m *machine) dial(at net.Addr) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		for {
			m.mu.Lock()
			away, back := m.away, m.back
			m.mu.Unlock()
			if !away {
				break
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-back:
			}
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", at.String())
		if err == nil {
			m.mu.Lock()
			m.open = append(m.open, conn)
			m.mu.Unlock()
		}
		return conn, err
	}
}

// leave cuts the connection, and come lets it be again.
func (m *machine) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away, m.back = true, make(chan struct{})
	for _, conn := range m.open {
		conn.Close()
	}
	m.open = nil
}

func (m *machine) come() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = false
	close(m.back)
}

// revision is what an artifact of a digest unpacks to. Its script fails on machines that
// hold a file with its name.
func revision(_ context.Context, digest, dir string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "start.sh"),
			[]byte("#!/bin/sh\nroot=${0%/*}/../../..\necho '"+digest+"' >>$root/ran\n"+
				"[ ! -e \"$root/fails-"+digest+"\" ] || { echo it is broken; exit 3; }\n"), 0o755),
		os.WriteFile(filepath.Join(dir, "bad.sh"), []byte("#!/bin/sh\nexit 3\n"), 0o755))
}

func (m *machine) ran(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.dir, "ran"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

var key = target.Key{Repository: "shop", Application: "shop", Environment: "production"}

func declared(sequence int, deployment string) target.Declared {
	return target.Declared{
		Key:      key,
		Commit:   fmt.Sprint("commit", sequence),
		Sequence: sequence,
		Files: target.Files{
			"appspec.yml": []byte(appspec),
			FileName:      []byte("tags: {role: web}\ndeployment: " + deployment + "\n"),
		},
		Release: target.Release{Number: sequence, Artifacts: map[string]string{"main": fmt.Sprint("r", sequence)}},
	}
}

func run(t *testing.T, f *Target) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return end
}

func await(t *testing.T, f *Target, what string, ok func(target.Observed) bool) target.Observed {
	t.Helper()
	changed, end := f.Watch(key)
	defer end()
	late := time.After(2 * time.Minute)
	for {
		o := f.Observe(key)
		if ok(o) {
			return o
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("it is not %s: %+v", what, o)
		}
	}
}

func is(sequence int, s target.State) func(target.Observed) bool {
	return func(o target.Observed) bool { return o.Sequence == sequence && o.State == s }
}

// TestContract holds the fleet to the contract, with two machines.
func TestContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject {
		f, _ := fleetOf(t, "a", "b")
		files := func(spec, hosts string) target.Files {
			return target.Files{"appspec.yml": []byte(spec), FileName: []byte(hosts)}
		}
		return targettest.Subject{
			Target: f,
			Good:   files(appspec, "tags: {role: web}\n"),
			Broken: files(appspec+"  ValidateService: [{location: bad.sh}]\n", "tags: {role: web}\n"),
			Bad: map[string]target.Files{
				"appspec.yml":  {FileName: []byte("tags: {role: web}\n")},
				"hosts.yaml:1": files(appspec, "tags: {}\n"),
				"hosts.yaml:2": files(appspec, "tags: {role: web}\ndeployment: Sometimes\n"),
			},
			Release: func(n int) target.Release {
				return target.Release{Number: n, Artifacts: map[string]string{"main": fmt.Sprint("r", n)}}
			},
		}
	})
}

// One after the other; a failure on the way leaves the others what they have, and wants a
// rollback.
func TestFailureStopsIt(t *testing.T) {
	f, m := fleetOf(t, "a", "b", "c")
	run(t, f)
	f.Converge(declared(1, "OneAtATime"))
	o := await(t, f, "healthy", is(1, target.Healthy))
	if len(o.Units) != 3 || o.Units[0].Name != "a" || o.Units[0].Instances[0].ID != "a" || o.Message != "" {
		t.Errorf("%+v", o)
	}
	if err := os.WriteFile(filepath.Join(m["a"].dir, "fails-r2"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.Converge(declared(2, "OneAtATime"))
	o = await(t, f, "failed", is(2, target.Failed))
	if !o.RollBack || !strings.Contains(o.Message, "a: ApplicationStart") ||
		!strings.Contains(o.Message, "2 of 3 hosts are healthy, and 2 must stay so") {
		t.Errorf("%+v", o)
	}
	if m["b"].ran(t) != "r1" || m["c"].ran(t) != "r1" {
		t.Errorf("b ran %s, c ran %s", m["b"].ran(t), m["c"].ran(t))
	}
	// The rollback is another declared state, and goes to the broken one first.
	f.Converge(declared(3, "OneAtATime"))
	await(t, f, "healthy", is(3, target.Healthy))
}

// A server that starts in the middle goes on where the hosts are.
func TestServerGoesOn(t *testing.T) {
	f, m := fleetOf(t, "a", "b")
	end := run(t, f)
	f.Converge(declared(1, "OneAtATime"))
	await(t, f, "healthy", is(1, target.Healthy))
	m["b"].leave()
	await(t, f, "known to be without b",
		func(o target.Observed) bool { return strings.Contains(o.Message, "b cannot be reached") })
	f.Converge(declared(2, "AllAtOnce"))
	o := await(t, f, "healthy on a", is(2, target.Healthy))
	if !strings.Contains(o.Message,
		"1 of 2 hosts have it; b cannot be reached, and gets what is declared when it is back") ||
		o.Units[1].State != target.Unknown || o.Units[1].Instances[0].Phase != target.PhaseAway {
		t.Errorf("%+v", o)
	}
	end()
	again := &Target{Here: hosts.New(t.TempDir(), revision), Hosts: f.Hosts, Log: f.Log}
	changed, stop := m["b"].link.Watch(key)
	defer stop()
	run(t, again)
	again.Converge(declared(2, "AllAtOnce"))
	await(t, again, "healthy on a still", is(2, target.Healthy))
	m["b"].come()
	<-changed
	again.Changed() // the agents tell the other fleet
	for deadline := time.Now().Add(2 * time.Minute); m["b"].ran(t) != "r1 r2"; time.Sleep(5 * time.Millisecond) {
		again.Changed()
		if time.Now().After(deadline) {
			t.Fatalf("b has run %s: %+v", m["b"].ran(t), again.Observe(key))
		}
	}
	if m["a"].ran(t) != "r1 r2" {
		t.Errorf("a has run %s", m["a"].ran(t))
	}
}

// TestHere: without a word about hosts it is for the server's own machine, also with a healthcheck.
func TestHere(t *testing.T) {
	f, m := fleetOf(t, "a")
	run(t, f)
	for i, text := range []string{"", "healthcheck: {test: \"true\", timeout: 1m}\n"} {
		d := declared(i+1, "AllAtOnce")
		if delete(d.Files, FileName); text != "" {
			d.Files[FileName] = []byte(text)
		}
		if problems, _ := f.Check("", d.Files); len(problems) > 0 {
			t.Errorf("%q: %v", text, problems)
		}
		f.Converge(d)
		if o := await(t, f, "healthy", is(i+1, target.Healthy)); f.Steps(key) == nil || m["a"].ran(t) != "" {
			t.Errorf("%q: %+v, a ran %q", text, o, m["a"].ran(t))
		}
	}
	d := declared(3, "AllAtOnce")
	d.Files[FileName] = []byte("healthcheck: {url: no}\n")
	if problems, _ := f.Check("", d.Files); len(problems) == 0 {
		t.Error("a healthcheck that cannot be read was taken")
	}
}

// Only hosts with the tags; none is a state that says so.
func TestTags(t *testing.T) {
	f, m := fleetOf(t, "a", "b")
	list := f.Hosts("")
	list[1].Tags = map[string]string{"role": "api"}
	run(t, f)
	d := declared(1, "AllAtOnce")
	f.Converge(d)
	o := await(t, f, "healthy", is(1, target.Healthy))
	if len(o.Units) != 1 || m["b"].ran(t) != "" {
		t.Errorf("%+v, b ran %q", o, m["b"].ran(t))
	}
	if !f.Wants("a", "r1") || f.Wants("b", "r1") || f.Wants("a", "r2") {
		t.Error("who may have which artifact is wrong")
	}
	d = declared(2, "AllAtOnce")
	d.Files[FileName] = []byte("tags: {role: nowhere}\n")
	f.Converge(d)
	o = await(t, f, "failed", is(2, target.Failed))
	if o.RollBack || !strings.Contains(o.Message, "no host has the tags") {
		t.Errorf("%+v", o)
	}
	// Its logs are those of hosts, by their names here.
	f.Converge(declared(3, "AllAtOnce"))
	await(t, f, "healthy", is(3, target.Healthy))
	for line, err := range f.Logs(context.Background(), key, target.LogQuery{}) {
		if err != nil || line.Unit != "a" {
			t.Errorf("%+v %v", line, err)
		}
	}
}

// hostsSchema is the schema of hosts.yaml for editors.
func hostsSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	data, err := os.ReadFile("hosts.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schematest.Compile(t, data)
}

// TestConfig: each file is judged by the reader and by the published schema.
func TestConfig(t *testing.T) {
	schema := hostsSchema(t)
	for _, c := range []struct{ text, want string }{
		{"tags: {role: web}", ""},
		{"tags: {role: [web, api], zone: \"*\"}\ndeployment: HOST_COUNT 2\nrollback: false", ""},
		{"deployment: OneAtATime", "hosts.yaml:1: tags does not say which hosts are deployed to"},
		{"tags: [role]", "tags does not say"},
		{"tags: {role: }", `hosts.yaml:1: the tag "role" has no value`},
		{"tags: {role: []}", "tag group 1 is empty"},
		{"tags: {a: b, c: d, e: f, g: h}", "4 tag groups are given"},
		{"tags: {a: b}\nstrategy: x", "strategy"},
		{"tags: {a: b}\ndeployment: FLEET_PERCENT 100", "hosts.yaml:2: FLEET_PERCENT takes 0 to 99"},
		{"tags: {a: b, a: c}", "a"},
		{"tags: {a: b}\nzones: {}", ""},
		{"tags: {a: b}\nzones: {monitor: 5m, first: 1h30m, minimum: HOST_COUNT 1}", ""},
		{"tags: {a: b}\nzones: {monitor: soon}", `hosts.yaml:2: monitor of zones is "soon"`},
		{"tags: {a: b}\nzones: {minimum: HalfAtATime}", `hosts.yaml:2: minimum of zones is "HalfAtATime"`},
		{"tags: {a: b}\nzones: {minimum: FLEET_PERCENT 100}", `minimum of zones is "FLEET_PERCENT 100"`},
		{"tags: {a: b}\nzones: {watch: 5m}", "watch"},
		{"tags: {a: b}\nhealthcheck: {test: ./check, interval: 10s, retries: 2}", ""},
		{"tags: {a: b}\nblue_green: {a: c}", ""},
		{"tags: {a: b}\nblue_green: {a: []}", "tag group 1 is empty"},
		{"tags: {a: b}\nblue_green: {a: c}\nzones: {}", "hosts.yaml:3: zones and blue_green exclude each other"},
		{"tags: {a: b}\nbake: 5m\nalarms: [{name: errors, prometheus: \"http://p:9090\", query: up, above: 0.05, for: 1m}]", ""},
		{"tags: {a: b}\nalarms:\n- {name: errors, prometheus: \"http://p:9090\", query: up}", "hosts.yaml:3: alarms[0]: an alarm has either"},
		{"tags: {a: b}\nbake: 5m", "hosts.yaml:2: bake is how long alarms are asked"},
		{"tags: {a: b}\nbake: long\nalarms: [{name: a, prometheus: \"http://p\", query: up, below: 1}]", `bake is "long"`},
		{"", "hosts.yaml"},
	} {
		got, problems := File{}.read("", map[string][]byte{FileName: []byte(c.text)})
		switch {
		case c.want == "" && (got == nil || len(problems) > 0):
			t.Errorf("%q: %v", c.text, problems)
		case c.want != "" && (len(problems) == 0 || !strings.Contains(problems[0].Error(), c.want)):
			t.Errorf("%q: %v, want %q", c.text, problems, c.want)
		}
		var v any
		if err := yaml.Unmarshal([]byte(c.text), &v); err != nil {
			continue // no YAML, of which a schema says nothing
		}
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(instance); (err == nil) != (c.want == "") {
			t.Errorf("%q: the schema says %v", c.text, err)
		}
	}
	c, _ := File{}.read(
		"", map[string][]byte{FileName: []byte("tags: {role: [web, api], zone: \"*\"}\ndeployment: HalfAtATime\n")})
	if !c.rollBack || c.rollout.Name != rollout.HalfAtATime.Name {
		t.Errorf("%+v", c)
	}
	zonal, _ := File{}.read("", map[string][]byte{FileName: []byte(
		"tags: {a: b}\ndeployment: AllAtOnce\nzones: {monitor: 5m, first: 1h, minimum: FLEET_PERCENT 50}\n")})
	if z := zonal.rollout.Zonal; z == nil || z.First != time.Hour || z.Each != 5*time.Minute ||
		*z.Minimum != (rollout.Minimum{Percent: true, Value: 50}) {
		t.Errorf("%+v", zonal.rollout)
	}
	var matched []int
	for i, tags := range []map[string]string{{"role": "web"}, {"role": "api", "zone": "a"}, {"role": "db", "zone": "a"},
		{"zone": "b"}} {
		if c.groups.Matches(tags) {
			matched = append(matched, i)
		}
	}
	if !slices.Equal(matched, []int{1}) {
		t.Errorf("it matches %v", matched)
	}
}

// TestEnrolledAgain: a machine that was removed and has enrolled again under the same name is
// another agent, and what that one reports is heard.
func TestEnrolledAgain(t *testing.T) {
	f, m := fleetOf(t, "a", "b")
	var hosts atomic.Pointer[[]Host]
	called := func(names ...string) {
		var all []Host
		for i, name := range names {
			all = append(all, Host{Name: name, Tags: map[string]string{"role": "web"}, Agent: m["ab"[i:i+1]].link})
		}
		hosts.Store(&all)
	}
	called("web", "other")
	f.Hosts = func(string) []Host { return *hosts.Load() }
	run(t, f)
	f.Converge(declared(1, "AllAtOnce"))
	await(t, f, "healthy on both", func(o target.Observed) bool {
		return is(1, target.Healthy)(o) && len(o.Units[1].Instances) > 0 && o.Units[1].Release == 1
	})
	called("away", "web")
	other := (*hosts.Load())[1:]
	hosts.Store(&other)
	f.Changed()
	f.Converge(declared(2, "AllAtOnce"))
	await(t, f, "healthy", is(2, target.Healthy))
	if m["a"].ran(t) != "r1" || !strings.Contains(m["b"].ran(t), "r2") {
		t.Errorf("a ran %q, b ran %q", m["a"].ran(t), m["b"].ran(t))
	}
}

// TestClusters: without a machine of the server's, by another file, and showing what each has.
func TestClusters(t *testing.T) {
	f, _ := fleetOf(t, "a")
	f.Here = nil
	f.File = File{Name: "clusters.yaml", Of: "cluster", Also: []string{"namespace"}, Parts: true}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()

	d := declared(1, "AllAtOnce")
	f.Converge(d) // which has no clusters.yaml
	if o := await(t, f, "failed", is(1, target.Failed)); !strings.Contains(o.Message, "clusters.yaml: is not there") {
		t.Errorf("%+v", o)
	}
	d = declared(2, "AllAtOnce")
	d.Files = maps.Clone(d.Files)
	d.Files["clusters.yaml"] = []byte("tags: {role: db}\nnamespace: shop\n")
	f.Converge(d)
	if o := await(t, f, "failed", is(2, target.Failed)); !strings.Contains(o.Message, "no cluster has the tags") {
		t.Errorf("%+v", o)
	}
	d.Sequence, d.Commit = 3, "three"
	d.Files = maps.Clone(d.Files)
	d.Files["clusters.yaml"] = []byte("tags: {role: web}\nnamespace: shop\n")
	f.Converge(d)
	if o := await(t, f, "healthy", is(3, target.Healthy)); len(o.Units) != 1 || o.Units[0].Name != "whatever it says" {
		t.Errorf("it does not show what the cluster has: %+v", o.Units)
	}
	for line, err := range f.Logs(ctx, target.Key{Repository: "nobody"}, target.LogQuery{}) {
		t.Errorf("%+v %v", line, err)
	}
	f.Remove(key, 3)
	await(t, f, "gone", func(o target.Observed) bool { return o.Commit == "" })
}

// A host that is drained keeps what it has, gets nothing new and is not counted; back again,
// it gets what is declared then.
func TestDrained(t *testing.T) {
	f, m := fleetOf(t, "a", "b", "c")
	list := f.Hosts("")
	var hosts atomic.Pointer[[]Host]
	drain := func(names string) {
		all := slices.Clone(list)
		for i := range all {
			all[i].Drained = strings.Contains(names, all[i].Name)
		}
		hosts.Store(&all)
		f.Changed()
	}
	drain("")
	f.Hosts = func(string) []Host { return *hosts.Load() }
	run(t, f)
	f.Converge(declared(1, "OneAtATime"))
	await(t, f, "healthy", is(1, target.Healthy))
	drain("b")
	o := await(t, f, "without b", func(o target.Observed) bool { return strings.Contains(o.Message, "b is drained") })
	if o.State != target.Healthy || len(o.Units) != 3 || o.Units[1].Name != "b" || o.Units[1].Release != 1 ||
		!o.Units[1].Instances[0].Drained || o.Units[0].Instances[0].Drained ||
		!strings.HasPrefix(o.Units[1].Instances[0].Message, "drained: ") {
		t.Errorf("%+v", o)
	}
	// One of two may be away, since it is two that are counted: with b it would be two of three.
	m["b"].leave()
	f.Converge(declared(2, "OneAtATime"))
	await(t, f, "healthy on a and c", is(2, target.Healthy))
	if m["a"].ran(t) != "r1 r2" || m["b"].ran(t) != "r1" || m["c"].ran(t) != "r1 r2" {
		t.Errorf("a ran %s, b %s, c %s", m["a"].ran(t), m["b"].ran(t), m["c"].ran(t))
	}
	drain("abc")
	o = await(t, f, "drained altogether", is(2, target.Unknown))
	if len(o.Units) != 3 || !strings.Contains(o.Message, "a, b, c are drained, and no other one has the tags") {
		t.Errorf("%+v", o)
	}
	f.Converge(declared(3, "OneAtATime"))
	m["b"].come()
	drain("ac")
	await(t, f, "healthy on b", is(3, target.Healthy))
	if m["a"].ran(t) != "r1 r2" || m["b"].ran(t) != "r1 r3" {
		t.Errorf("a ran %s, b %s", m["a"].ran(t), m["b"].ran(t))
	}
	drain("")
	await(t, f, "healthy on all", func(o target.Observed) bool {
		return is(3, target.Healthy)(o) && o.Message == "" && m["a"].ran(t) == "r1 r2 r3" && m["c"].ran(t) == "r1 r2 r3"
	})
}

// One zone comes after the other, and the next one not while the one before is watched.
func TestZones(t *testing.T) {
	f, m := fleetOf(t, "a", "b", "c")
	all := f.Hosts("")
	for i := range all {
		all[i].Tags = map[string]string{"role": "web", zoneTag: map[string]string{"a": "north"}[all[i].Name] + "west"}
	}
	f.Hosts = func(string) []Host { return all }
	run(t, f)
	f.Converge(declared(1, "AllAtOnce"))
	await(t, f, "healthy", is(1, target.Healthy))
	f.Converge(declared(2, "AllAtOnce\nzones: {monitor: 48h}"))
	o := await(t, f, "watched", func(o target.Observed) bool {
		return strings.Contains(o.Message, "watching zone northwest before zone west")
	})
	if o.State != target.Converging || m["a"].ran(t) != "r1 r2" || m["b"].ran(t) != "r1" || m["c"].ran(t) != "r1" {
		t.Errorf("%+v; there ran %q, %q, %q", o, m["a"].ran(t), m["b"].ran(t), m["c"].ran(t))
	}
	f.Converge(declared(3, "AllAtOnce\nzones: {}"))
	await(t, f, "healthy", is(3, target.Healthy))
}
