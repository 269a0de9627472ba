// Package container runs builds in containers of Docker or Podman, each in one of its
// own that is made of an image: without privileges, with the network of none, with the
// limits of a build, and with the directories of the sandbox mounted where they are
// everywhere.
//
// The first process waits on a pipe whose other end this process holds. When the server
// ends, however it ends, so does the first process, and with it the kernel ends all
// others. What is left of the container then is removed by the next Executor.
//
// A script is a command of its own in the container, whose exit status the engine tells,
// which nothing inside can forge. What it prints comes through another pipe: past the
// engine, so that a child that stays behind holds nothing up, and no log is kept twice.
package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/bounds"
	"github.com/headgate-cd/headgate/hooks/build/pipe"
)

// Executor makes sandboxes of images. Its zero value works.
type Executor struct {
	Open   func() (*engine.Engine, error) // nil: engine.Find
	Limits buildsettings.Limits           // zero: bounds.DefaultLimits
	Name   string                         // whose containers these are, unlike any other's on the engine; "": nobody's

	// Owner is who is to own what a build leaves in the directories; nil: this process's
	// user.
	Owner *int

	mu     sync.Mutex
	engine *engine.Engine
	swept  bool
}

// label marks the containers of builds, with Executor.Name.
const label = "dev.headgate.builds"

// Names of pipes in ControlDir, and of a file.
const (
	alivePipe  = "alive"
	outputPipe = "output"
	hostsFile  = "hosts"
)

// first is what the first process does: it waits for the end of who started it, and
// meanwhile for whatever has lost its parent.
const first = `read -r end <` + build.ControlDir + `/` + alivePipe + ` & wait`

// step runs a script as a command of its own: $1 is the shell, $2 the script.
const step = `command -v "$1" >/dev/null 2>&1 || { echo noshell; exit 1; }
ulimit -c 0
umask 022
exec "$1" "$2" >` + build.ControlDir + `/` + outputPipe + ` 2>&1 </dev/null`

// What root inside may do, to what is inside: as much as root of a build on the machine.
var capabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"NET_BIND_SERVICE", "SYS_CHROOT"}

// find is the engine, from which what an earlier process has left was removed.
func (x *Executor) find(ctx context.Context) (*engine.Engine, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.open(); err != nil {
		return nil, unable(err)
	}
	if x.Name != "" && !x.swept {
		left, err := x.engine.List(ctx, label, x.Name)
		if err == nil {
			err = removeAll(ctx, x.engine, left)
		}
		if err != nil {
			return nil, unable(err)
		}
		x.swept = true
	}
	return x.engine, nil
}

// removeAll removes containers. Podman removes none whose network or processes another one
// has, so that some may take another round.
func removeAll(ctx context.Context, e *engine.Engine, all []engine.Found) error {
	for {
		var kept []engine.Found
		var errs []error
		for _, c := range all {
			if err := e.Remove(ctx, c.ID); err != nil {
				kept, errs = append(kept, c), append(errs, err)
			}
		}
		if len(kept) == 0 || len(kept) == len(all) || ctx.Err() != nil {
			return errors.Join(errs...)
		}
		all = kept
	}
}

// open has an engine that need not answer yet. The caller holds mu.
func (x *Executor) open() error {
	if x.engine != nil {
		return nil
	}
	open := x.Open
	if open == nil {
		open = engine.Find
	}
	e, err := open()
	if err == nil {
		x.engine = e
	}
	return err
}

// Present reports whether there is an engine, which may not answer.
func (x *Executor) Present() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open() == nil
}

// Sweep removes what an earlier process of the same name has left.
func (x *Executor) Sweep(ctx context.Context) error {
	_, err := x.find(ctx)
	return err
}

// unable is an error of an engine, in its words, which are for people.
func unable(err error) error {
	var e *engine.Error
	if errors.As(err, &e) {
		if e.Reason == engine.ReasonImageInvalid || e.Reason == engine.ReasonImageNotFound ||
			e.Reason == engine.ReasonImageDenied {
			return &build.ImageError{What: "headgate.yaml: " + e.Error()}
		}
		return build.UnableError("builds run in containers here: " + e.Error())
	}
	return err
}

// Resolve finds out which image a name stands for now, and has it be there: the name
// with the digest of its content.
func (x *Executor) Resolve(ctx context.Context, name string, login build.Login) (string, error) {
	e, err := x.find(ctx)
	if err != nil {
		return "", err
	}
	image, err := e.Resolve(ctx, name, engine.PullOnce, engine.Login(login))
	if err != nil {
		return "", unable(err)
	}
	return Pinned(name, image), nil
}

// Pinned is the name of an image with the digest of its content: that under which a
// registry gave it, or else the engine's own.
func Pinned(name string, image engine.Image) string {
	name, _, _ = strings.Cut(name, "@")
	if _, digest, ok := strings.Cut(image.Digest, "@"); ok {
		return name + "@" + digest
	}
	return name + "@" + image.ID
}

// image is one that Resolve has named, or any other.
func (x *Executor) image(ctx context.Context, e *engine.Engine, name string,
	logins map[string]build.Login) (engine.Image, error) {
	login := engine.Login(logins[buildsettings.RegistryOf(name)])
	if _, digest, ok := strings.Cut(name, "@"); ok {
		if image, err := e.Have(ctx, engine.Image{ID: digest}, engine.Login{}); err == nil {
			return image, nil // it came from no registry
		}
	}
	return e.Resolve(ctx, name, engine.PullOnce, login)
}

// Start implements build.Executor.
func (x *Executor) Start(ctx context.Context, s build.Sandbox) (_ build.Session, err error) {
	e, err := x.find(ctx)
	if err != nil {
		return nil, err
	}
	image, err := x.image(ctx, e, s.Image, s.Logins)
	if err != nil {
		return nil, unable(err)
	}
	limits := x.Limits
	if limits == (buildsettings.Limits{}) {
		limits = bounds.DefaultLimits()
	}
	limits = s.Limits.Within(limits)
	n := &session{engine: e, image: image, limits: limits, owner: os.Geteuid(), dirs: map[string]string{
		build.SourceDir:  s.Source,
		build.ControlDir: s.Control,
		build.HomeDir:    s.Home,
		"/tmp":           s.Temp,
		build.CacheDir:   s.Cache.Upper,
	}}
	if x.Owner != nil {
		n.owner = *x.Owner
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := makePipe(filepath.Join(s.Control, alivePipe), 0o600); err != nil {
		return nil, err
	}
	output := filepath.Join(s.Control, outputPipe)
	if err := makePipe(output, 0o666); err != nil {
		return nil, err
	}
	if n.output, err = os.OpenFile(output, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
		return nil, err
	}
	n.disk = bounds.NewDisk(limits.Disk, s.Source, s.Home, s.Temp, s.Cache.Upper)
	if n.disk != nil {
		n.disk.Elsewhere = n.written
	}
	if err := n.start(ctx, x.spec(s, image, limits)); err != nil {
		return nil, err
	}
	for _, of := range s.Services {
		if err := n.serve(ctx, x, s, of); err != nil {
			return nil, err
		}
	}
	n.notes = append(n.notes, fmt.Sprintf("in a container of image %s", Pinned(s.Image, image)))
	return n, nil
}

// spec is the container of a build.
func (x *Executor) spec(s build.Sandbox, image engine.Image, limits buildsettings.Limits) engine.Spec {
	spec := engine.Spec{
		Image:      image.ID,
		Labels:     x.labels(s.ID),
		Entrypoint: []string{"sh", "-c", first},
		User:       "0:0",
		WorkingDir: build.SourceDir,
		Hostname:   "headgate-build",
		StopSignal: "SIGKILL",
		Network:    "none",
		Memory:     limits.Memory,
		PIDs:       int64(limits.Processes),
		NanoCPUs:   int64(limits.CPU * 1e9),
		CapDrop:    []string{"ALL"},
		CapAdd:     capabilities,
		NoNewPrivs: true,
		Tmpfs:      map[string]string{build.StateDir: "rw,exec,mode=0777"},
		Binds: []engine.Bind{
			{Source: s.Source, Target: build.SourceDir, Writable: true},
			{Source: s.Control, Target: build.ControlDir},
			{Source: s.Home, Target: build.HomeDir, Writable: true},
			{Source: s.Temp, Target: "/tmp", Writable: true},
		},
	}
	if s.Network {
		spec.Network = ""
	}
	for _, of := range s.Services {
		spec.ExtraHosts = append(spec.ExtraHosts, of.Name+":127.0.0.1")
	}
	if s.Objects != "" {
		spec.Binds = append(spec.Binds, engine.Bind{Source: s.Objects, Target: build.ObjectsDir})
	}
	switch c := s.Cache; {
	case c.Lower != "" && !strings.ContainsAny(c.Lower+c.Upper+c.Work, `,:\`):
		spec.Volumes = []engine.Volume{{
			Target:  build.CacheDir,
			NoCopy:  true,
			Overlay: engine.Overlay{Lower: c.Lower, Upper: c.Upper, Work: c.Work},
		}}
	case c.Upper != "":
		spec.Binds = append(spec.Binds, engine.Bind{Source: s.Cache.Upper, Target: build.CacheDir, Writable: true})
	}
	return spec
}

func (x *Executor) labels(id string) map[string]string {
	return map[string]string{label: x.Name, label + ".id": id}
}

// Overlays reports whether a build can be given a cache to read that it cannot write to:
// what it leaves belongs to root.
func (x *Executor) Overlays(context.Context) bool { return os.Geteuid() == 0 }

// makePipe makes a named pipe.
func makePipe(path string, mode fs.FileMode) error {
	if err := errors.Join(syscall.Mkfifo(path, 0o600), os.Chmod(path, mode)); err != nil {
		return fmt.Errorf("make a pipe of the sandbox: %w", err)
	}
	return nil
}

// hold takes the other end of the pipe that the first process waits on, as soon as it
// does: an end that is let go of before that would never be missed.
func (n *session) hold(ctx context.Context) error {
	path := filepath.Join(n.dirs[build.ControlDir], alivePipe)
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for tries := 1; ; tries++ {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil || !errors.Is(err, syscall.ENXIO) { // nobody reads it yet
			n.alive = f
			return err
		}
		if tries%50 == 0 {
			if _, running, err := n.engine.Inspect(ctx, n.id); err != nil || !running {
				return errors.Join(unable(err), errors.New("the container has ended at once"))
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
	}
}

type session struct {
	engine   *engine.Engine
	image    engine.Image
	id       string
	services []*service // beside it
	cgroups  []string
	limits   buildsettings.Limits
	dirs     map[string]string // on this machine, by where they are inside
	owner    int
	alive    *os.File // closed, it ends the container
	output   *os.File // what scripts print
	disk     *bounds.Disk
	notes    []string
}

func (n *session) start(ctx context.Context, spec engine.Spec) error {
	var err error
	if n.id, err = n.engine.Create(ctx, spec); err != nil {
		return unable(err)
	}
	if err := n.engine.Start(ctx, n.id); err != nil {
		if strings.Contains(err.Error(), `"sh"`) {
			return &build.ImageError{What: "headgate.yaml: the image has no sh, and commands are run by it"}
		}
		return unable(err)
	}
	running, ok, err := n.engine.Inspect(ctx, n.id)
	if err != nil {
		return unable(err)
	}
	if !ok {
		return errors.New("the container has ended at once")
	}
	n.cgroups = cgroupsOf(running.PID)
	return n.hold(ctx)
}

// cgroupsOf are the directories of the cgroups that a process of this machine is in.
func cgroupsOf(pid int) (dirs []string) {
	const root = "/sys/fs/cgroup"
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // without it no limit is named
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (f[1] == "" || f[1] == "memory" || f[1] == "pids") {
			dirs = append(dirs, filepath.Join(root, f[1], f[2]))
		}
	}
	return dirs
}

// Put implements build.Session.
func (n *session) Put(_ context.Context, name string, data []byte) error {
	return os.WriteFile(filepath.Join(n.dirs[build.ControlDir], name), data, 0o644)
}

// Files implements build.Session: they are here, but may be another user's.
func (n *session) Files(ctx context.Context, inside string) (string, error) {
	return n.dirs[inside], n.reclaim(ctx, inside)
}

// Notes implements build.Session.
func (n *session) Notes() []string { return n.notes }

// Limit implements build.Session.
func (n *session) Limit() string {
	limit := bounds.Met(n.cgroups, n.limits)
	if d := n.disk.String(); d != "" {
		limit = strings.TrimPrefix(limit+", "+d, ", ")
	}
	return limit
}

// Run implements build.Session.
func (n *session) Run(ctx context.Context, s build.Script, out io.Writer) (int, error) {
	copying, err := pipe.Copy(out, n.output)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, n.kill)
	watching, rest := context.WithCancel(ctx)
	go n.disk.Watch(watching, n.kill)
	var said bytes.Buffer
	exit, err := n.engine.Exec(ctx, n.id, engine.Command{
		Argv:    []string{"sh", "-c", step, "sh", s.Shell, s.Path},
		User:    s.User,
		Streams: tty.Streams{Out: &said, Err: &said},
	})
	rest()
	stop()
	if cerr := copying.End(); cerr != nil {
		return 0, cerr
	}
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, engine.ErrNoUser), exit == 126 && engine.SaysNoUser(said.String()):
		return 0, build.ErrNoUser
	case strings.TrimSpace(said.String()) == "noshell":
		return 0, build.ErrNoShell
	}
	if n.disk.Over() {
		n.kill()
		return 0, build.ErrEnded
	}
	if err != nil || exit >= 128 {
		if _, running, lookErr := n.engine.Inspect(ctx, n.id); lookErr == nil && !running {
			return 0, build.ErrEnded
		}
	}
	return exit, unable(err)
}

// background bounds what is done when nobody waits any more.
const background = time.Minute

// kill ends the container at once.
func (n *session) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), background)
	defer cancel()
	_, _ = n.engine.Signal(ctx, n.id, "SIGKILL") // Close removes it, or says why it cannot
}

// written is what the containers have written elsewhere than into the directories.
func (n *session) written() int64 {
	ctx, cancel := context.WithTimeout(context.Background(), background)
	defer cancel()
	size, _ := n.engine.Written(ctx, n.id) // the directories are counted all the same
	for _, s := range n.services {
		more, _ := n.engine.Written(ctx, s.id)
		size += more
	}
	return size
}

// reclaim has all that is in directories belong to this process's user, who may be
// another than root, whom the files of a build are.
func (n *session) reclaim(ctx context.Context, inside ...string) error {
	if n.owner == 0 || n.id == "" {
		return nil
	}
	spec := engine.Spec{
		Image:      n.image.ID,
		Entrypoint: []string{"chown", "-hR", strconv.Itoa(n.owner) + ":" + strconv.Itoa(n.owner)},
		User:       "0:0",
		Network:    "none",
		CapDrop:    []string{"ALL"},
		CapAdd:     []string{"CHOWN", "DAC_OVERRIDE", "FOWNER"},
		NoNewPrivs: true,
	}
	for _, dir := range inside {
		if n.dirs[dir] != "" {
			spec.Binds = append(spec.Binds, engine.Bind{Source: n.dirs[dir], Target: dir, Writable: true})
			spec.Entrypoint = append(spec.Entrypoint, dir)
		}
	}
	id, err := n.engine.Create(ctx, spec)
	if err != nil {
		return unable(err)
	}
	defer n.engine.Remove(context.WithoutCancel(ctx), id) // it has ended, or is ended by that
	if err := n.engine.Start(ctx, id); err != nil {
		return unable(err)
	}
	end, err := n.engine.Wait(ctx, id)
	if err == nil && end.Code != 0 {
		err = fmt.Errorf("what the build left could not be made this user's: chown of its image exited %d", end.Code)
	}
	return err
}

// Close implements build.Session.
func (n *session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), background)
	defer cancel()
	var err error
	if n.id != "" {
		if len(n.services) > 0 {
			n.kill() // with it the services end, before which Podman does not remove it
		}
		for _, s := range n.services {
			err = errors.Join(err, n.engine.Remove(ctx, s.id))
		}
		err = errors.Join(err, n.engine.Remove(ctx, n.id))
		err = errors.Join(err, n.reclaim(ctx, build.SourceDir, build.HomeDir, "/tmp", build.CacheDir))
	}
	for _, f := range []*os.File{n.alive, n.output} {
		if f != nil {
			f.Close()
		}
	}
	for _, name := range []string{alivePipe, outputPipe, hostsFile} {
		os.Remove(filepath.Join(n.dirs[build.ControlDir], name)) // it may never have been made
	}
	return err
}
