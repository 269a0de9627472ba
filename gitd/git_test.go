package gitd

import (
	"context"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/transport"
)

// seed pushes one commit to main of hello and returns the work tree.
func (h *harness) seed() string {
	h.t.Helper()
	work := filepath.Join(h.dir, "work")
	h.git("jun", h.dir, "init", "--quiet", "--initial-branch=main", work)
	if err := os.WriteFile(filepath.Join(work, "file"), []byte("hello\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.git("jun", work, "add", "file")
	h.git("jun", work, "commit", "--quiet", "-m", "say hello")
	h.git("jun", work, "push", "--quiet", h.url("hello"), "HEAD:refs/heads/main")
	return work
}

func (h *harness) tip(repository, ref string) string {
	out, err := exec.Command("git", "--git-dir="+filepath.Join(h.dir, "repositories", repository+".git"), "rev-parse",
		"--verify", "--quiet", ref).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func TestCloneAndPush(t *testing.T) {
	type started struct {
		actor           access.Identity
		key, repository string
	}
	var mu sync.Mutex
	var begins []started
	ends := 0
	h := start(t, func(s *Server) {
		s.Transport.Begin = func(_ context.Context, a access.Identity, key, repository string, _ bool, _ func()) ([]string, func()) {
			mu.Lock()
			defer mu.Unlock()
			begins = append(begins, started{a, key, repository})
			return []string{"GITD_TEST_TOKEN=t0k"}, func() { mu.Lock(); ends++; mu.Unlock() }
		}
	})
	work := h.seed()
	head := strings.TrimSpace(h.git("jun", work, "rev-parse", "HEAD"))
	if got := h.tip("hello", "refs/heads/main"); got != head {
		t.Fatalf("main is at %q, not %s", got, head)
	}
	want := started{access.Identity{User: "jun", Via: "push"}, gossh.FingerprintSHA256(h.keys["jun"].PublicKey()), "hello"}
	mu.Lock()
	if len(begins) != 1 || fmt.Sprint(begins[0]) != fmt.Sprint(want) || ends != 1 {
		t.Errorf("begun %+v, ended %d", begins, ends)
	}
	mu.Unlock()
	// A push big enough to need a pack, and what the hook says comes back.
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	if err := os.WriteFile(filepath.Join(work, "big"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	h.git("ada", work, "add", "big")
	h.git("ada", work, "commit", "--quiet", "-m", "big")
	if out := h.git("ada", work, "push", h.url("hello.git"), "HEAD:main"); !strings.Contains(out, "remote: token t0k") {
		t.Errorf("the hook did not get its token:\n%s", out)
	}
	for i, form := range []string{"ssh://git@" + h.addr + "/hello", "ssh://git@" + h.addr + "/hello.git",
		"git@127.0.0.1:hello", "git@127.0.0.1:/hello.git"} {
		to := filepath.Join(h.dir, fmt.Sprint("clone", i))
		for _, protocol := range []string{"0", "2"} {
			h.git("jun", h.dir, "-c", "protocol.version="+protocol, "clone", "--quiet", form, to+protocol)
			if got, _ := os.ReadFile(filepath.Join(to+protocol, "big")); len(got) != len(big) {
				t.Errorf("%s: cloned %d bytes", form, len(got))
			}
		}
	}
	archive := h.git("jun", h.dir, "archive", "--remote="+h.url("hello"), "--format=tar", "main", "file")
	if !strings.Contains(archive, "hello\n") {
		t.Errorf("the archive holds %d bytes without the file", len(archive))
	}
	if out := h.git("jun", h.dir, "ls-remote", h.url("hello")); !strings.Contains(out, "refs/heads/main") {
		t.Errorf("ls-remote: %s", out)
	}
	// git's own exit status comes through.
	if r := h.run(h.login("jun"), "git-upload-archive 'hello'",
		func(s *gossh.Session) { s.Stdin = strings.NewReader("0000") }); r.status == 0 {
		t.Errorf("a bad archive request ended well: %+v", r)
	}
}

// Who may not read does not learn what there is.
func TestNoSuchRepository(t *testing.T) {
	h := start(t, nil)
	jun := h.login("jun")
	for _, verb := range transport.Services {
		var answers []string
		for _, name := range []string{"vault", "nowhere", "missing", "headgate"} {
			r := h.run(jun, string(verb)+" '/"+name+"'")
			if r.status != 1 || r.stdout != "" {
				t.Errorf("%s %s: %+v", verb, name, r)
			}
			answers = append(answers, strings.ReplaceAll(r.stderr, name, "X"))
		}
		for _, a := range answers {
			if a != answers[0] || !strings.HasPrefix(a, "error: no such repository: \"X\"\n") {
				t.Errorf("%s: answers differ: %q", verb, answers)
			}
		}
	}
	for name, hint := range map[string]string{"helo": "did you mean \"hello\"?",
		"nowhere": "see yours: ssh git.tarn.example repo list"} {
		if r := h.run(jun, "git-upload-pack '"+name+"'"); !strings.Contains(r.stderr, "hint: "+hint+"\n") {
			t.Errorf("%s: %q", name, r.stderr)
		}
	}
	r := h.run(jun, "git-upload-pack 'hello'", func(s *gossh.Session) {
		if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
			t.Fatal(err)
		}
	})
	if r.status != 2 || !strings.Contains(r.stderr, "a terminal would damage") {
		t.Errorf("with a terminal: %+v", r)
	}
}

// A client that is killed in the middle of a push changes nothing: what the
// hook has begun it ends, however much it still has to say.
func TestClientKilledMidPush(t *testing.T) {
	var fifo string
	var mu sync.Mutex
	started, ended := 0, 0
	var client context.Context
	h := start(t, func(s *Server) {
		s.Transport.Begin = func(ctx context.Context, _ access.Identity, _, _ string, _ bool, _ func()) ([]string, func()) {
			mu.Lock()
			defer mu.Unlock()
			started++
			client = ctx
			return []string{"GITD_TEST_WAIT=" + fifo}, func() { mu.Lock(); ended++; mu.Unlock() }
		}
	})
	work := h.seed()
	old := h.tip("hello", "refs/heads/main")
	fifo = filepath.Join(h.dir, "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	h.git("jun", work, "commit", "--quiet", "--allow-empty", "-m", "more")
	cmd := h.gitAs("jun", work, "push", h.url("hello"), "HEAD:main")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The hook is there when it has opened the fifo to read.
	var hook *os.File
	until(t, "the hook waits", func() bool {
		f, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		hook = f
		return err == nil
	})
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	until(t, "the server has noticed", func() bool {
		// The client's connection, and with it its place, is given back.
		return strings.Count(h.log.String(), "logged in") == 2 && connections(h) == 0
	})
	mu.Lock()
	gone := client
	mu.Unlock()
	until(t, "whoever answers the hooks knows", func() bool { return gone.Err() != nil })
	if got := h.tip("hello", "refs/heads/main"); got != old {
		t.Fatalf("main moved before it was let go, to %s", got)
	}
	hook.Close() // go on
	head := strings.TrimSpace(h.git("jun", work, "rev-parse", "HEAD"))
	until(t, "main has moved", func() bool { return h.tip("hello", "refs/heads/main") == head })
	until(t, "the push has ended", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return started == 2 && ended == 2
	})
}

// connections asks the kernel for established connections to the server.
func connections(h *harness) int {
	var port int
	fmt.Sscanf(h.addr[strings.LastIndex(h.addr, ":")+1:], "%d", &port)
	data, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		h.t.Fatal(err)
	}
	n := 0
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == "01" {
			n++
		}
	}
	return n
}

// Clones wait for their turn, for a while; asking for refs and pushing do not.
func TestFetchesQueue(t *testing.T) {
	h := start(t, func(s *Server) {
		s.Transport.Limits.Fetches, s.Transport.Limits.FetchQueue, s.Transport.Limits.FetchWait = 1, 1, 50*time.Millisecond
		s.Transport.Limits.Slow = within // who holds the place here does nothing with it
	})
	work := h.seed()
	for _, protocol := range []string{"version=2", ""} {
		s, err := h.login("ada").NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if protocol != "" {
			if err := s.Setenv("GIT_PROTOCOL", protocol); err != nil {
				t.Fatal(err)
			}
		}
		in, err := s.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("git-upload-pack 'hello'"); err != nil {
			t.Fatal(err)
		}
		request := "0032want " + h.tip("hello", "refs/heads/main") + "\n" // and says no more
		if protocol != "" {
			request = "0012command=fetch\n"
		}
		io.WriteString(in, request)
		go io.Copy(io.Discard, out)
		clone := func(protocol string) (string, error) {
			out, err := h.gitAs("jun", h.dir, "-c", "protocol.version="+protocol, "clone", "--quiet", h.url("hello"),
				filepath.Join(t.TempDir(), "c")).CombinedOutput()
			return string(out), err
		}
		until(t, "the place is taken", func() bool {
			out, err := clone("2")
			return err != nil && strings.Contains(out,
				"error: the server is busy with other clones: it makes packs for 1 at once") && strings.Contains(
				out, "hint: try again in a minute")
		})
		if out, err := clone("0"); err == nil || !strings.Contains(out, "busy") {
			t.Errorf("a second clone: %v\n%s", err, out)
		}
		h.git("jun", h.dir, "ls-remote", h.url("hello"))
		h.git("jun", work, "commit", "--quiet", "--allow-empty", "-m", "more")
		h.git("jun", work, "push", "--quiet", h.url("hello"), "HEAD:main")
		s.Close() // the client goes, and its git with it
		until(t, "the place is free", func() bool { _, err := clone("2"); return err == nil })
	}
}

// A server whose hooks are gone takes nothing in, and says nothing of where they were.
func TestPushWithoutHooks(t *testing.T) {
	h := start(t, func(s *Server) {
		s.Transport.Ready = func() error { return errors.New("hook /var/lib/headgate/hooks/pre-receive: no such file") }
	})
	work := h.dir + "/work"
	h.git("jun", h.dir, "init", "--quiet", "--initial-branch=main", work)
	h.git("jun", work, "commit", "--quiet", "--allow-empty", "-m", "first")
	said, err := h.gitAs("jun", work, "push", h.url("hello"), "HEAD:main").CombinedOutput()
	out := string(said)
	if err == nil || !strings.Contains(out, "cannot take pushes now") || strings.Contains(out, "/var/lib") {
		t.Errorf("%v\n%s", err, out)
	}
	r, err := h.server.Transport.Store.Repository("hello")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := filepath.Glob(filepath.Join(r.Dir(), "objects", "[0-9a-ft]*"))
	if err != nil || len(objects) > 0 {
		t.Errorf("it keeps %v, %v", objects, err)
	}
}

// Clients that have asked and read nothing keep nobody from cloning: nobody has all
// places, and git ends without them.
func TestSlowReadersHoldNobodyUp(t *testing.T) {
	h := start(t, func(s *Server) { s.Transport.Limits.Fetches = 2 })
	work := h.seed()
	noise := make([]byte, 4<<20) // more than pipes and SSH windows hold
	for i := range noise {
		noise[i] = byte(mrand.Uint32())
	}
	if err := os.WriteFile(filepath.Join(work, "noise"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	h.git("jun", work, "add", "noise")
	h.git("jun", work, "commit", "--quiet", "-m", "noise")
	h.git("jun", work, "push", "--quiet", h.url("hello"), "HEAD:main")
	for _, user := range []string{"ada", "ada", "sam", "sam"} {
		s, err := h.login(user).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		in, err := s.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.StdoutPipe(); err != nil { // which nobody reads
			t.Fatal(err)
		}
		if err := s.Start("git-upload-pack 'hello'"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "0032want "+h.tip("hello", "refs/heads/main")+"\n00000009done\n"); err != nil {
			t.Fatal(err)
		}
	}
	h.git("jun", h.dir, "clone", "--quiet", h.url("hello"), "beside")
}

// TestDripsKeepNoPlace: who holds a place while others wait, and neither lets git
// compute nor sends anything to speak of, is let go. They say what they want, or begin
// a push, and then next to nothing.
func TestDripsKeepNoPlace(t *testing.T) {
	h := start(t, func(s *Server) {
		s.Transport.Limits.Fetches, s.Transport.Limits.Unpacks, s.Transport.Limits.Slow = 2, 2, 300*time.Millisecond
		s.Transport.Limits.FetchWait, s.Transport.Limits.UnpackWait = within, within
	})
	work := h.seed()
	tip := h.tip("hello", "refs/heads/main")
	none := strings.Repeat("0", 40)
	packet := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	drip := func(verb, begin, drop string) {
		for _, user := range []string{"ada", "sam"} {
			s, err := h.login(user).NewSession()
			if err != nil {
				t.Fatal(err)
			}
			in, err := s.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.StdoutPipe(); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(verb + " 'hello'"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(in, begin); err != nil {
				t.Fatal(err)
			}
			go func() {
				for {
					if _, err := io.WriteString(in, drop); err != nil {
						return // it was let go
					}
					time.Sleep(20 * time.Millisecond)
				}
			}()
		}
	}
	places := func(what string, n int) {
		t.Helper()
		until(t, what, func() bool {
			text, err := exec.Command("pgrep", "-c", "-f", what+".*"+h.dir).Output()
			return err == nil && strings.TrimSpace(string(text)) == fmt.Sprint(n)
		})
	}

	drip("git-upload-pack", packet("want "+tip+"\n")+"0000", packet("have "+strings.Repeat("1", 40)+"\n"))
	places("git upload-pack", 2)
	h.git("jun", h.dir, "-c", "protocol.version=0", "clone", "--quiet", h.url("hello"), "beside")

	command := none + " " + tip + " refs/heads/drip\x00report-status\n"
	drip("git-receive-pack", packet(command)+"0000PACK\x00\x00\x00\x02\x00\x00\x00\x01", "\x90")
	places("git receive-pack", 2)
	h.git("jun", work, "commit", "--quiet", "--allow-empty", "-m", "more")
	h.git("jun", work, "push", "--quiet", h.url("hello"), "HEAD:refs/heads/beside")
	if got := h.tip("hello", "refs/heads/beside"); got == none || got == "" {
		t.Error("the push has not landed")
	}
	if !strings.Contains(h.log.String(), "made nothing of its place") {
		t.Error("nobody was let go for that")
	}
}

// TestGitsRefusalsHaveHints: what git refuses before any hook is asked is followed by
// a way out.
func TestGitsRefusalsHaveHints(t *testing.T) {
	h := start(t, nil)
	work := h.seed()
	refused := func(dir, url, what, hint string) {
		t.Helper()
		out, err := h.gitAs("ada", dir, "push", url, "HEAD:refs/heads/other").CombinedOutput()
		if err == nil || !strings.Contains(string(out), what) || !strings.Contains(string(out), "remote: hint: "+hint) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	h.git("jun", work, "commit", "--quiet", "--allow-empty", "-m", "two")
	h.git("jun", work, "push", "--quiet", h.url("hello"), "HEAD:main")
	shallow := filepath.Join(h.dir, "shallow")
	h.git("jun", h.dir, "clone", "--quiet", "--depth=1", h.url("hello"), shallow)
	refused(shallow, h.url("vault"), "shallow update not allowed",
		"your clone lacks a part of the history: git fetch --unshallow, then push again")

	tree := strings.TrimSpace(h.git("jun", work, "rev-parse", "HEAD^{tree}"))
	bad := filepath.Join(h.dir, "bad")
	if err := os.WriteFile(bad, []byte("tree "+tree+"\nauthor nobody 1 +0000\ncommitter nobody 1 +0000\n\nbad\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(h.git("jun", work, "hash-object", "-t", "commit", "-w", "--literally", bad))
	h.git("jun", work, "checkout", "--quiet", "--detach", commit)
	refused(work, h.url("hello"), "missingEmail", "the object is not what git itself would make")
}

// A push that brings nothing waits for nobody's place.
func TestDeletingNeedsNoPlace(t *testing.T) {
	h := start(t, func(s *Server) {
		s.Transport.Limits.Unpacks, s.Transport.Limits.UnpackWait, s.Transport.Limits.Slow = 1, 50*time.Millisecond, within
	})
	work := h.seed()
	h.git("jun", work, "push", "--quiet", h.url("hello"), "HEAD:refs/heads/beside")
	s, err := h.login("ada").NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("git-receive-pack 'hello'"); err != nil {
		t.Fatal(err)
	}
	command := strings.Repeat("0", 40) + " " + h.tip("hello", "refs/heads/main") + " refs/heads/drip\x00report-status\n"
	if _, err := fmt.Fprintf(in, "%04x%s0000", len(command)+4, command); err != nil {
		t.Fatal(err)
	}
	h.git("jun", work, "commit", "--quiet", "--allow-empty", "-m", "more")
	until(t, "the place is taken", func() bool {
		out, err := h.gitAs("jun", work, "push", h.url("hello"), "HEAD:refs/heads/more").CombinedOutput()
		return err != nil && strings.Contains(string(out), "busy with other pushes: it unpacks 1 at once") &&
			strings.Contains(string(out), "hint: try again in a minute")
	})
	h.git("jun", work, "push", "--quiet", h.url("hello"), ":refs/heads/beside")
	s.Close()
	until(t, "the place is free", func() bool {
		return h.gitAs("jun", work, "push", h.url("hello"), "HEAD:refs/heads/more").Run() == nil
	})
}

// A git client that neither sends nor takes anything is gone.
func TestStalledGitClient(t *testing.T) {
	h := start(t, func(s *Server) {
		s.Transport.Limits.Stall, s.Transport.Limits.PushStall = 200*time.Millisecond, 200*time.Millisecond
	})
	for _, verb := range transport.Services {
		client := h.login("jun")
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(string(verb) + " 'hello'"); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- client.Wait() }()
		select {
		case <-ended:
		case <-time.After(within):
			t.Fatalf("%s: still there", verb)
		}
	}
}

// When the server stops, what does not end by itself is ended.
func TestStopEndsGit(t *testing.T) {
	h := start(t, func(s *Server) { s.Limits.Drain = 100 * time.Millisecond })
	s, err := h.login("jun").NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("git-receive-pack 'hello'"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 4)); err != nil { // git is there
		t.Fatal(err)
	}
	if err := h.stop(); err != nil { // it returns, though the client stays
		t.Fatal(err)
	}
}
