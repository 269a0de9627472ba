package container

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	moby "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/executortest"
)

func TestContainers(t *testing.T) { enginetest.Run(t, testEngine) }

func TestPodman(t *testing.T) { enginetest.RunPodman(t, testEngine) }

// ownCapabilities are those of the executor, as the kernel writes them.
const ownCapabilities = "00000000000405fb\n"

func testEngine(t *testing.T, d *enginetest.Daemon) {
	e, err := engine.Open(d.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	open := func() (*engine.Engine, error) { return engine.Open(d.Host) }
	executor := &Executor{Open: open}

	t.Run("contract", func(t *testing.T) {
		executortest.Suite{
			Executor: executor,
			Image:    enginetest.Image,
			Limits:   true,
			Users:    true,
			Writable: true,
			Services: true,
		}.Test(t)
	})

	start := func(t *testing.T, x *Executor, image string, services ...build.Service) (*session, error) {
		t.Helper()
		s := sandbox(t, image)
		s.Services = services
		n, err := x.Start(t.Context(), s)
		if err != nil {
			return nil, err
		}
		return n.(*session), nil
	}
	must := func(t *testing.T, x *Executor) *session {
		t.Helper()
		n, err := start(t, x, enginetest.Image)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	t.Run("it has no privileges", func(t *testing.T) {
		n := must(t, executor)
		const text = `grep -e CapEff -e NoNewPrivs /proc/self/status
mount -t tmpfs x /www 2>/dev/null || echo no mounts
mknod /tmp/disk b 8 0 2>/dev/null || echo no devices
test -e /run/docker.sock -o -e /var/run/docker.sock || echo no engine
`
		if err := n.Put(t.Context(), "s.sh", []byte(text)); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		_, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/s.sh"}, &said)
		// Of capabilities it has those of the executor alone.
		const want = "CapEff:\t" + ownCapabilities + "NoNewPrivs:\t1\nno mounts\nno devices\nno engine\n"
		if err != nil || said.String() != want {
			t.Errorf("%v: %s", err, said.String())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("no container has privileges", func(t *testing.T) {
		n, err := start(t, executor, enginetest.Image, build.Service{Name: "db", Image: enginetest.Image,
			Entrypoint: []string{"sleep", "100000"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{n.id, n.services[0].id} {
			found, err := d.API.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			h := found.Container.HostConfig
			if h.Privileged || h.UsernsMode != "" || len(h.Devices) > 0 || h.NetworkMode.IsHost() || h.PidMode.IsHost() || h.IpcMode.IsHost() || h.Memory == 0 || h.PidsLimit == nil {
				t.Errorf("the engine says of a container: %+v", h)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", found.Container.State.Pid))
			for _, want := range []string{"CapPrm:\t" + ownCapabilities, "CapBnd:\t" + ownCapabilities, "NoNewPrivs:\t1\n"} {
				if err != nil || !strings.Contains(string(status), want) {
					t.Errorf("of its first process %q is not so: %v\n%s", want, err, status)
				}
			}
			for _, m := range found.Container.Mounts {
				if strings.Contains(m.Source, "docker.sock") || m.Source == "/" {
					t.Errorf("it sees %s", m.Source)
				}
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("it ends with the server", func(t *testing.T) {
		n, err := start(t, executor, enginetest.Image, build.Service{Name: "db", Image: enginetest.Image,
			Entrypoint: []string{"sleep", "100000"}})
		if err != nil {
			t.Fatal(err)
		}
		n.alive.Close() // as the kernel does
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, id := range []string{n.id, n.services[0].id} {
			if _, err := e.Wait(ctx, id); err != nil {
				t.Errorf("it goes on: %v", err)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("what is left is removed", func(t *testing.T) {
		left, other := must(t, &Executor{Open: open, Name: "mine"}), must(t, &Executor{Open: open, Name: "theirs"})
		if err := (&Executor{Open: open, Name: "mine"}).Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := e.List(t.Context(), label, "mine")
		if err != nil || len(all) != 0 {
			t.Errorf("there are %+v, %v", all, err)
		}
		if _, running, err := e.Inspect(t.Context(), other.id); err != nil || !running {
			t.Errorf("another's was ended, too: %v", err)
		}
		if err := errors.Join(left.Close(), other.Close()); err != nil {
			t.Error(err)
		}
	})

	t.Run("what it leaves is the server's", func(t *testing.T) {
		owner := 12345
		n := must(t, &Executor{Open: open, Owner: &owner})
		if err := n.Put(t.Context(), "s.sh",
			[]byte("mkdir d; touch d/made; ln -s /etc/passwd link; chmod 0 d")); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/s.sh"},
			io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "d", "d/made", "link"} {
			var st syscall.Stat_t
			if err := syscall.Lstat(filepath.Join(n.dirs[build.SourceDir], name), &st); err != nil || st.Uid != 12345 {
				t.Errorf("%q is of %d, %v", name, st.Uid, err)
			}
		}
	})

	t.Run("a cache is read and not written to", func(t *testing.T) {
		s := sandbox(t, enginetest.Image)
		s.Cache.Lower, s.Cache.Work = t.TempDir(), filepath.Join(filepath.Dir(s.Cache.Upper), "work")
		if err := os.Mkdir(s.Cache.Work, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.Cache.Lower+"/kept", []byte("kept\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		n, err := executor.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		script := "cd " + build.CacheDir + "; cat kept; echo more >>kept; echo new >new"
		if err := n.Put(t.Context(), "s.sh", []byte(script)); err != nil {
			t.Fatal(err)
		}
		exit, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/s.sh"}, &said)
		if err != nil || exit != 0 || said.String() != "kept\n" {
			t.Errorf("exit %d, %v: %s", exit, err, said.String())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		for file, want := range map[string]string{s.Cache.Lower + "/kept": "kept\n", s.Cache.Upper + "/kept": "kept\nmore\n",
			s.Cache.Upper + "/new": "new\n"} {
			if got, err := os.ReadFile(file); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", file, got, err)
			}
		}
	})

	t.Run("a name stands for its content", func(t *testing.T) {
		pinned, err := executor.Resolve(t.Context(), enginetest.Image, build.Login{})
		if err != nil || !strings.HasPrefix(pinned, enginetest.Image+"@sha256:") {
			t.Fatalf("%s, %v", pinned, err)
		}
		n, err := start(t, executor, pinned)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("what a service writes to its volumes counts", func(t *testing.T) {
		const image = "headgate.test/volume:1"
		d.Import(image, moby.Config{Volumes: map[string]struct{}{"/data": {}}})
		s := sandbox(t, enginetest.Image)
		s.Limits.Disk = 20 << 20
		s.Services = []build.Service{{Name: "db", Image: image, Entrypoint: []string{"sh", "-c",
			"dd if=/dev/zero of=/data/big bs=1M count=30; exec sleep 100000"}}}
		n, err := executor.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Put(t.Context(), "s.sh", []byte("sleep 100000")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = n.Run(ctx, build.Script{Shell: "sh", Path: build.ControlDir + "/s.sh"}, io.Discard)
		if !errors.Is(err, build.ErrEnded) || n.Limit() != "20 MiB of disk" {
			t.Errorf("%v, limit %q", err, n.Limit())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("who enters finds what the last command left", func(t *testing.T) {
		n := must(t, executor)
		const text = "cd /tmp; echo kept >file; export PWD FOUND=it; export -p >" + build.StateDir + "/env.sh; exit 3"
		if err := n.Put(t.Context(), "s.sh", []byte(text)); err != nil {
			t.Fatal(err)
		}
		script := build.Script{Shell: "sh", Path: build.ControlDir + "/s.sh"}
		if exit, err := n.Run(t.Context(), script, io.Discard); exit != 3 || err != nil {
			t.Fatal(exit, err)
		}
		var out bytes.Buffer
		in := strings.NewReader("echo found $FOUND in $PWD; cat file; exit 5\n")
		if err := n.Enter(t.Context(), "sh", in, &out, &out); err != nil {
			t.Error(err)
		}
		if s := out.String(); !strings.Contains(s, "found it in /tmp\nkept\n") {
			t.Errorf("%s", s)
		}
		out.Reset()
		typed := window(t, 33, 101)
		if err := n.Enter(t.Context(), "sh", typed, &out, &out); err != nil {
			t.Error(err)
		}
		if s := out.String(); !strings.Contains(s, "33 101") || !strings.Contains(s, "(build) /tmp #") {
			t.Errorf("at a terminal: %s", s)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := n.Enter(t.Context(), "sh", in, &out, &out); !errors.Is(err, build.ErrEnded) {
			t.Errorf("of one that has ended: %v", err)
		}
	})

	t.Run("a registry is entered by its login", func(t *testing.T) {
		host := d.Registry(t, "ada", "down the rabbit hole", "team/go:1", "team/db:1")
		login := build.Login{User: "ada", Password: "down the rabbit hole"}
		for _, wrong := range []build.Login{{}, {User: "ada", Password: "curiouser"}} {
			_, err := executor.Resolve(t.Context(), host+"/team/go:1", wrong)
			var no *build.ImageError
			if !errors.As(err, &no) || !strings.Contains(no.What, "build in headgate.yaml") ||
				strings.Contains(err.Error(), "curiouser") {
				t.Errorf("%v", err)
			}
		}
		pinned, err := executor.Resolve(t.Context(), host+"/team/go:1", login)
		if err != nil {
			t.Fatal(err)
		}
		// The one of the service is not there before.
		s := sandbox(t, pinned)
		s.Logins = map[string]build.Login{host: login}
		s.Services = []build.Service{{Name: "db", Image: host + "/team/db:1", Entrypoint: []string{"sleep", "100000"}}}
		n, err := executor.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{n.(*session).id, n.(*session).services[0].id} {
			found, err := d.API.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if said, _ := json.Marshal(found.Container); bytes.Contains(said, []byte("rabbit")) {
				t.Errorf("the container tells the password: %s", said)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("images that cannot be", func(t *testing.T) {
		empty(t, d, "headgate.test/empty:1")
		for image, want := range map[string]string{
			"headgate.test/empty:1": "the image has no sh",
			"127.0.0.1:1/no/such:1": "the registry of image 127.0.0.1:1/no/such:1 does not give it",
			"Not A Reference":       "is not a reference",
		} {
			_, err := start(t, executor, image)
			var people interface{ ForPeople() string }
			if !errors.As(err, &people) || !strings.Contains(people.ForPeople(), want) {
				t.Errorf("%s: %v", image, err)
			}
		}
	})

	all, err := e.List(t.Context(), label, "")
	if err != nil || len(all) != 0 {
		t.Errorf("left behind: %+v, %v", all, err)
	}
}

// BenchmarkStart is how long it takes from nothing to the end of the first command, of an
// image that is there.
func BenchmarkStart(b *testing.B) {
	enginetest.Benchmark(b, func(b *testing.B, d *enginetest.Daemon) {
		x := &Executor{Open: func() (*engine.Engine, error) { return engine.Open(d.Host) }}
		const starts = 10
		var took []time.Duration
		for b.Loop() {
			for range starts {
				s := sandbox(b, enginetest.Image)
				began := time.Now()
				n, err := x.Start(b.Context(), s)
				if err != nil {
					b.Fatal(err)
				}
				if err := n.Put(b.Context(), "s.sh", []byte("exit 0")); err != nil {
					b.Fatal(err)
				}
				script := build.Script{Shell: "sh", Path: build.ControlDir + "/s.sh"}
				if exit, err := n.Run(b.Context(), script, io.Discard); exit != 0 || err != nil {
					b.Fatal(exit, err)
				}
				took = append(took, time.Since(began))
				if err := n.Close(); err != nil {
					b.Fatal(err)
				}
			}
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-p50/start")
		b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max/start")
	})
}

// sandbox is one of an image, with its directories.
func sandbox(t testing.TB, image string) build.Sandbox {
	t.Helper()
	dir := t.TempDir()
	s := build.Sandbox{ID: t.Name(), Image: image}
	for name, at := range map[string]*string{"source": &s.Source, "control": &s.Control, "home": &s.Home,
		"temp": &s.Temp, "cache": &s.Cache.Upper} {
		*at = filepath.Join(dir, name)
		if err := os.Mkdir(*at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// empty makes an image with one file that is no program.
func empty(t *testing.T, d *enginetest.Daemon, name string) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := errors.Join(w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o644}), w.Close())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := d.API.ImageImport(t.Context(), client.ImageImportSource{Source: &archive, SourceName: "-"}, name,
		client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	if _, err := io.Copy(io.Discard, resp); err != nil {
		t.Fatal(err)
	}
}

// window is a terminal at which somebody asks for its size.
func window(t *testing.T, rows, columns uint16) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	// An engine may tell the size a little after the shell has begun.
	if _, err := io.WriteString(master, "until stty size | grep -q '^33 '; do sleep 0.1; done; stty size; exit\n"); err != nil {
		t.Fatal(err)
	}
	return slave
}
