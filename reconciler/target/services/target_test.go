package services

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/sandbox/sandboxtest"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// TestMain lets the test binary be the service under test, too.
func TestMain(m *testing.M) {
	if os.Getenv("BE_SERVER") != "" {
		beServer()
		return
	}
	if os.Getenv("BE_TARGET") != "" {
		beTarget()
		return
	}
	sandboxtest.Main()
	goleak.VerifyTestMain(hungUp{m})
}

// hungUp are tests after which this process has no connections open to what they ran.
type hungUp struct{ *testing.M }

func (h hungUp) Run() int {
	defer http.DefaultClient.CloseIdleConnections()
	return h.M.Run()
}

// beServer is a small web service. SIGTERM ends it once its requests are answered.
func beServer() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if os.Getenv("BROKEN") != "" {
		fmt.Println("cannot open the database")
		os.Exit(3)
	}
	var sick atomic.Bool
	finish := make(chan struct{})
	finishOnce := sync.OnceFunc(func() { close(finish) })
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "release %s instance %s says %s", os.Getenv("HEADGATE_RELEASE"), os.Getenv("HEADGATE_INSTANCE"),
			os.Getenv("SAYS"))
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() || os.Getenv("SICK") != "" {
			http.Error(w, "sick", http.StatusInternalServerError)
		}
		if os.Getenv("BRIEF") != "" {
			time.AfterFunc(50*time.Millisecond, func() { os.Exit(4) })
		}
	})
	mux.HandleFunc("/sicken", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		fmt.Fprint(w, "begun ")
		w.(http.Flusher).Flush()
		<-finish
		fmt.Fprint(w, "done")
	})
	printed := make(chan struct{})
	mux.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) {
		line := bytes.Repeat(append(bytes.Repeat([]byte("x"), 99), '\n'), 10_000)
		go func() {
			second := time.NewTicker(100 * time.Millisecond)
			for n := 1; ; n++ {
				os.Stdout.Write(line)
				if n == 10 {
					close(printed)
				}
				<-second.C
			}
		}()
		fmt.Fprint(w, "begun")
	})
	mux.HandleFunc("/flooded", func(w http.ResponseWriter, r *http.Request) {
		<-printed
		fmt.Fprint(w, "ten million bytes")
	})
	mux.HandleFunc("/finish", func(http.ResponseWriter, *http.Request) { finishOnce() })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Join(os.Environ(), "\n"))
	})
	mux.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		for _, p := range []string{"/tmp/x", "x", "/usr/x"} {
			err := os.WriteFile(p, nil, 0o600)
			fmt.Fprintf(w, "%s %t\n", p, err == nil)
		}
	})
	srv := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: mux}
	go func() {
		<-ctx.Done()
		srv.Shutdown(context.Background())
	}()
	fmt.Println("listening on", srv.Addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
		os.Exit(1)
	}
	time.Sleep(10 * time.Millisecond) // Shutdown is returning
}

// unpackSelf puts the test binary into a release as ./server.
func unpackSelf(_ context.Context, digest, dir string) error {
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
	return errors.Join(err, to.Close(),
		os.WriteFile(filepath.Join(dir, "digest"), []byte(digest), 0o644))
}

func digest(n int) string {
	return "sha256:" + hex.EncodeToString(bytes.Repeat([]byte{byte(n)}, 32))
}

// harness is a running target with one environment of its own.
type harness struct {
	*Target
	t   testing.TB
	env string
	seq int
	end func() // of everything

	stop, leave func() // of the run

	unpack atomic.Value // func(ctx, digest, dir) error
}

var harnesses atomic.Int64

func open(t testing.TB, confined bool) *harness {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); confined && err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	h := &harness{t: t, env: fmt.Sprintf("test-%d-%d", os.Getpid(), harnesses.Add(1))}
	h.unpack.Store(unpackSelf)
	h.Target = New(t.TempDir(), t.TempDir(), func(ctx context.Context, digest, dir string) error {
		return h.unpack.Load().(func(context.Context, string, string) error)(ctx, digest, dir)
	})
	h.Unconfined = !confined
	h.run(func() {
		if err := unpacked.RemoveTree(h.Dir); err != nil {
			t.Error(err)
		}
	})
	return h
}

// run runs the target until the test ends, or end, stop or leave is called; end is
// the end of all of it, after which everything is put away.
func (h *harness) run(away func()) {
	t := h.t
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	ended := func(cause error) func() {
		return func() {
			if ctx.Err() != nil {
				return
			}
			cancel(cause)
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(waitTimeout):
				t.Errorf("Run did not return")
			}
		}
	}
	h.stop, h.leave = ended(nil), ended(ErrLeave)
	h.end = sync.OnceFunc(func() {
		h.stop()
		census(t, h.env)
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(h.LogDir, "*", "*", "*", "*"))
			for _, l := range logs {
				data, _ := os.ReadFile(l)
				t.Logf("%s\n%s", filepath.Base(l), data)
			}
		}
		if away != nil {
			away()
		}
	})
	t.Cleanup(h.end)
}

// census fails the test if a process of the environment lives.
func census(t testing.TB, env string) {
	t.Helper()
	eventually(t, "no process is left", func() (string, bool) {
		left := processesOf(env)
		return fmt.Sprint(left), len(left) == 0
	})
}

func processesOf(env string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if bytes.Contains(data, []byte("HEADGATE_ENVIRONMENT="+env+"\x00")) {
			pids = append(pids, f)
		}
	}
	return pids
}

// waitTimeout is how long a test waits for what must come: long enough for a
// machine that has much else to do.
const waitTimeout = 5 * time.Minute

// eventually waits until ok, and fails with the last answer when it takes too long.
func eventually(t testing.TB, what string, ok func() (string, bool)) {
	t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for {
		said, is := ok()
		if is {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after %s: %s", what, waitTimeout, said)
		}
		time.Sleep(10 * time.Millisecond) // so that looking leaves the machine to what is waited for
	}
}

const web = `services:
  web:
    command: ./server
    environment: {BE_SERVER: "1", GORACE: atexit_sleep_ms=0, SAYS: hello}
    ports: ["0:80"]
    x-headgate: {health: /healthz, drain: 10m}
    healthcheck: {interval: 200ms, timeout: 1m, start_period: 10m}
    deploy: {replicas: 2}
`

func (h *harness) converge(release int, compose string) {
	h.seq++
	h.Converge(h.declared(h.seq, release, compose))
}

func (h *harness) key() target.Key {
	return target.Key{Repository: "hello", Application: "hello", Environment: h.env}
}

func (h *harness) declared(sequence, release int, compose string) target.Declared {
	return declared(h.key(), sequence, release, compose)
}

func declared(k target.Key, sequence, release int, compose string) target.Declared {
	return target.Declared{
		Key:      k,
		Commit:   fmt.Sprintf("c%d", sequence),
		Sequence: sequence,
		Files:    target.Files{composeFile: []byte(compose)},
		Release:  target.Release{Number: release, Commit: "abc", Artifacts: map[string]string{"main": digest(release)}},
	}
}

// await waits for a state of the newest declaration.
func (h *harness) await(s target.State) target.Observed {
	h.t.Helper()
	var o target.Observed
	changed, end := h.Watch(h.key())
	defer end()
	deadline := time.After(waitTimeout)
	for {
		o = h.Observe(h.key())
		if o.State == s && o.Sequence == h.seq {
			return o
		}
		select {
		case <-changed:
		case <-deadline:
			h.t.Fatalf("not %s after %s: %+v", s, waitTimeout, o)
		}
	}
}

func get(url string) (int, string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (h *harness) get(path, want string) {
	h.t.Helper()
	o := h.Observe(h.key())
	status, body, err := get(o.Units[0].URL + path)
	if err != nil || status != 200 || !strings.Contains(body, want) {
		h.t.Fatalf("GET %s: %d %q %v, want %q", path, status, body, err, want)
	}
}

func both(t *testing.T, f func(t *testing.T, h *harness)) {
	eachWay(t, func(t *testing.T, confined bool) {
		h := open(t, confined)
		f(t, h)
		h.end()
	})
}

func TestConvergeAndEnd(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, h *harness) {
		began := time.Now()
		h.converge(1, web)
		o := h.await(target.Healthy)
		t.Logf("healthy after %s", time.Since(began))
		h.get("/", "release 1 instance web-")
		began = time.Now()
		h.converge(2, strings.Replace(web, "hello", "bye", 1))
		o2 := h.await(target.Healthy)
		t.Logf("next one after %s", time.Since(began))
		h.get("/", "says bye")
		if o.Units[0].URL != o2.Units[0].URL {
			t.Errorf("the port changed: %s, %s", o.Units[0].URL, o2.Units[0].URL)
		}
		lines, err := h.InstanceLog(h.key(), "web-1", 100)
		if err != nil || !strings.Contains(strings.Join(lines, "\n"), "listening on") {
			t.Errorf("log: %q %v", lines, err)
		}
		if _, err := h.InstanceLog(h.key(), "../web-1", 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a log outside: %v", err)
		}
	})
}

func TestSandbox(t *testing.T) {
	t.Setenv("SECRET_OF_SERVER", "x")
	h := open(t, true)
	h.converge(1, web)
	h.await(target.Healthy)
	h.get("/write", "/tmp/x true\nx false\n/usr/x false\n")
	h.get("/env", "HEADGATE_COMMIT=abc")
	o := h.Observe(h.key())
	if _, body, _ := get(o.Units[0].URL + "/env"); strings.Contains(body, "SECRET_OF_SERVER") {
		t.Error("the server's environment got in")
	}
	// What makes the sandbox runs outside it: were an application's LD_PRELOAD in its
	// environment, the application would, too.
	for pid, above := o.Units[0].Instances[0].PID, 0; above < 2; above++ {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		pid, _ = strconv.Atoi(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[1])
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || bytes.Contains(environ, []byte("SAYS=")) {
			t.Errorf("process %d above the instance has %q, %v", pid, environ, err)
		}
	}
	h.end()
}

// TestNoUserNamespaces: neither an instance nor what is run beside it can make a user
// namespace, in which it would be privileged again.
func TestNoUserNamespaces(t *testing.T) {
	t.Parallel()
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	if _, err := sandbox.Seal(t.Context(), bwrap); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: user namespaces cannot be forbidden here: %v", err)
	}
	h := open(t, true)
	h.converge(1, `services:
  job:
    command: [/bin/sh, -c, "unshare --user true && echo made || echo refused; while :; do sleep 0.05; done"]
    stop_grace_period: 100ms
    healthcheck: {test: "! unshare --user true", start_period: 10m, interval: 200ms, timeout: 1m}
`)
	h.await(target.Healthy)
	eventually(t, "it is refused", func() (string, bool) {
		text := h.logged(t, "job-1")
		return text, strings.HasSuffix(text, " refused")
	})
	h.end()
}

// load requests without pause until it is ended, and counts what was lost.
func load(url string) (end func() (sent, lost int64, why string)) {
	ctx, cancel := context.WithCancel(context.Background())
	var sent, lost atomic.Int64
	var why atomic.Value
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				status, body, err := get(url)
				sent.Add(1)
				if err != nil || status != 200 {
					lost.Add(1)
					why.Store(fmt.Sprintf("%d %q %v", status, body, err))
				}
			}
		})
	}
	return func() (int64, int64, string) {
		cancel()
		wg.Wait()
		s, _ := why.Load().(string)
		return sent.Load(), lost.Load(), s
	}
}

func TestRolloutsLoseNoRequest(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	o := h.await(target.Healthy)
	end := load(o.Units[0].URL)
	for i, deployment := range []string{
		"all-at-once",
		"{strategy: rolling, minimum_healthy: 50, maximum: 100}",
		"{strategy: linear, percent: 50, interval: 200ms, bake: 200ms}",
	} {
		h.converge(i+2, web+"\nx-headgate: {deployment: "+deployment+"}\n")
		h.await(target.Healthy)
		eventually(t, "the old instances are gone", func() (string, bool) {
			o := h.Observe(h.key())
			return fmt.Sprint(o.Units), len(o.Units[0].Instances) == 2
		})
	}
	sent, lost, why := end()
	if lost > 0 || sent == 0 {
		t.Errorf("%d of %d requests lost: %s", lost, sent, why)
	}
	t.Logf("%d requests", sent)
	h.get("/", "release 4")
	http.DefaultClient.CloseIdleConnections()
	h.end()
}

func TestBadReleaseKeepsTheOld(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	h.await(target.Healthy)
	h.converge(2, strings.Replace(web, "SAYS", "BROKEN: yes, SAYS", 1))
	o := h.await(target.Failed)
	for _, want := range []string{"release 2 was given up", "release 1 goes on serving",
		"exited 3: cannot open the database"} {
		if !strings.Contains(o.Message, want) {
			t.Errorf("%q does not say %q", o.Message, want)
		}
	}
	h.get("/", "release 1")
	h.converge(3, "services: {web: {comand: x}}")
	if o := h.await(target.Failed); !strings.Contains(o.Message, "compose.yaml:1") {
		t.Errorf("no place in %q", o.Message)
	}
	h.get("/", "release 1")
	h.converge(4, web)
	h.await(target.Healthy)
	h.get("/", "release 4")
	// An older declaration that comes late does nothing.
	h.Converge(h.declared(1, 1, web))
	h.await(target.Healthy)
	h.get("/", "release 4")
	h.end()
}

func TestKilledInstanceComesBack(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, h *harness) {
		h.converge(1, web)
		o := h.await(target.Healthy)
		end := load(o.Units[0].URL)
		victim := o.Units[0].Instances[0]
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.await(target.Degraded)
		o = h.await(target.Healthy)
		if in := o.Units[0].Instances[0]; in.Restarts != 1 || !strings.Contains(in.LastExit, "SIGKILL") {
			t.Errorf("%+v", in)
		}
		// Requests that were in flight in the victim are sent to the other one.
		if sent, lost, why := end(); lost > 0 {
			t.Errorf("%d of %d requests lost: %s", lost, sent, why)
		}
	})
}

func TestSickInstanceIsReplaced(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	o := h.await(target.Healthy)
	get("http://" + address(o.Units[0].Instances[1].Port) + "/sicken")
	o = h.await(target.Degraded)
	if !strings.Contains(o.Message, "/healthz answered 500: sick") {
		t.Errorf("%q", o.Message)
	}
	h.await(target.Healthy)
	h.end()
}

func TestDrainLetsASlowRequestFinish(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	o := h.await(target.Healthy)
	resp, err := http.Get(o.Units[0].URL + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	h.converge(2, web)
	h.await(target.Healthy)
	h.get("/", "release 2")
	for _, in := range o.Units[0].Instances {
		get("http://" + address(in.Port) + "/finish") // the one that is not asked may have gone
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "begun done" {
		t.Errorf("%q %v", body, err)
	}
	h.end()
}

func TestChangedFolderIsUnpackedAgain(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	h.await(target.Healthy)
	dir := h.releases.Directory(digest(1))
	if err := unpacked.RemoveTree(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the directory is back and its instances are new", func() (string, bool) {
		_, err := os.Stat(filepath.Join(dir, "digest"))
		o := h.Observe(h.key())
		ins := o.Units[0].Instances
		return fmt.Sprint(err, ins), err == nil && o.State == target.Healthy && len(ins) == 2 && ins[0].ID == "web-3"
	})
	h.end()
}

func TestRemoveAndPorts(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	h.converge(1, strings.Replace(web, "0:80", port+":80", 1))
	eventually(t, "the conflict is told", func() (string, bool) {
		o := h.Observe(h.key())
		return o.Message, strings.Contains(o.Message,
			"port 127.0.0.1:"+port+" of service web of hello in "+h.env+" is taken by ") &&
			strings.Contains(o.Message, " (process ")
	})
	taken.Close()
	o := h.await(target.Healthy)
	url := o.Units[0].URL
	h.Remove(h.key(), h.seq)
	eventually(t, "it is gone", func() (string, bool) {
		o := h.Observe(h.key())
		return fmt.Sprint(o), o.Commit == ""
	})
	if _, _, err := get(url); err == nil {
		t.Error("the port is still served")
	}
	last := h.seq
	h.seq = last - 2
	h.converge(1, web) // an old commit does not bring it back
	if o := h.Observe(h.key()); o.Commit != "" {
		t.Error("an old commit brought it back")
	}
	h.seq = last - 1
	h.converge(1, web) // the commit that it had does: it was declared once more
	h.await(target.Healthy)
	h.end()
}

// TestServicesListenWhereTheServerSays: a port without an address is on the target's,
// follows that, from all addresses to one of them too, and is told by a name that
// people reach the machine by. A port that names its address stays.
func TestServicesListenWhereTheServerSays(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	h.Host = "apps.example.org"
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	h.converge(1, strings.Replace(web, "0:80", port+":80", 1))
	h.await(target.Healthy)
	answers := func(host, told string) {
		eventually(t, "it listens on "+told, func() (string, bool) {
			o := h.Observe(h.key())
			_, body, err := get("http://" + net.JoinHostPort(host, port))
			return fmt.Sprint(o, body, err), err == nil && len(o.Units) == 1 && o.Units[0].URL == "http://"+
				net.JoinHostPort(told, port)
		})
	}
	answers("127.0.0.1", "127.0.0.1")
	h.SetAddress(netip.IPv4Unspecified())
	answers("127.0.0.2", "apps.example.org")
	h.SetAddress(netip.MustParseAddr("127.0.0.3"))
	answers("127.0.0.3", "127.0.0.3")
	if _, _, err := get("http://127.0.0.2:" + port); err == nil {
		t.Error("it still listens on every address")
	}

	h.converge(2, strings.Replace(web, "0:80", "127.0.0.1:"+port+":80", 1))
	answers("127.0.0.1", "127.0.0.1")
	h.SetAddress(netip.IPv4Unspecified())
	answers("127.0.0.1", "127.0.0.1")
	h.end()
}

func TestFallbackServesAfterARestart(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	good := h.declared(1, 1, web)
	bad := h.declared(2, 2, strings.Replace(web, "SAYS", "BROKEN: yes, SAYS", 1))
	bad.Fallback = &good
	h.seq = 2
	h.Converge(bad)
	o := h.await(target.Failed)
	eventually(t, "the last good release serves", func() (string, bool) {
		o = h.Observe(h.key())
		_, body, err := get(o.Units[0].URL)
		return fmt.Sprint(body, err, o), err == nil && strings.HasPrefix(body, "release 1 ")
	})
	if o.Units[0].Release != 1 {
		t.Errorf("%+v", o)
	}
	h.end()
}

// TestBriefReleaseGivesWay: a release that is healthy for a moment takes over, and
// the last good one serves again when it turns out not to last.
func TestBriefReleaseGivesWay(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, web)
	h.await(target.Healthy)
	good := h.declared(1, 1, web)
	h.seq++
	brief := h.declared(h.seq, 2, strings.Replace(web, "SAYS", "BRIEF: yes, SAYS", 1))
	brief.Fallback = &good
	h.Converge(brief)
	o := h.await(target.Failed)
	for _, want := range []string{"release 2 was given up", "release 1 goes on serving", "exited 4"} {
		if !strings.Contains(o.Message, want) {
			t.Errorf("%q does not say %q", o.Message, want)
		}
	}
	eventually(t, "both instances of the good release serve", func() (string, bool) {
		o = h.Observe(h.key())
		serving := 0
		for _, in := range o.Units[0].Instances {
			if in.Serving && in.Release == 1 {
				serving++
			}
		}
		return fmt.Sprintf("%+v", o), serving == 2 && len(o.Units[0].Instances) == 2
	})
	h.get("/", "release 1")
	if o := h.Observe(h.key()); o.State != target.Failed {
		t.Errorf("release 2 is declared and does not work, and the state is %s", o.State)
	}
	h.end()
}

func TestStopIsAskedForFirst(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, h *harness) {
		h.converge(1, `services:
  web:
    command: ./server
    environment: {BE_SERVER: "1", GORACE: atexit_sleep_ms=0}
    ports: ["0:80"]
    healthcheck: {timeout: 1m, start_period: 10m}
    stop_grace_period: 10m
  script:
    command: ["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done"]
    stop_grace_period: 10m
    healthcheck: {start_period: 100ms}
    x-headgate: {healthy_for: 0s}
  stubborn:
    command: ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]
    stop_grace_period: 100ms
    healthcheck: {start_period: 100ms}
    x-headgate: {healthy_for: 0s}
`)
		h.await(target.Healthy)
		for _, id := range []string{"script-1", "stubborn-1"} {
			eventually(t, id+" has set its trap", func() (string, bool) {
				lines, err := h.InstanceLog(h.key(), id, 1)
				return fmt.Sprint(lines, err), err == nil && strings.Contains(strings.Join(lines, ""), "ready")
			})
		}
		h.Remove(h.key(), h.seq)
		eventually(t, "it is gone", func() (string, bool) {
			o := h.Observe(h.key())
			return fmt.Sprint(o), o.Commit == ""
		})
		for id, want := range map[string]string{"web-1": "web-1 exited 0\n", "script-1": "script-1 exited 7: bye",
			"stubborn-1": "stubborn-1 was ended by SIGKILL"} {
			lines, err := h.InstanceLog(h.key(), id, 1)
			if err != nil || !strings.Contains(lines[0]+"\n", "headgate: "+want) {
				t.Errorf("%s: %q %v", id, lines, err)
			}
		}
	})
}

func TestStopWhileUnpacking(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	unpacking := make(chan struct{}, 2)
	h.unpack.Store(func(ctx context.Context, digest, dir string) error {
		unpacking <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	h.converge(1, web)
	<-unpacking
	h.Remove(h.key(), h.seq)
	eventually(t, "it is gone", func() (string, bool) {
		o := h.Observe(h.key())
		return fmt.Sprint(o), o.Commit == ""
	})
	h.end()
}

// TestCheckMayTakeLonger: how long a check may take is what is declared now, and no
// instance is started anew for it.
func TestCheckMayTakeLonger(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	job := func(health string) string {
		return "services:\n  job:\n    command: [/bin/sh, -c, \"while :; do touch /tmp/ready; sleep 0.05; done\"]\n" +
			"    stop_grace_period: 100ms\n    healthcheck: {interval: 100ms, start_period: 10m, " + health + "}\n"
	}
	h.converge(1, job("test: [CMD, test, -e, /tmp/ready]"))
	before := h.await(target.Healthy)
	h.seq++
	h.Converge(h.declared(h.seq, 1, job("test: [CMD, test, -e, /tmp/ready], timeout: 2s")))
	after := h.await(target.Healthy)
	if !slices.Equal(pids(before), pids(after)) {
		t.Errorf("%v became %v", before, after)
	}
	h.mu.Lock()
	a := h.apps[h.key()]
	h.mu.Unlock()
	got := make(chan time.Duration)
	a.post(func() { got <- time.Duration(a.instances["job-1"].timeout.Load()) })
	if got := <-got; got != 2*time.Second {
		t.Errorf("a check may take %s", got)
	}
	h.end()
}

// A loop that is stuck must not look healthy for long.
func TestSilenceIsNotHealth(t *testing.T) {
	t.Parallel()
	h := open(t, false)
	h.converge(1, web)
	h.await(target.Healthy)
	h.mu.Lock()
	a := h.apps[h.key()]
	h.mu.Unlock()
	stuck, free := make(chan struct{}), make(chan struct{})
	a.post(func() { close(stuck); <-free })
	<-stuck
	if o := a.observe(time.Now()); o.State != target.Healthy {
		t.Errorf("%+v", o)
	}
	if o := a.observe(time.Now().Add(10 * time.Minute)); o.State != target.Unknown ||
		!strings.Contains(o.Message, "nothing was heard of web-1") {
		t.Errorf("%+v", o)
	}
	close(free)
	h.end()
	if o := h.Observe(h.key()); o.State != target.Unknown {
		t.Errorf("after the end: %+v", o)
	}
}

func TestWorkerAndCommandCheck(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	h.converge(1, `services:
  tick: {command: ["sh", "-c", "echo tick; exec sleep 1000"], healthcheck: {start_period: 200ms}, x-headgate: {healthy_for: 200ms}}
  tock:
    command: sh -c 'touch /tmp/ready; echo $HEADGATE_INSTANCE; sleep 1000'
    healthcheck:
      interval: 100ms
      timeout: 5m
      start_period: 10m
      test: |
        test -f digest && test -f /tmp/ready && test "$$HEADGATE_INSTANCE" = tock-1 || exit 1
        grep -Eqx 'CapEff:.0+' /proc/self/status && grep -Eqx 'CapBnd:.0+' /proc/self/status || exit 2
        grep -q tock /proc/1/cmdline || exit 3
        test ! -e /etc/shadow && ! touch /app/x && ! touch /usr/x || exit 4
    stop_signal: SIGINT
    stop_grace_period: 200ms
`)
	o := h.await(target.Healthy)
	if len(o.Units) != 2 || o.Units[1].Name != "tock" || o.Units[1].URL != "" {
		t.Errorf("%+v", o)
	}
	h.end()
}

// beTarget runs a target until it is killed. It prints when it is healthy.
func beTarget() {
	t := New(os.Getenv("WORK"), os.Getenv("LOGS"), unpackSelf)
	t.Unconfined = os.Getenv("BE_TARGET") == "unconfined"
	k := target.Key{Repository: "hello", Application: "hello", Environment: os.Getenv("ENVIRONMENT")}
	changed, _ := t.Watch(k)
	release := 1
	if n := os.Getenv("RELEASE"); n != "" {
		release, _ = strconv.Atoi(n) // a test wrote it
	}
	d := declared(k, release, release, os.Getenv("COMPOSE"))
	d.Drift = target.Drift(os.Getenv("DRIFT"))
	if value := os.Getenv("SECRET"); value != "" {
		d.Secrets = secretsOf("token", value)
	}
	t.Converge(d)
	if next, err := strconv.Atoi(os.Getenv("NEXT")); err == nil {
		go func() {
			_, _ = os.Stdin.Read(make([]byte, 1)) // until it is told to
			t.Converge(declared(k, next, next, os.Getenv("COMPOSE")))
		}()
	}
	go func() {
		for range changed {
			switch o := t.Observe(k); o.State {
			case target.Healthy:
				fmt.Println("healthy")
				return
			case target.Failed:
				fmt.Println(o.Message)
				return
			}
		}
	}()
	fmt.Println(t.Run(context.Background()))
}
