package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// silent is how a program behaves that works, and that the server never hears.
const silent = "says naught"

// scriptedTrial is how long the program that is offered is on trial: briefly if nothing can
// come of it, else longer than any test.
func scriptedTrial(dir string) time.Duration {
	if behaves, _ := os.ReadFile(filepath.Join(dir, "behaves")); string(behaves) == silent {
		return time.Second
	}
	return time.Hour
}

// beScripted is a worker that has nothing to do. It notes in its directory's file "events" by
// which program it began and that it left, has the program "offered" on trial work when there
// is one, and behaves as the file "behaves" says: it reports to the server, dies, or neither.
func beScripted(dir string) error {
	line, err := openChannel(os.NewFile(channelFD, "channel"))
	if err != nil {
		return err
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	note := func(what string) {
		f, err := os.OpenFile(filepath.Join(dir, "events"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, what, filepath.Base(self))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			panic(err)
		}
	}
	if err := line.say(message{Op: opReady}); err != nil {
		return err
	}
	m, err := line.receive()
	if err != nil || m.Op != opGo {
		return nil
	}
	note("began")
	behaves, _ := os.ReadFile(filepath.Join(dir, "behaves"))
	switch onTrial := m.Trial; {
	case onTrial && string(behaves) == "dies":
		return errors.New("it dies")
	case onTrial && string(behaves) == "reports":
		_ = line.say(message{Op: opReported})
	case !onTrial && len(behaves) > 0 && filepath.Base(self) == "own":
		_ = line.say(message{Op: opUpgrade, ID: 1, Program: filepath.Join(dir, "programs", "offered"), Trial: true})
	}
	for {
		m, err := line.receive()
		if err != nil {
			return nil
		}
		if m.Op == opLeave || m.Op == opStop {
			note("left")
			_ = line.say(message{Op: opLeft})
			return nil
		}
	}
}

// scripted is an agent whose workers do as they are told.
type scripted struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

func (s *scripted) start(env ...string) {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(s.dir, "own"), "supervise-scripted", s.dir)
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "BE_AGENT=1", "GORACE=atexit_sleep_ms=0"}, env...)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scripted) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // it may be gone; workers end with it
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *scripted) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// comes waits until events end with these, and forgets them.
func (s *scripted) comes(want string) {
	s.t.Helper()
	var events []byte
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		events, _ = os.ReadFile(filepath.Join(s.dir, "events")) // none yet
		if strings.HasSuffix(strings.ReplaceAll(string(events), "\n", "; "), want+"; ") {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("there were\n%s\nand not %s", events, want)
		}
	}
}

func (s *scripted) kept() keptProgram { return readProgram(filepath.Join(s.dir, "agent")) }

// TestTrial: a program that the server has sent works from then on, also after a restart, once
// the server has heard it; one that ends before, or says nothing in time, gives way to the one
// before, and it is known why. Killed anywhere, the agent works by one of the two.
func TestTrial(t *testing.T) {
	s := &scripted{t: t, dir: t.TempDir()}
	t.Cleanup(s.stop)
	if err := os.Mkdir(filepath.Join(s.dir, "programs"), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"own", "programs/offered", "programs/older"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), self, 0o700); err != nil {
			t.Fatal(err)
		}
	}

	for how, why := range map[string]string{
		"dies": "it ended before the server had heard it",
		silent: "the server has not heard it within 1s",
	} {
		s.write("behaves", how)
		s.start()
		s.comes("began own")
		for deadline := time.Now().Add(time.Minute); !strings.Contains(s.kept().Why, why); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", how, s.kept())
			}
		}
		if k := s.kept(); k.Path != "" || k.Refused == "" {
			t.Errorf("%s: %+v", how, k)
		}
		s.stop()
		s.write("events", "")
	}

	// Killed as it is kept, it is kept.
	s.write("behaves", "reports")
	s.start("HEADGATE_CRASH_AT=agent.program-noted")
	err = s.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %v", err)
	}
	s.write("behaves", "")
	s.write("events", "")
	s.start()
	s.comes("began offered")
	s.stop()

	// Not after somebody has installed another one by hand, or when it is gone.
	s.write("events", "")
	kept := s.kept()
	s.write("agent/program.json", strings.Replace(fmt.Sprintf(
		`{"version":1,"own":%q,"path":%q}`, kept.Own, kept.Path), kept.Own, "another", 1))
	s.start()
	s.comes("began own")
	s.stop()
	s.write("events", "")
	s.write("agent/program.json", fmt.Sprintf(`{"version":1,"own":%q,"path":"/nowhere"}`, kept.Own))
	s.start()
	s.comes("began own")
}

// TestOffers: a program is taken from the server that the agent knows, on this connection,
// and no other one.
func TestOffers(t *testing.T) {
	signer := func() *repo.Signer {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(private, "")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := repo.OpenSigner(path, repo.Person{Name: "Headgate", Email: "headgate@example.org"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	own, other := signer(), signer()
	keys := Keys{Signing: ssh.FingerprintSHA256(own.PublicKey())}
	session := []byte("this connection")
	offer := func(by *repo.Signer, change func(o *Offer)) Offer {
		o := Offer{Build: "b", Digest: "sha256:d", Size: 10, Platform: Platform}
		if change != nil {
			change(&o)
		}
		if err := o.Sign(by, session); err != nil {
			t.Fatal(err)
		}
		return o
	}
	good := offer(own, nil)
	if err := good.verify(keys, session); err != nil {
		t.Error(err)
	}
	forged := good
	forged.Digest = "sha256:e"
	for want, o := range map[string]Offer{
		"and the key of the server is":   offer(other, nil),
		"is not signed":                  forged,
		"the program is for plan9/amd64": offer(own, func(o *Offer) { o.Platform = "plan9/amd64" }),
		"bytes is none":                  offer(own, func(o *Offer) { o.Size = maxProgramSize + 1 }),
		"the key of the program":         {Key: "nonsense"},
	} {
		if err := o.verify(keys, session); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := good.verify(keys, []byte("another one")); err == nil {
		t.Error("it is good for another connection")
	}
	if err := good.verify(Keys{}, session); err == nil {
		t.Error("an agent without keys believes it")
	}
}
