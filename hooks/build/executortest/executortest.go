// Package executortest is the contract of build.Executor as tests: whoever makes
// sandboxes passes it, whatever they are made of.
package executortest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/hooks/build"
)

// Suite is an executor and what can be asked of it.
type Suite struct {
	Executor build.Executor
	Image    string // to make sandboxes of, for an executor that does
	Limits   bool   // sandboxes are held to the limits on memory and processes
	Users    bool   // scripts can be run as others than root
	Writable bool   // the system can be written to
	Services bool   // there can be services beside a build
}

// deadline is for what hangs; nothing waits for it that works.
const deadline = 2 * time.Minute

var count atomic.Int64

// sandbox is one with its session.
type sandbox struct {
	t       *testing.T
	ctx     context.Context
	dirs    build.Sandbox
	session build.Session
	scripts int
	closed  bool
}

// start makes a sandbox with these files in its source.
func (s Suite) start(t *testing.T, limits buildsettings.Limits, files map[string]string,
	services ...build.Service) *sandbox {
	t.Helper()
	b := s.sandbox(t, limits, files)
	b.dirs.Services = services
	s.open(b)
	return b
}

// open starts a sandbox.
func (s Suite) open(b *sandbox) {
	b.t.Helper()
	session, err := s.Executor.Start(b.ctx, b.dirs)
	if err != nil {
		b.t.Fatal(err)
	}
	b.session = session
	b.t.Cleanup(b.close)
}

// sandbox is one that is not started.
func (s Suite) sandbox(t *testing.T, limits buildsettings.Limits, files map[string]string) *sandbox {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { build.RemoveAll(dir) }) // the kernel leaves directories that nobody may enter
	b := &sandbox{t: t, dirs: build.Sandbox{
		Image:   s.Image,
		Limits:  limits,
		ID:      fmt.Sprintf("suite-%d-%d", os.Getpid(), count.Add(1)),
		Source:  filepath.Join(dir, "source"),
		Control: filepath.Join(dir, "control"),
		Home:    filepath.Join(dir, "home"),
		Temp:    filepath.Join(dir, "temp"),
		System:  filepath.Join(dir, "system"),
		Cache:   build.Cache{Upper: filepath.Join(dir, "cache")},
	}}
	for path, mode := range map[string]os.FileMode{
		b.dirs.Source: 0o755, b.dirs.Control: 0o755, b.dirs.Home: 0o700, b.dirs.Temp: 0o777 | os.ModeSticky,
		b.dirs.System: 0o755, b.dirs.Cache.Upper: 0o755,
	} {
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(b.dirs.Source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return b
}

func (b *sandbox) close() {
	b.t.Helper()
	if b.closed {
		return
	}
	b.closed = true
	if err := b.session.Close(); err != nil {
		b.t.Errorf("close: %v", err)
	}
}

// file is what is in a file inside, as the server finds it.
func (b *sandbox) file(dir, name string) string {
	b.t.Helper()
	at, err := b.session.Files(b.ctx, dir)
	if err != nil {
		b.t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(at, name))
	if err != nil {
		b.t.Error(err)
	}
	return string(data)
}

// script writes a script and returns what runs it.
func (b *sandbox) script(text string) build.Script {
	b.t.Helper()
	b.scripts++
	name := fmt.Sprintf("script%d.sh", b.scripts)
	if err := b.session.Put(b.ctx, name, []byte(text)); err != nil {
		b.t.Fatal(err)
	}
	return build.Script{Shell: "sh", Path: build.ControlDir + "/" + name}
}

// wants runs a script, which must end so and print that.
func (b *sandbox) wants(exit int, out, text string) {
	b.t.Helper()
	var said strings.Builder
	got, err := b.session.Run(b.ctx, b.script(text), &said)
	if err != nil || got != exit || strings.TrimSpace(said.String()) != out {
		b.t.Errorf("%s\nexit %d (%v), not %d:\n%s", text, got, err, exit, said.String())
	}
}

// writer is called with what is printed.
type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// alive says whether a process of this machine has a word among its arguments.
func alive(word string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // a pattern without fault
	return slices.ContainsFunc(files, func(file string) bool {
		data, _ := os.ReadFile(file) // one that is gone has none
		return slices.Contains(strings.Split(string(data), "\x00"), word)
	})
}

// Test runs the suite.
func (s Suite) Test(t *testing.T) {
	t.Run("scripts end with their status and what they printed", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		b.wants(0, "out\nerr", "echo out; echo err >&2")
		b.wants(7, "", "exit 7")
		if exit, err := b.session.Run(b.ctx, b.script("kill -TERM $$"), &strings.Builder{}); exit != 128+15 || err != nil {
			t.Errorf("of a signal: exit %d, %v", exit, err)
		}
		b.wants(0, "empty", "read line || echo empty") // there is no input
		b.wants(0, "0022", "umask")
	})

	t.Run("directories are where they are everywhere", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, map[string]string{"given": "of the source\n"})
		b.wants(0, build.SourceDir+"\nof the source", "pwd; cat given; echo made >made; echo x >"+build.HomeDir+
			"/x; echo x >/tmp/x; echo x >"+build.CacheDir+"/x; echo x >"+build.StateDir+"/x")
		b.wants(0, "x", "cat "+build.StateDir+"/x")
		b.wants(0, "held", "{ echo x >"+build.ControlDir+"/x; } 2>/dev/null || echo held")
		for dir, name := range map[string]string{build.SourceDir: "made", build.HomeDir: "x", "/tmp": "x"} {
			if got := b.file(dir, name); got != name+"\n" {
				t.Errorf("%s/%s holds %q", dir, name, got)
			}
		}
	})

	t.Run("objects are seen, those too that come later, and nobody writes there", func(t *testing.T) {
		t.Parallel()
		b := s.sandbox(t, buildsettings.Limits{}, nil)
		b.dirs.Objects = filepath.Join(b.dirs.Source, "..", "objects")
		write := func(name string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(b.dirs.Objects, name), []byte("x\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(b.dirs.Objects, 0o755); err != nil {
			t.Fatal(err)
		}
		write("first")
		s.open(b)
		write("later")
		b.wants(0, "x\nx", "cd "+build.ObjectsDir+" && cat first later")
		b.wants(0, "held", "cd "+build.ObjectsDir+`; for c in "rm -f first" "mv first x" "ln first x" "mkdir x" "sh -c 'echo y >>first'" \
	"sh -c 'echo y >x'" "chmod 777 first" "chmod 777 ." "touch first" "mount -o remount,rw ." "umount ."; do
	eval "$c" >/dev/null 2>&1 && echo "done: $c"; done; cat first | grep -v x; echo held`)
		b.close()
		names, err := filepath.Glob(filepath.Join(b.dirs.Objects, "*"))
		if err != nil || len(names) != 2 {
			t.Errorf("%v, %v", names, err)
		}
	})

	t.Run("what is not there is told", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		script := b.script("true")
		script.Shell = "nosuchshell"
		if _, err := b.session.Run(b.ctx, script, &strings.Builder{}); !errors.Is(err, build.ErrNoShell) {
			t.Errorf("shell: %v", err)
		}
		script.Shell, script.User = "sh", "nosuchuser"
		if _, err := b.session.Run(b.ctx, script, &strings.Builder{}); !errors.Is(err, build.ErrNoUser) {
			t.Errorf("user: %v", err)
		}
		b.wants(0, "still good", "echo still good")
	})

	t.Run("a child that stays behind holds nothing up and ends with the sandbox", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		b.wants(0, "begun", "(trap '' HUP; sleep 100000) & echo begun")
		b.wants(0, "on", "echo on")
	})

	t.Run("output is no answer", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		b.wants(3, "0", "echo 0; for fd in 3 4 5 6 7 8 9; do (echo 0 >&$fd) 2>/dev/null; done; exit 3")
	})

	t.Run("whoever kills all there is has not succeeded", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		exit, err := b.session.Run(b.ctx, b.script("kill -9 -1; kill -9 1; exit 4"), &strings.Builder{})
		if !errors.Is(err, build.ErrEnded) && (err != nil || exit == 0) {
			t.Errorf("exit %d, %v", exit, err)
		}
	})

	t.Run("a context ends a script at once", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		ctx, cancel := context.WithCancel(b.ctx)
		said := writer(func([]byte) { cancel() })
		if _, err := b.session.Run(ctx, b.script("echo begun; sleep 100000"), said); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})

	t.Run("all that is printed comes", func(t *testing.T) {
		t.Parallel()
		const size = 3_000_000
		got := 0
		count := writer(func(p []byte) { got += len(p) })
		b := s.start(t, buildsettings.Limits{}, nil)
		if _, err := b.session.Run(b.ctx, b.script(fmt.Sprintf("head -c %d /dev/zero", size)), count); err != nil || got != size {
			t.Errorf("%d bytes of %d, %v", got, size, err)
		}
	})

	t.Run("nothing outlives the sandbox", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		mark := "987654" + strconv.Itoa(os.Getpid())
		b.wants(0, "begun", "setsid sh -c '(trap \"\" TERM HUP; exec sleep "+mark+" >/dev/null 2>&1) & echo begun'")
		for !alive(mark) && b.ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		b.close()
		if alive(mark) {
			t.Error("a process of it goes on")
		}
	})

	t.Run("limits hold, and are named", func(t *testing.T) {
		t.Parallel()
		if !s.Limits {
			t.Log("this machine lets nobody set them")
			return
		}
		ended := func(l buildsettings.Limits, text, limit string) {
			t.Helper()
			b := s.start(t, l, nil)
			if notes := b.session.Notes(); slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, "no limits") }) {
				t.Logf("this machine lets nobody set them: %v", notes)
				return
			}
			exit, err := b.session.Run(b.ctx, b.script(text), &strings.Builder{})
			if exit == 0 && err == nil || err != nil && !errors.Is(err, build.ErrEnded) || b.session.Limit() != limit {
				t.Errorf("%s: exit %d, %v, limit %q", text, exit, err, b.session.Limit())
			}
		}
		ended(buildsettings.Limits{Memory: 64 << 20}, "dd if=/dev/zero of=/dev/null bs=200M count=1", "64 MiB of memory")
		ended(buildsettings.Limits{Processes: 40},
			"i=0; while [ $i -lt 100 ]; do sleep 100000 & i=$((i+1)); done", "40 processes")
		ended(buildsettings.Limits{Disk: 20 << 20}, "dd if=/dev/zero of=big bs=1M count=30", "20 MiB of disk")
	})

	t.Run("there is no network, and no machine to be seen", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		b.wants(0, "", "cat /etc/shadow 2>/dev/null; grep -v lo: /proc/net/dev | grep :; true")
	})

	t.Run("services", s.services)

	t.Run("users", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		script := b.script("id -un; echo x >/tmp/of-nobody")
		script.User = "nobody"
		var said strings.Builder
		exit, err := b.session.Run(b.ctx, script, &said)
		switch {
		case !s.Users && !errors.Is(err, build.ErrNoUser):
			t.Errorf("exit %d, %v", exit, err)
		case s.Users && (err != nil || exit != 0 || said.String() != "nobody\n"):
			t.Errorf("exit %d, %v: %s", exit, err, said.String())
		case s.Users:
			b.wants(0, "nobody", "stat -c %U /tmp/of-nobody; chown nobody given 2>/dev/null; true")
		}
	})

	t.Run("the system", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{}, nil)
		if s.Writable {
			b.wants(0, "mine", "mkdir -p /usr/local/bin && echo 'echo mine' >/usr/local/bin/mine && chmod +x /usr/local/bin/mine && mine")
			s.start(t, buildsettings.Limits{}, nil).wants(0, "", "command -v mine; true")
		} else {
			b.wants(0, "held", "{ echo x >/usr/local/bin/mine; } 2>/dev/null || echo held")
		}
	})
}
