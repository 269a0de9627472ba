package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

// TestMain lets the test binary be the service under test, too.
func TestMain(m *testing.M) {
	if os.Getenv("BE_WEB") != "" {
		beWeb()
		return
	}
	if os.Getenv("BE_AGENT") != "" {
		if err := beAgent(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func beWeb() {
	if os.Getenv("BROKEN") != "" {
		fmt.Println("cannot open the database")
		os.Exit(3)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "release %s pid %d", os.Getenv("HEADGATE_RELEASE"), os.Getpid())
	})
	if gate := os.Getenv("GATE"); gate != "" {
		beGated(mux, gate, os.Getenv("HEADGATE_RELEASE"))
	}
	_ = http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux)
}

// unpackSelf puts the test binary into a release as ./server.
func unpackSelf(_ context.Context, _, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(self)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "server"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

const web = `services:
  web:
    command: ./server
    environment: {BE_WEB: "1", GORACE: atexit_sleep_ms=0}
    ports: ["0:80"]
    x-headgate: {health: /}
    healthcheck: {interval: 200ms, timeout: 1m, start_period: 10m}
`

func digest(n int) string {
	return "sha256:" + hex.EncodeToString([]byte(strings.Repeat(string(rune('a'+n)), 32)))
}

// line is an agent's engine behind its protocol, on a unix socket that can be cut.
type line struct {
	t      *testing.T
	engine *services.Target
	Target *Target
	socket string

	mu     sync.Mutex
	server *http.Server
}

func newLine(t *testing.T) *line {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, socket: filepath.Join(dir, "s")}
	l.engine = services.New(filepath.Join(dir, "agent"), filepath.Join(dir, "logs"), unpackSelf)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.engine.Run(ctx) }()
	<-l.engine.Begun()
	l.answer()
	l.Target = &Target{Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", l.socket)
	}}
	t.Cleanup(func() {
		l.cut()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

// answer has the agent answer; cut ends that and every connection.
func (l *line) answer() {
	l.t.Helper()
	on, err := net.Listen("unix", l.socket)
	if err != nil {
		l.t.Fatal(err)
	}
	server := &http.Server{Handler: &Handler{
		Engine:   l.engine,
		Hello:    func() Hello { return Hello{Version: Version} },
		Settings: func(Settings) error { return nil },
		Control:  func(context.Context, string, string) error { return errors.New("nobody is asked") },
	}}
	l.mu.Lock()
	l.server = server
	l.mu.Unlock()
	go server.Serve(on)
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		l.server.Close()
		l.server = nil
	}
}

// TestContract holds the agent's end of the line to what every target is held to.
func TestContract(t *testing.T) {
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	compose := func(text string) target.Files { return target.Files{"compose.yaml": []byte(text)} }
	targettest.Run(t, func(t *testing.T) targettest.Subject {
		return targettest.Subject{
			Target: newLine(t).Target,
			Good:   compose(web),
			Broken: compose(strings.Replace(web, "BE_WEB", "BROKEN: yes, BE_WEB", 1)),
			Bad: map[string]target.Files{
				"compose.yaml":   {"other.yaml": nil},
				"compose.yaml:1": compose("services:\n"),
				"compose.yaml:3": compose("services:\n  web:\n    comand: ./server\n"),
			},
			Release: func(n int) target.Release {
				return target.Release{Number: n, Commit: "abc", Artifacts: map[string]string{"main": digest(n)}}
			},
		}
	})
}

// run runs the line's target until the test ends, or the function is called.
func (l *line) run() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Target.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(end)
	return end
}

var hello = target.Key{Repository: "hello", Application: "hello", Environment: "staging"}

func declared(sequence, release int) target.Declared {
	return target.Declared{
		Key:      hello,
		Commit:   fmt.Sprintf("c%d", sequence),
		Sequence: sequence,
		Files:    target.Files{"compose.yaml": []byte(web)},
		Release:  target.Release{Number: release, Commit: "abc", Artifacts: map[string]string{"main": digest(release)}},
	}
}

// await waits for what the target reports.
func (l *line) await(what string, ok func(target.Observed) bool) target.Observed {
	l.t.Helper()
	return l.awaitOf(hello, what, ok)
}

func (l *line) awaitOf(k target.Key, what string, ok func(target.Observed) bool) target.Observed {
	l.t.Helper()
	changed, end := l.Target.Watch(k)
	defer end()
	late := time.After(2 * time.Minute)
	for {
		o := l.Target.Observe(k)
		if ok(o) {
			return o
		}
		select {
		case <-changed:
		case <-late:
			l.t.Fatalf("never %s: %+v", what, o)
		}
	}
}

func (l *line) healthy(sequence int) target.Observed {
	l.t.Helper()
	return l.await("healthy", func(o target.Observed) bool { return o.State == target.Healthy && o.Sequence == sequence })
}

// TestSilentAgentIsUnknown: while the agent does not answer, nothing is known of what
// it runs, which goes on; what was declared meanwhile it is told when it is back.
func TestSilentAgentIsUnknown(t *testing.T) {
	l := newLine(t)
	l.run()
	l.Target.Converge(declared(1, 1))
	before := l.healthy(1)
	l.cut()
	o := l.await("unknown", func(o target.Observed) bool { return o.State == target.Unknown })
	if !strings.Contains(o.Message, "nothing is heard of the agent") || o.Commit != "c1" ||
		o.Units[0].URL != before.Units[0].URL {
		t.Errorf("%+v", o)
	}
	l.Target.Converge(declared(2, 1))
	if o := l.Target.Observe(hello); o.State != target.Unknown || o.Sequence != 2 {
		t.Errorf("%+v", o)
	}
	l.answer()
	after := l.healthy(2)
	if before.Units[0].Instances[0].PID != after.Units[0].Instances[0].PID {
		t.Errorf("%+v was started anew: %+v", before, after)
	}
}

// TestSecretsAreTold: an agent is told the secrets that what it runs names, and no others:
// as they are when it is told, and again when they change.
func TestSecretsAreTold(t *testing.T) {
	l := newLine(t)
	var mu sync.Mutex
	values := map[string]string{"token": "first", "other": "nobody names it"}
	set := func(name, value string) {
		mu.Lock()
		values[name] = value
		mu.Unlock()
		l.Target.SecretSet(hello.Repository, name)
	}
	l.Target.Secrets = func(repository string, names []string) target.Secrets {
		mu.Lock()
		defer mu.Unlock()
		if repository != hello.Repository || !slices.Equal(names, []string{"late", "token"}) {
			t.Errorf("%v of %s are asked for", names, repository)
		}
		all := target.Secrets{}
		for _, name := range names {
			if v, ok := values[name]; ok {
				all[name] = target.Secret{Revision: v, Value: secret.NewValue([]byte(v))}
			}
		}
		return all
	}
	l.run()
	d := declared(1, 1)
	d.Files = target.Files{"compose.yaml": []byte(strings.Replace(web, "x-headgate: {",
		"x-headgate: {secrets: {TOKEN: token, LATE: late}, ", 1))}
	l.Target.Converge(d)
	o := l.await("failed", func(o target.Observed) bool { return o.State == target.Failed })
	if o.Reason != target.ReasonSecretMissing || !strings.Contains(o.Message, "secret set hello:late") {
		t.Errorf("%+v", o)
	}

	set("late", "there")
	first := l.healthy(1).Units[0].Instances[0].ID
	l.cut()
	l.await("unknown", func(o target.Observed) bool { return o.State == target.Unknown })
	set("token", "second")
	l.answer()
	l.await("replaced", func(o target.Observed) bool {
		return o.State == target.Healthy && len(o.Units[0].Instances) == 1 && o.Units[0].Instances[0].ID != first
	})
}

// TestRenamedIsNotToldOfAgain: an environment that got another name goes on as it is, and
// an agent that comes back does not hear of the former name.
func TestRenamedIsNotToldOfAgain(t *testing.T) {
	l := newLine(t)
	l.run()
	was := declared(1, 1)
	was.Environment = "test"
	l.Target.Converge(was)
	before := l.awaitOf(was.Key, "healthy", func(o target.Observed) bool { return o.State == target.Healthy })
	is := declared(2, 1)
	is.Was = []string{"test"}
	l.Target.Converge(is)
	after := l.healthy(2)
	if before.Units[0].Instances[0].PID != after.Units[0].Instances[0].PID {
		t.Errorf("%+v was started anew: %+v", before, after)
	}

	l.cut()
	l.await("unknown", func(o target.Observed) bool { return o.State == target.Unknown })
	again := declared(3, 1)
	again.Was = []string{"test"}
	l.Target.Converge(again)
	l.answer()
	l.healthy(3)
	if got := l.engine.Keys(); !slices.Equal(got, []target.Key{hello}) {
		t.Errorf("the agent has %v", got)
	}
}

// TestFenceOfAnotherServer: what another server was obeyed in is not undone by one
// that knows less, which says so.
func TestFenceOfAnotherServer(t *testing.T) {
	l := newLine(t)
	end := l.run()
	l.Target.Converge(declared(7, 2))
	l.healthy(7)
	end()
	l.Target = &Target{Dial: l.Target.Dial}
	l.run()
	if o := l.await("known", func(o target.Observed) bool { return o.State == target.Healthy }); o.Sequence != 7 {
		t.Errorf("%+v", o)
	}
	l.Target.Converge(declared(3, 1))
	o := l.await("refused", func(o target.Observed) bool { return o.State == target.Failed })
	if o.Sequence != 3 || !strings.Contains(o.Message, "place 7, this is 3") {
		t.Errorf("%+v", o)
	}
	l.Target.Converge(declared(8, 1))
	l.healthy(8)
}

// TestLogs: what instances print comes by the line too, also while it is printed.
func TestLogs(t *testing.T) {
	l := newLine(t)
	l.run()
	l.Target.Converge(declared(1, 1))
	l.healthy(1)
	var all []string
	for line, err := range l.Target.Logs(t.Context(), hello, target.LogQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, line.Text)
	}
	if len(all) == 0 || !strings.Contains(all[0], "started web-1") {
		t.Errorf("%q", all)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for line, err := range l.Target.Logs(ctx, hello, target.LogQuery{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line.Text, "exited") || strings.Contains(line.Text, "ended") {
			break
		}
		l.Target.Remove(hello, 1)
	}
}

// TestHostileTalk: nothing that is said to an agent ends it.
func TestHostileTalk(t *testing.T) {
	l := newLine(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return l.Target.Dial(ctx)
		}}}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "", 404},
		{"PUT", pathDeclared, "{", 400},
		{"PUT", pathDeclared, `{} {}`, 400},
		{"PUT", pathDeclared, `{"files": {"compose.yaml": 3}}`, 400},
		{"PUT", pathDeclared, `{"repository":"../..","application":"x","environment":"y","commit":"c","sequence":1}`, 204},
		{"POST", pathRemove, `{"repository":"../..","application":"x","environment":"y","sequence":2}`, 204},
		{"PUT", pathSettings, `[]`, 400},
		{"POST", pathControl + "explode", `{}`, 404},
		{"POST", pathExec, `{`, 400},
		{"POST", pathControl + "stop", `{}`, 500},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://agent"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s %s: %d, not %d", c.method, c.path, c.body, resp.StatusCode, c.status)
		}
	}
}
