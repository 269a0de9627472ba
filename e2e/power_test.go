package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/power"
)

// TestPowerCutOfAServer runs a server whose data directory is a file system of its own,
// in a machine (process and mount namespaces) of its own, and cuts the power while
// changes land, go live and repositories are made. The next start finds everything that
// somebody was told of, and comes to where it would have come.
func TestPowerCutOfAServer(t *testing.T) {
	if os.Getenv(machineVariable) != "" {
		boot(t)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	h, err := newHarness(dir, plain)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.addKey("ada"); err != nil {
		t.Fatal(err)
	}
	disk, err := power.New(t, dir)
	power.Needs(t, err)
	for n := range boots {
		out, err := inMachine(t, 0, machineVariable+"="+strconv.Itoa(n), "HEADGATE_DISK="+disk.Device(),
			"HEADGATE_DIR="+dir, "HEADGATE_BIN="+h.bin)
		t.Logf("%s", out)
		if err != nil && len(out) == 0 {
			power.Needs(t, err)
		}
		if err != nil {
			t.Fatalf("boot %d: %v", n, err)
		}
	}
}

const (
	machineVariable = "HEADGATE_MACHINE" // which boot it is
	boots           = 3                  // the power of all but the last is cut
)

// boot is the machine from power on to power off: the first process in it, with which
// all others end.
func boot(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(machineVariable))
	if err != nil {
		t.Fatal(err)
	}
	if err := ownMounts(); err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv("HEADGATE_DIR")
	h, err := newHarness(dir, func() (string, error) { return os.Getenv("HEADGATE_BIN"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := h.addKey("ada"); err != nil {
		t.Fatal(err)
	}
	disk, err := power.At(os.Getenv("HEADGATE_DISK"), h.data())
	if err == nil {
		err = disk.On()
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &powered{harness: h, t: t, work: filepath.Join(dir, "hello"), told: filepath.Join(dir, "told")}
	if err := h.start(nil); err != nil {
		t.Fatal(err)
	}
	m.remembers()
	if n == boots-1 {
		h.finish(t.Errorf)
		out, errs, err := within(waitTimeout, dir, h.env(), filepath.Join(h.bin, "headgate"), "doctor", "--data", h.data())
		if err != nil {
			t.Errorf("after it has started and stopped: %v\n%s%s", err, out, errs)
		}
		return
	}

	if n == 0 {
		m.do("repo", "create", "hello")
		if err := h.sample(m.work, "hello"); err != nil {
			t.Fatal(err)
		}
		own := strings.Replace(sampleFiles["headgate.yaml"], "approvals: 1", "approvals: {count: 1, own: true}", 1)
		err := os.WriteFile(filepath.Join(m.work, "headgate.yaml"), []byte(own), 0o644)
		if err = errors.Join(err, m.git("commit", "-qam", "Approve my own")); err != nil {
			t.Fatal(err)
		}
	} else if err := m.git("remote", "set-url", "origin", "ssh://"+h.SSH+"/hello"); err != nil {
		t.Fatal(err)
	}
	m.land("begin " + strconv.Itoa(n))
	m.eventually("staging has it", func() (bool, string) { return m.shows("staging", m.release) })
	m.eventually("it waits for a yes", func() (bool, string) {
		out, _ := h.ask("ada", "approve", "hello", "production") // its exit code says that one is missing still
		waits, state := m.shows("production", m.release)
		return waits, out + state
	})
	m.note("production", strconv.Itoa(m.release))

	// Now something of everything, until the power is gone.
	delay := rand.N(2 * time.Second) // anywhere in what follows
	go func() {
		time.Sleep(delay)
		if err := disk.Cut(); err != nil {
			t.Error(err)
			return
		}
		fmt.Printf("boot %d: the power was cut after %v\n", n, delay)
		os.Exit(0) // and everything ends with this process
	}()
	for i := 0; ; i++ {
		name := fmt.Sprintf("made-%d-%d", n, i)
		if _, err := h.ask("ada", "repo", "create", name); err == nil {
			m.note("repository", name)
		}
		m.land(fmt.Sprintf("change %d of boot %d", i, n))
	}
}

// powered is a harness on a disk that can be cut, and what somebody was told, which is
// kept elsewhere.
type powered struct {
	*harness
	t       *testing.T
	work    string
	told    string
	release int // that the last landing is known to have made
}

func (m *powered) git(args ...string) error {
	_, errs, err := within(waitTimeout, m.work, m.env(), "git", args...)
	if err != nil {
		return fmt.Errorf("git %v: %w: %s", args, err, errs)
	}
	return nil
}

func (m *powered) do(args ...string) {
	m.t.Helper()
	if out, err := m.ask("ada", args...); err != nil {
		m.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (m *powered) note(what, value string) {
	m.t.Helper()
	f, err := os.OpenFile(m.told, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, what, value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// land pushes a change; what is acknowledged is noted.
func (m *powered) land(what string) {
	m.t.Helper()
	if err := m.git("commit", "-q", "--allow-empty", "-m", what); err != nil {
		m.t.Fatal(err)
	}
	out, _, err := within(waitTimeout, m.work, m.env(), "sh", "-c", "git push origin HEAD:main 2>&1")
	if err != nil {
		return // the power is cut, or it fails as a test of what is there
	}
	head, _, err := within(waitTimeout, m.work, m.env(), "git", "rev-parse", "HEAD")
	if err != nil {
		m.t.Fatal(err)
	}
	m.note("main", strings.TrimSpace(head))
	if found := regexp.MustCompile(`release (\d+)`).FindStringSubmatch(out); found != nil {
		m.release, _ = strconv.Atoi(found[1]) // it is one
		m.note("release", found[1])
	}
}

// shows asks whether an environment declares a release, or a later one, and is healthy.
func (m *powered) shows(environment string, release int) (bool, string) {
	out, _ := m.ask("ada", "env", "show", "hello", environment, "--json") // its exit code tells whether something waits
	var e struct {
		State   string
		Release int
	}
	return json.Unmarshal([]byte(out), &e) == nil && e.State == "healthy" && e.Release >= release, out
}

func (m *powered) eventually(what string, ok func() (bool, string)) {
	m.t.Helper()
	said := ""
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		yes := false
		if yes, said = ok(); yes {
			return
		}
	}
	m.t.Fatalf("%s: never:\n%s\n%s", what, said, m.tail())
}

// remembers wants everything that somebody was told to be so.
func (m *powered) remembers() {
	m.t.Helper()
	text, err := os.ReadFile(m.told)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	mirror := filepath.Join(m.dir, fmt.Sprintf("mirror-%d", os.Getpid()+int(time.Now().UnixNano())))
	_, errs, err := within(waitTimeout, m.dir, m.env(), "git", "clone", "-q", "--mirror", "ssh://"+m.SSH+"/hello", mirror)
	if err != nil {
		m.t.Fatalf("clone: %v\n%s", err, errs)
	}
	repositories, err := m.ask("ada", "repo", "list")
	if err != nil {
		m.t.Fatal(err)
	}
	facts := 0
	for s := bufio.NewScanner(strings.NewReader(string(text))); s.Scan(); facts++ {
		what, value, _ := strings.Cut(s.Text(), " ")
		var err error
		switch what {
		case "repository":
			if !strings.Contains(repositories, "\n"+value+" ") {
				err = errors.New(repositories)
			}
		case "main":
			_, errs, err = within(waitTimeout, mirror, m.env(), "git", "merge-base", "--is-ancestor", value, "main")
		case "release":
			_, errs, err = within(waitTimeout, mirror, m.env(), "git", "rev-parse", "--verify", "refs/releases/"+value)
		case "production":
			m.eventually("production is at "+value, func() (bool, string) { // by itself: nobody says yes again
				n, _ := strconv.Atoi(value) // it is one
				return m.shows("production", n)
			})
		}
		if err != nil {
			m.t.Errorf("%s was acknowledged, and is not there: %v %s", s.Text(), err, errs)
		}
	}
	signers := filepath.Join(m.dir, "signers")
	keys, err := m.ask("ada", "signers")
	if err == nil {
		err = os.WriteFile(signers, []byte(keys), 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	out, errs, err := within(waitTimeout, m.dir, m.env(), filepath.Join(m.bin, "headgate"), "verify", "--signers",
		signers, mirror)
	if err != nil {
		m.t.Errorf("verify: %v\n%s%s", err, out, errs)
	}
	m.t.Logf("%d facts that somebody was told are so", facts)
}
