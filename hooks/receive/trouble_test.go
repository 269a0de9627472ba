package receive

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

func TestWithoutServerNothingMoves(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	commit := c.commit("first", map[string]string{"f": "1"})
	h.stop()
	h.push(c, "ada", "origin", "main").refused(t, "error: headgate is not running here; nothing was changed")
	// without a token, as by somebody who found the repository on the disk
	cmd := c.command(t.Context(), "push", "origin", "main")
	out, err := cmd.CombinedOutput()
	pushed{string(out), err}.refused(t, "error: headgate is not running here; nothing was changed")
	if h.has(h.loose, commit) {
		t.Fatal("the refused commit is in the repository")
	}
	h.start()
	h.push(c, "ada", "origin", "main").ok(t)
}

func TestMissingHookRefuses(t *testing.T) {
	for _, name := range []string{wire.PreReceive, wire.ProcReceive} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			c := h.clone(h.loose)
			c.commit("first", map[string]string{"f": "1"})
			if err := os.Remove(filepath.Join(h.hooks, name)); err != nil {
				t.Fatal(err)
			}
			if CheckHooks(h.hooks) == nil {
				t.Error("CheckHooks missed it")
			}
			h.push(c, "ada", "origin", "main").refused(t, "remote rejected")
			if got := h.ref(h.loose, "refs/heads/main"); got != repo.Zero {
				t.Fatalf("main is at %s", got)
			}
			if err := InstallHooks(h.hooks, hookProgram); err != nil {
				t.Fatal(err)
			}
			h.push(c, "ada", "origin", "main").ok(t)
		})
	}
}

func TestInstallHooksLeavesOnlyOurs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hooks")
	for range 2 {
		if err := InstallHooks(dir, hookProgram); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "update"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := InstallHooks(dir, hookProgram); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%v, %v", entries, err)
	}
	if err := InstallHooks(dir, filepath.Join(dir, "nothing")); err == nil ||
		!strings.Contains(err.Error(), "pre-receive") {
		t.Fatal(err)
	}
}

// Whoever else writes refs of a repository meets the reference-transaction hook.
func TestOtherWritersAreRefused(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	for _, args := range [][]string{
		{"update-ref", "refs/heads/main", strings.Repeat("0", 40)},
		{"update-ref", "-d", "refs/heads/main"},
		{"branch", "x", c.head().String()},
		{"tag", "x", c.head().String()},
	} {
		cmd := exec.Command("git", append([]string{"--git-dir=" + h.r.Dir()}, args...)...)
		cmd.Env = []string{"PATH=" + repo.Path, "HOME=" + h.dir}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "only headgate moves the refs of this repository") {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
	if got := h.ref(h.r, "refs/heads/main"); got != c.head() {
		t.Fatalf("main is at %s", got)
	}
	if locks, _ := filepath.Glob(filepath.Join(h.r.Dir(), "refs/heads/*.lock")); len(locks) > 0 {
		t.Fatal(locks)
	}
}

func TestAtomicPushIsAllOrNothing(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	first := c.commit("first", map[string]string{"f": "1"})
	h.push(c, "ada", "--atomic", "origin", "main", "main:a", "main:b").ok(t)
	second := c.commit("second", map[string]string{"f": "2"})
	other := c.commit("third", map[string]string{"f": "3"})
	h.push(c, "ada", "origin", other.String()+":refs/heads/parked").ok(t) // so that it is there
	env, end := h.listener.Begin(t.Context(), access.Identity{User: "ada"}, "k", "loose", false, func() {})
	defer end()
	// The clock is asked while the push is judged: after the advertisement,
	// before the moves. Somebody moves b then.
	var once sync.Once
	h.listener.Now = func() time.Time {
		once.Do(func() {
			if err := h.loose.Move(context.Background(), "refs/heads/b", first, other); err != nil {
				t.Error(err)
			}
		})
		return time.Now()
	}
	out, err := c.command(t.Context(), "push", "--receive-pack="+h.receivePack(env), "--atomic", "origin",
		second.String()+":refs/heads/a", second.String()+":refs/heads/b").CombinedOutput()
	pushed{string(out), err}.refused(t, "refs/heads/b moved while you pushed", "(moved meanwhile; fetch first)",
		"(atomic push: refs/heads/b was refused)")
	if h.ref(h.loose, "refs/heads/a") != first || h.ref(h.loose, "refs/heads/b") != other {
		t.Fatal("a half of the push is there")
	}
}

// A move that fails after others of an atomic push have been made takes them back.
func TestAtomicPushMovesBack(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	first := c.commit("first", map[string]string{"f": "1"})
	h.push(c, "ada", "origin", "main", "main:a").ok(t)
	second := c.commit("second", map[string]string{"f": "2"})
	h.push(c, "ada", "origin", second.String()+":refs/heads/parked").ok(t)
	near, far := net.Pipe()
	defer far.Close()
	go func() { // swallows what is told
		buf := make([]byte, 4096)
		for {
			if _, err := far.Read(buf); err != nil {
				return
			}
		}
	}()
	k := newHook(near)
	defer near.Close()
	// "x/y" and "x" cannot both be: the third move fails, after all was verified.
	commands := []acceptedCommand{
		{command: command{ref: "refs/heads/a", old: first, new: second}},
		{command: command{ref: "refs/heads/x/y", new: second}},
		{command: command{ref: "refs/heads/x", new: second}},
		{command: command{ref: "refs/heads/z", new: second}},
	}
	for _, r := range h.listener.move(t.Context(), k, h.loose, commands, true) {
		if r.reason == "" {
			t.Errorf("%s is reported as moved", r.ref)
		}
	}
	for ref, want := range map[string]repo.Hash{"refs/heads/a": first, "refs/heads/x/y": repo.Zero,
		"refs/heads/x": repo.Zero, "refs/heads/z": repo.Zero} {
		if got := h.ref(h.loose, ref); got != want {
			t.Errorf("%s is at %s", ref, got)
		}
	}
	results := h.listener.move(t.Context(), k, h.loose, commands, false)
	if results[0].reason != "" || results[1].reason != "" || results[2].reason == "" || results[3].reason != "" {
		t.Errorf("%+v", results)
	}
}

func TestRacingPushesHaveOneWinner(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	first := c.commit("first", map[string]string{"f": "1"})
	h.push(c, "ada", "origin", "main").ok(t)
	const racers = 6
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []repo.Hash
	for i := range racers {
		mine := h.clone(h.loose)
		mine.git("fetch", "--quiet", "origin")
		mine.git("reset", "--quiet", "--hard", first.String())
		commit := mine.commit(fmt.Sprint("racer ", i), map[string]string{"f": fmt.Sprint("r", i)})
		cmd, end := h.pushing(t.Context(), mine, "ada", "origin", "main")
		wg.Go(func() {
			defer end()
			out, err := cmd.CombinedOutput()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, commit)
			} else if !strings.Contains(string(out), "fetch first") && !strings.Contains(string(out), "non-fast-forward") {
				t.Errorf("%s", out)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || h.ref(h.loose, "refs/heads/main") != won[0] {
		t.Fatalf("%v won; main is at %s", won, h.ref(h.loose, "refs/heads/main"))
	}
	if out, err := h.loose.Git(t.Context(), "fsck", "--strict"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// waiting is a gate whose changes stay in the queue until somebody lets them land.
type waiting struct {
	let   chan struct{}
	ended chan struct{} // one for each follower that stopped
}

type patientGate struct {
	*fakeGate
	w waiting
}

func (g patientGate) Follow(ctx context.Context, repository string, change int) iter.Seq[gate.Progress] {
	return func(yield func(gate.Progress) bool) {
		defer func() { g.w.ended <- struct{}{} }()
		if !yield(gate.Progress{Kind: gate.Queued, At: time.Now(), Place: 1}) {
			return
		}
		select {
		case <-ctx.Done():
		case <-g.w.let:
			for p := range g.fakeGate.Follow(ctx, repository, change) {
				if !yield(p) {
					return
				}
			}
		}
	}
}

func TestLostClientChangesNothing(t *testing.T) {
	for _, how := range []string{"killed", "door ended", "client gone"} {
		t.Run(how, func(t *testing.T) {
			h := newHarness(t)
			c := h.landed()
			<-h.gate.events
			w := waiting{make(chan struct{}), make(chan struct{}, 10)}
			h.listener.Gate = patientGate{h.gate, w}
			second := c.commit("second", map[string]string{"f": "2"})
			client, leave := context.WithCancel(context.Background())
			h.client = client
			cmd, end := h.pushing(t.Context(), c, "ada", "origin", "main")
			h.client = nil
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			out := &syncBuffer{}
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-h.gate.events
			eventually(t, "queued", func() bool { return strings.Contains(out.String(), "queued at 1") })
			switch how {
			case "killed":
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // client and receive-pack, and the hook
			case "door ended":
				end()
			case "client gone":
				leave()
			}
			select {
			case <-w.ended:
			case <-time.After(lastResort):
				t.Fatal("following did not stop")
			}
			_ = cmd.Wait() // killed, or told that the change is still queued
			end()
			leave()
			// The change goes on, and a push of the same commit comes back to it.
			close(w.let)
			h.push(c, "ada", "origin", "main").ok(t, "attached again", "success: 2 landed")
			if h.ref(h.r, "refs/heads/main") != second {
				t.Fatal("main did not move")
			}
		})
	}
}

func TestStoppingServerTellsAndKeeps(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	<-h.gate.events
	w := waiting{make(chan struct{}), make(chan struct{}, 10)}
	h.listener.Gate = patientGate{h.gate, w}
	h.listener.Still = 50 * time.Millisecond
	c.commit("second", map[string]string{"f": "2"})
	cmd, end := h.pushing(t.Context(), c, "ada", "origin", "main")
	defer end()
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-h.gate.events
	eventually(t, "a still line", func() bool { return strings.Contains(out.String(), "still queued at 1") })
	h.stop()
	pushed{out.String(), cmd.Wait()}.refused(t)
	pushed{out.String(), nil}.says(t, "server restarting; 2 is safe and keeps its place",
		"hint: to come back in a moment: ", "[remote rejected] main -> main (restarting; 2 still queued)")
}

type panickingGate struct{ *fakeGate }

func (panickingGate) Propose(context.Context, gate.Proposal) (gate.Accepted, error) { panic("oh") }

func TestPanicIsContained(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	h.listener.Gate = panickingGate{h.gate}
	c.commit("second", map[string]string{"f": "2"})
	h.push(c, "ada", "origin", "main").refused(t, "error: headgate met a fault of its own", "remote rejected")
	h.listener.Gate = h.gate
	h.push(c, "ada", "origin", "main").ok(t)
}

// dialHook speaks to the listener as a hook program would.
func (h *harness) dialHook(header wire.Header) (answer string, exit int) {
	h.t.Helper()
	conn, err := net.Dial("unix", h.listener.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	if err := wire.WriteHeader(conn, header); err != nil {
		h.t.Fatal(err)
	}
	_ = wire.Write(conn, wire.End, nil) // the listener may have answered and closed already
	exit = -1
	for {
		kind, content, err := wire.Read(conn)
		switch {
		case err != nil:
			return answer, exit
		case kind == wire.Exit:
			return answer, int(content[0])
		default:
			answer += string(content)
		}
	}
}

func TestTokens(t *testing.T) {
	h := newHarness(t)
	token := func(env []string) string { return strings.TrimPrefix(env[1], wire.TokenVariable+"=") }
	env, end := h.listener.Begin(t.Context(), access.Identity{User: "ada"}, "k", "loose", false, func() {})
	if len(token(env)) != 64 {
		t.Fatalf("%q", env)
	}
	for _, test := range []struct {
		name   string
		header wire.Header
	}{
		{"unknown", wire.Header{Hook: wire.PreReceive, Token: strings.Repeat("0", 64)}},
		{"none", wire.Header{Hook: wire.PreReceive}},
		{"not judged", wire.Header{Hook: wire.ProcReceive, Token: token(env)}},
		{"a second time", wire.Header{Hook: wire.ProcReceive, Token: token(env)}},
		{"another hook", wire.Header{Hook: "post-receive", Token: token(env)}},
	} {
		if answer, exit := h.dialHook(test.header); exit != 1 {
			t.Errorf("%s: exit %d, %q", test.name, exit, answer)
		}
	}
	end()
	if answer, exit := h.dialHook(wire.Header{Hook: wire.PreReceive, Token: token(env)}); exit != 1 ||
		!strings.Contains(answer, "not known") {
		t.Errorf("after the end: exit %d, %q", exit, answer)
	}
	info, err := os.Stat(h.listener.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestStrangeQuarantineIsNotEntered(t *testing.T) {
	h := newHarness(t)
	for _, path := range []string{h.dir, h.loose.Dir(), filepath.Join(h.loose.Dir(), "objects"),
		filepath.Join(h.r.Dir(), "objects", "tmp_objdir-x"), "relative"} {
		if err := os.MkdirAll(filepath.Join(h.r.Dir(), "objects", "tmp_objdir-x"), 0o755); err != nil {
			t.Fatal(err)
		}
		if q, err := quarantineOf(h.loose, path); err == nil {
			t.Errorf("%s became %+v", path, q)
		}
	}
}

func TestLongSocketPath(t *testing.T) {
	h := newHarness(t)
	h.stop()
	h.listener.Dir = filepath.Join(h.dir, strings.Repeat("long/", 30), "run")
	h.start()
	c := h.clone(h.loose)
	c.commit("first", map[string]string{"f": "1"})
	h.push(c, "ada", "origin", "main").ok(t)
}

// The hook never waits for whoever reads its messages.
func TestHookIsNotHeldByItsReader(t *testing.T) {
	h := newHarness(t)
	h.stop()
	socket, err := net.Listen("unix", h.listener.path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cmd := exec.Command(filepath.Join(h.hooks, wire.PreReceive))
	cmd.Env = []string{wire.SocketVariable + "=" + h.listener.path, wire.TokenVariable + "=x"}
	stuck, hold, err := os.Pipe() // nobody reads it
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	cmd.Stderr = hold
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hold.Close()
	conn, err := socket.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := wire.ReadHeader(conn); err != nil {
		t.Fatal(err)
	}
	line := append(bytes.Repeat([]byte("x"), 1000), '\n')
	for range 5000 {
		if err := wire.Write(conn, wire.Message, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := wire.Write(conn, wire.Exit, []byte{7}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is asked below
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Fatalf("exit %d", code)
	}
}

// TestProgressEndsWithTheRight: whoever may not read the repository any more sees
// nothing more of it; their change goes on.
func TestProgressEndsWithTheRight(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	<-h.gate.events
	w := waiting{make(chan struct{}), make(chan struct{}, 10)}
	h.listener.Gate = patientGate{h.gate, w}
	take := make(chan context.CancelCauseFunc, 1)
	h.listener.Reading = func(ctx context.Context, who access.Identity, repository string) (context.Context,
		context.CancelFunc) {
		if who.User != "ada" || repository != "hello" {
			t.Errorf("asked for %s, %s", who.User, repository)
		}
		ctx, cancel := context.WithCancelCause(ctx)
		take <- cancel
		return ctx, func() { cancel(nil) }
	}
	c.commit("second", map[string]string{"f": "2"})
	cmd, end := h.pushing(t.Context(), c, "ada", "origin", "main")
	defer end()
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-h.gate.events
	(<-take)(&show.Error{Kind: show.Forbidden, What: "you may not read this any more", Hint: "ask"})
	pushed{out.String(), cmd.Wait()}.refused(t)
	pushed{out.String(), nil}.says(t, "error: you may not read this any more", "hint: ask",
		"[remote rejected] main -> main (you may not read this any more)")
}
