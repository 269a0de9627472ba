package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// beAgent makes the test binary what `headgate agent` is: "supervise" or "work", and a
// directory.
func beAgent(what, dir string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if what == "supervise-scripted" {
		s := &Supervisor{
			Dir:       filepath.Join(dir, "agent"),
			Arguments: []string{"scripted", dir},
			Log:       log,
			Trial:     scriptedTrial(dir),
		}
		return s.Run(context.Background())
	}
	if what == "scripted" {
		return beScripted(dir)
	}
	if what == "supervise" {
		s := &Supervisor{Dir: filepath.Join(dir, "agent"), Arguments: []string{"work", dir}, Log: log}
		return s.Run(context.Background())
	}
	if _, err := os.Stat(filepath.Join(dir, "broken")); err == nil {
		return errors.New("this program is broken")
	}
	w := &Worker{
		Dir:     filepath.Join(dir, "agent"),
		Engine:  services.New(filepath.Join(dir, "agent"), filepath.Join(dir, "logs"), unpackSelf),
		Program: "test",
		Log:     log,
	}
	w.Engine.Log = log
	return w.Run()
}

// process is an agent in processes of its own, and a server that speaks to it.
type process struct {
	line
	dir    string
	client Client
	cmd    *exec.Cmd
}

func newProcess(t *testing.T) *process {
	t.Helper()
	// Longer than the path of a socket may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", maxSocketPath/len("deep/")))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := &process{dir: dir, client: Client{Dir: filepath.Join(dir, "agent")}}
	p.line = line{t: t, Target: &Target{Dial: p.client.Dial}}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
			t.Logf("%s", text)
		}
		p.kill()
		engine := services.New(filepath.Join(dir, "agent"), filepath.Join(dir, "logs"), unpackSelf)
		if _, err := engine.StopAll(context.Background()); err != nil {
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
	p.start()
	return p
}

func (p *process) start() Hello {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("/proc/self/exe", "supervise", p.dir)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "BE_AGENT=1", "GORACE=atexit_sleep_ms=0"}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return p.hello("")
}

// hello waits until the agent answers, by another worker than a former one.
func (p *process) hello(former string) Hello {
	p.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if h, err := p.client.Hello(p.t.Context()); err == nil && fmt.Sprint(h.Worker) != former {
			return h
		}
	}
	p.t.Fatal("the agent does not answer")
	return Hello{}
}

// kill kills the supervisor and its worker, and waits for them.
func (p *process) kill() {
	p.t.Helper()
	h, err := p.client.Hello(context.Background())
	_ = p.cmd.Process.Kill()
	if err == nil {
		_ = syscall.Kill(h.Worker, syscall.SIGKILL)
	}
	_ = p.cmd.Wait()
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if syscall.Kill(h.Worker, 0) != nil {
			return
		}
	}
}

func pids(o target.Observed) (all []int) {
	for _, u := range o.Units {
		for _, in := range u.Instances {
			all = append(all, in.PID)
		}
	}
	slices.Sort(all)
	return all
}

// load requests from several sides until it is ended, and counts.
const sides = 4

func load(url string) (sent *atomic.Int64, end func() (lost int64, why string)) {
	ctx, cancel := context.WithCancel(context.Background())
	sent = new(atomic.Int64)
	var lost atomic.Int64
	var why atomic.Value
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: sides}}
	for range sides {
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil && resp.StatusCode != http.StatusOK {
						err = errors.New(resp.Status)
					}
				}
				if sent.Add(1); err != nil {
					lost.Add(1)
					why.Store(err.Error())
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return sent, func() (int64, string) {
		cancel()
		wg.Wait()
		client.CloseIdleConnections()
		text, _ := why.Load().(string)
		return lost.Load(), text
	}
}

// more waits until so many requests more were answered.
func more(t *testing.T, sent *atomic.Int64, n int64) {
	t.Helper()
	from := sent.Load()
	for deadline := time.Now().Add(time.Minute); sent.Load() < from+n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing answers any more")
		}
	}
}

// same is the state in which the same processes run as before, none of them restarted.
func (p *process) same(before target.Observed) {
	p.t.Helper()
	o := p.healthy(before.Sequence)
	if !slices.Equal(pids(o), pids(before)) {
		p.t.Errorf("%v ran, and now %v", pids(before), pids(o))
	}
	for _, u := range o.Units {
		for _, in := range u.Instances {
			if in.Restarts > 0 {
				p.t.Errorf("%+v", in)
			}
		}
	}
}

// TestKilledWorker: another one takes over what runs; of the requests only those in
// flight are lost.
func TestKilledWorker(t *testing.T) {
	p := newProcess(t)
	p.run()
	p.Target.Converge(declared(1, 1))
	before := p.healthy(1)
	sent, end := load(before.Units[0].URL)
	more(t, sent, 50)
	h := p.hello("")
	if err := syscall.Kill(h.Worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	more(t, sent, 100)
	if again := p.hello(fmt.Sprint(h.Worker)); again.PID != h.PID {
		t.Errorf("the supervisor was %d and is %d", h.PID, again.PID)
	}
	more(t, sent, 50)
	if lost, why := end(); lost > sides {
		t.Errorf("%d requests were lost, of which %d can have been in flight: %s", lost, sides, why)
	}
	p.same(before)
}

// TestKilledSupervisor: the worker lets go of everything, and the next agent finds it.
func TestKilledSupervisor(t *testing.T) {
	p := newProcess(t)
	p.run()
	p.Target.Converge(declared(1, 1))
	before := p.healthy(1)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.await("unknown", func(o target.Observed) bool { return o.State == target.Unknown })
	p.start()
	p.same(before)
}

// TestKilledAll: supervisor, worker and an instance die at once; what is left is found
// again, and what is missing is started.
func TestKilledAll(t *testing.T) {
	p := newProcess(t)
	p.run()
	d := declared(1, 1)
	d.Files = target.Files{"compose.yaml": []byte(web + "    deploy: {replicas: 2}\n")}
	p.Target.Converge(d)
	before := p.healthy(1)
	h := p.hello("")
	for _, pid := range []int{h.PID, h.Worker, pids(before)[0]} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_ = p.cmd.Wait()
	p.start()
	p.await("as declared again", func(o target.Observed) bool {
		now := pids(o)
		return o.State == target.Healthy && len(now) == 2 && slices.Contains(now, pids(before)[1]) &&
			!slices.Contains(now, pids(before)[0])
	})
}

// TestTwoAgents: a directory has one.
func TestTwoAgents(t *testing.T) {
	p := newProcess(t)
	s := &Supervisor{Dir: p.client.Dir, Log: slog.New(slog.DiscardHandler)}
	if err := s.Run(t.Context()); !errors.Is(err, ErrHeld) ||
		!strings.Contains(err.Error(), fmt.Sprint(p.cmd.Process.Pid)) {
		t.Errorf("%v", err)
	}
	if _, err := p.client.Hello(t.Context()); err != nil {
		t.Errorf("the first one was disturbed: %v", err)
	}
}

// TestUpgrade: a program that does not work changes nothing; another takes over with
// no request lost.
func TestUpgrade(t *testing.T) {
	p := newProcess(t)
	p.run()
	p.Target.Converge(declared(1, 1))
	before := p.healthy(1)
	h := p.hello("")
	sent, end := load(before.Units[0].URL)
	more(t, sent, 50)

	broken := filepath.Join(p.dir, "broken")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{
		"/bin/false":     "ended before it was ready",
		"/nowhere":       "no such file",
		"/proc/self/exe": "ended before it was ready",
	} {
		if err := p.client.Control(t.Context(), "upgrade", program); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", program, err)
		}
	}
	if now := p.hello(""); now.Worker != h.Worker {
		t.Errorf("the worker was %d and is %d", h.Worker, now.Worker)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}

	if err := p.client.Control(t.Context(), "upgrade", fmt.Sprintf("/proc/%d/exe", os.Getpid())); err != nil {
		t.Fatal(err)
	}
	if again := p.hello(fmt.Sprint(h.Worker)); again.PID != h.PID {
		t.Errorf("%+v was %+v", again, h)
	}
	more(t, sent, 100)
	if lost, why := end(); lost > 0 {
		t.Errorf("%d requests were lost: %s", lost, why)
	}
	p.same(before)
}

// TestStopAndDrain: what is stopped or drained is ended in order, and comes back as it
// was declared.
func TestStopAndDrain(t *testing.T) {
	p := newProcess(t)
	p.run()
	p.Target.Converge(declared(1, 1))
	url := p.healthy(1).Units[0].URL
	if err := p.client.Control(t.Context(), "drain", ""); err != nil {
		t.Fatal(err)
	}
	p.await("drained", func(o target.Observed) bool {
		return o.State == target.Unknown && strings.Contains(o.Message, "drained") && len(pids(o)) == 0
	})
	if h := p.hello(""); !h.Drained || h.Running != 0 {
		t.Errorf("%+v", h)
	}
	if err := p.client.Control(t.Context(), "resume", ""); err != nil {
		t.Fatal(err)
	}
	if o := p.healthy(1); o.Units[0].URL != url {
		t.Errorf("it was at %s and is at %s", url, o.Units[0].URL)
	}
	if err := p.client.Control(t.Context(), "stop", ""); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	if !p.client.Stopped() {
		t.Error("nobody can tell that it was stopped")
	}
	if resp, err := http.Get(url); err == nil {
		resp.Body.Close()
		t.Error("something answers still")
	}
	p.start()
	if p.client.Stopped() {
		t.Error("it runs, and is said to be stopped")
	}
	p.healthy(1)
}
