// Package enginetest gives tests a real container engine, Docker's or Podman, in
// namespaces of its own: of what it does to addresses, mounts and processes the machine
// sees nothing, and when the test ends, however it ends, nothing of it is left.
package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// inside is set in the test binary that runs in the engine's namespaces, to a
// directory that is removed when it has ended.
const inside = "HEADGATE_TEST_ENGINE"

// Daemon is an engine that a test runs.
type Daemon struct {
	Host   string // by which it is reached
	API    *client.Client
	Podman bool // and not Docker

	t       testing.TB
	dir     string
	cgroup  string
	process *exec.Cmd
}

// Image is one that every engine has: busybox.
const Image = "headgate.test/busybox:1"

// needed are programs, by the Debian package that has them.
var needed = map[string]string{
	"dockerd":                  "docker.io",
	"docker-init":              "docker.io",
	"docker-registry":          "docker-registry",
	"containerd":               "containerd",
	"runc":                     "runc",
	"podman":                   "podman",
	"/usr/lib/podman/netavark": "netavark",
	"iptables":                 "iptables",
	"busybox":                  "busybox-static",
	"unshare":                  "util-linux",
}

// Run runs test with Docker's engine, as the whole of t, which is a test of the package
// and no part of one: it is started once more in namespaces of its own. Where an engine
// cannot be run the test is skipped on a developer's machine, and fails with CI set.
func Run(t *testing.T, test func(t *testing.T, d *Daemon)) { run(t, false, test) }

// RunPodman is Run with Podman.
func RunPodman(t *testing.T, test func(t *testing.T, d *Daemon)) { run(t, true, test) }

func run(t *testing.T, podman bool, test func(t *testing.T, d *Daemon)) {
	if dir := os.Getenv(inside); dir != "" {
		d := start(t, dir, podman)
		t.Run("engine", func(t *testing.T) { test(t, d) })
		return
	}
	args := []string{"-test.run", "^" + t.Name() + "$", "-test.v", "-test.parallel", "6"}
	if deadline, ok := t.Deadline(); ok {
		// It ends first, so that what it leaves is removed here.
		args = append(args, "-test.timeout", (time.Until(deadline) * 9 / 10).String())
	}
	said, err := again(t, args...)
	if err != nil || testing.Verbose() {
		t.Logf("in namespaces of its own:\n%s", said)
	}
	if err != nil {
		t.Errorf("it failed in namespaces of its own: %v", err)
	} else if !strings.Contains(string(said), "--- PASS: "+t.Name()+"/engine ") {
		t.Errorf("nothing was tested in namespaces of its own:\n%s", said)
	}
}

// Benchmark is Run for benchmarks: what one says in the namespaces is printed.
func Benchmark(b *testing.B, bench func(b *testing.B, d *Daemon)) {
	if dir := os.Getenv(inside); dir != "" {
		bench(b, start(b, dir, false))
		return
	}
	said, err := again(b, "-test.run", "^$", "-test.bench", "^"+b.Name()+"$", "-test.benchtime", "1x")
	if err != nil {
		b.Fatalf("it failed in namespaces of its own: %v\n%s", err, said)
	}
	for line := range strings.Lines(string(said)) {
		if strings.HasPrefix(line, b.Name()) {
			fmt.Print(line)
		}
	}
}

// again runs this test binary once more, in namespaces of its own.
func again(t testing.TB, args ...string) (said []byte, err error) {
	for program, in := range needed {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, fmt.Sprintf("%s is not installed: apt-get install %s", program, in))
		}
	}
	if os.Geteuid() != 0 {
		missing(t, "only root runs a Docker engine")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not in t.TempDir, whose path may be too long for the name of a socket.
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	cgroup := "/" + filepath.Base(dir)
	defer func() {
		if err := errors.Join(removeCgroups(cgroup), os.RemoveAll(dir)); err != nil {
			t.Errorf("the engine left something behind: %v", err)
		}
	}()
	args = append([]string{
		"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
		// Engines that are killed leave processes, and look whether they are there still.
		"--", "docker-init", "--", self, "-test.paniconexit0",
	}, args...)
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), inside+"="+dir, client.EnvOverrideHost+"=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	return out.Bytes(), err
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("containers cannot be tested: %s", why)
	}
	_, _ = fmt.Fprintf(os.Stderr, "SKIPPED, containers are not tested: %s\n", why)
	t.Skip(why)
}

// start starts an engine in the namespaces that this process is in.
func start(t testing.TB, dir string, podman bool) *Daemon {
	t.Helper()
	for _, line := range []string{
		"ip link set lo up",
		"mount -t tmpfs none /run",
		"mkdir -p /run/netns /run/lock /run/containerd",
	} {
		args := strings.Fields(line)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	d := &Daemon{
		Host:   "unix://" + dir + "/engine.sock",
		Podman: podman,
		t:      t,
		dir:    dir,
		cgroup: "/" + filepath.Base(dir),
	}
	var err error
	if d.API, err = client.New(client.WithHost(d.Host)); err != nil {
		t.Fatal(err)
	}
	stopRuntime := func() {}
	if !podman {
		stopRuntime = d.startContainerd()
	}
	d.Start()
	t.Cleanup(func() {
		d.Stop()
		stopRuntime()
		if err := d.API.Close(); err != nil {
			t.Error(err)
		}
	})
	d.Import(Image, container.Config{})
	return d
}

const containerdSocket = "/run/containerd/containerd.sock"

// startContainerd starts what has containers, apart from the engine as on people's
// machines: an engine that was killed finds it again.
func (d *Daemon) startContainerd() (stop func()) {
	d.t.Helper()
	config := filepath.Join(d.dir, "containerd.toml")
	text := "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(d.dir, "containerd.log"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", config, "--address", containerdSocket,
		"--root", filepath.Join(d.dir, "containerd"), "--state", "/run/containerd/state")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // how is of no account
	}
}

// Start starts the engine, again after Stop or Kill, and returns when it answers.
func (d *Daemon) Start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "engine.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	if d.Podman {
		d.process = d.podman()
	} else {
		d.process = d.docker()
	}
	d.process.Stdout, d.process.Stderr = log, log
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	for late := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err = d.API.Ping(context.Background(), client.PingOptions{NegotiateAPIVersion: true}); err == nil {
			return
		}
		if time.Now().After(late) {
			said, _ := os.ReadFile(log.Name())
			d.t.Fatalf("the engine does not answer: %v\n%s", err, said)
		}
	}
}

// docker is the command of Docker's engine.
func (d *Daemon) docker() *exec.Cmd {
	_ = os.Remove("/run/docker.pid") // of one that was killed
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(d.dir, "root"), "--exec-root", "/run/docker",
		"--pidfile", "/run/docker.pid", "-H", d.Host, "--containerd", containerdSocket, "--bip", "172.30.0.1/24",
		"--storage-driver", "overlay2",
		"--cgroup-parent", d.cgroup, "--live-restore", "--group", "root")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// Kill ends the engine at once. What runs goes on.
func (d *Daemon) Kill() { d.end(syscall.SIGKILL) }

// Stop ends the engine. What runs goes on.
func (d *Daemon) Stop() { d.end(syscall.SIGTERM) }

func (d *Daemon) end(sig syscall.Signal) {
	if d.process == nil {
		return
	}
	_ = d.process.Process.Signal(sig) // it may have ended
	_ = d.process.Wait()              // how is of no account
	d.process = nil
}

// Import makes an image of busybox.
func (d *Daemon) Import(ref string, config container.Config) {
	d.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		d.t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		d.t.Fatal(err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(h tar.Header, content []byte) { addTo(d.t, w, h, content) }
	for dir, mode := range map[string]int64{"bin/": 0o755, "etc/": 0o755, "www/": 0o755, "data/": 0o1777, "tmp/": 0o1777} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: mode}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
		[]byte("root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nweb:x:1000:\nnogroup:x:65534:\n"))
	if err := w.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.load(d.t, ref, archive.Bytes(), config)
}

// removeCgroups removes the cgroups of an engine that has ended with all it ran.
func removeCgroups(name string) (err error) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + name) // a pattern without fault
	tops = append(tops, "/sys/fs/cgroup"+name)
	for _, top := range tops {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			for late := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				e := syscall.Rmdir(dirs[i])
				if !errors.Is(e, syscall.EBUSY) || time.Now().After(late) { // its processes are being buried
					if e != nil && !errors.Is(e, fs.ErrNotExist) {
						err = errors.Join(err, fmt.Errorf("%s: %w", dirs[i], e))
					}
					break
				}
			}
		}
	}
	return err
}
