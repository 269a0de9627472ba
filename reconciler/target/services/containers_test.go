package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	moby "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

// page is a service of two containers that says which release it is of.
const page = `services:
  web:
    image: headgate.test/busybox:1
    command:
      - /bin/sh
      - -c
      - |
        trap 'exit 0' TERM
        mkdir -p /tmp/www
        echo release $HEADGATE_RELEASE of $HEADGATE_INSTANCE > /tmp/www/index.html
        httpd -f -p $PORT -h /tmp/www & wait
    ports: ["0:8080"]
    x-headgate: {health: /, drain: 10m, passes: 1}
    healthcheck: {interval: 200ms, timeout: 1m, start_period: 10m}
    deploy: {replicas: 2}
`

// TestContainers holds containers to what processes are held to, with a real engine.
func TestContainers(t *testing.T) {
	enginetest.Run(t, func(t *testing.T, d *enginetest.Daemon) {
		t.Run("beside each other", func(t *testing.T) { testContainers(t, d) })
		t.Run("the engine is away", func(t *testing.T) { testEngineAway(t, d, openWith(t, d, t.TempDir(), t.TempDir())) })
	})
}

// TestPodman is what of TestContainers asks most of an engine.
func TestPodman(t *testing.T) {
	enginetest.RunPodman(t, func(t *testing.T, d *enginetest.Daemon) {
		t.Run("it goes on without an agent, and is found again", func(t *testing.T) {
			t.Parallel()
			testFoundAgain(t, inContainers(d))
		})
		testEach(t, d, map[string]engineTest{
			"seen and healed": testSeenAndHealed,
			"as declared":     testAsDeclared,
		})
	})
}

// engineTest is a test with a target of its own.
type engineTest func(t *testing.T, d *enginetest.Daemon, h *harness)

func testEach(t *testing.T, d *enginetest.Daemon, tests map[string]engineTest) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, d, openWith(t, d, t.TempDir(), t.TempDir()))
		})
	}
}

func inContainers(d *enginetest.Daemon) runsAs {
	return runsAs{
		of:   "    image: " + enginetest.Image + "\n",
		open: func(t *testing.T, dir, logs string) *harness { return openWith(t, d, dir, logs) },
	}
}

// openWith runs a target that uses an engine and keeps to directories.
func openWith(t *testing.T, d *enginetest.Daemon, dir, logs string) *harness {
	t.Helper()
	return openIn(t, dir, logs, func(s *Target) { s.Engine = d.Host })
}

func testContainers(t *testing.T, d *enginetest.Daemon) {
	t.Run("runner", func(t *testing.T) {
		t.Parallel()
		testRunner(t, inContainers(d))
	})
	t.Run("contract", func(t *testing.T) {
		t.Parallel()
		testContainersContract(t, d)
	})
	testEach(t, d, map[string]engineTest{
		"replaced without a failed request, and found again": testContainersReplaced,
		"an image that cannot be had":                        testImageMissing,
		"a registry with a password":                         testPrivateRegistry,
		"seen and healed":                                    testSeenAndHealed,
		"as declared":                                        testAsDeclared,
		"the release's own image":                            testOwnImage,
		"no engine":                                          testEngineMissing,
	})
}

func testContainersContract(t *testing.T, d *enginetest.Daemon) {
	compose := func(text string) target.Files { return target.Files{composeFile: []byte(text)} }
	good := strings.Replace(page, "replicas: 2", "replicas: 1", 1)
	targettest.RunParallel(t, func(t *testing.T) targettest.Subject {
		s := New(t.TempDir(), t.TempDir(), unpackSelf)
		s.Engine = d.Host
		return targettest.Subject{
			Target: s,
			Good:   compose(good),
			Broken: compose(strings.Replace(good, "trap 'exit 0' TERM", "exit 1", 1)),
			Bad:    map[string]target.Files{"compose.yaml:3": compose("services:\n  web:\n    image: Not An Image\n")},
			Release: func(n int) target.Release {
				return target.Release{Number: n, Commit: "abc", Artifacts: map[string]string{"main": digest(n)}}
			},
		}
	})
}

// loaded asks for a page again and again until stop is called, which says how often it
// was answered.
func loaded(t *testing.T, url string) (stop func() (answered int)) {
	ctx, cancel := context.WithCancel(context.Background())
	var answered atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			status, body, err := get(url)
			if err != nil || status != http.StatusOK || !strings.HasPrefix(body, "release ") {
				t.Errorf("a request failed: %d %q %v", status, body, err)
			}
			answered.Add(1)
		}
	}()
	return func() int {
		cancel()
		<-done
		return int(answered.Load())
	}
}

func instances(o target.Observed) (all []string) {
	for _, u := range o.Units {
		for _, in := range u.Instances {
			all = append(all, fmt.Sprintf("%s %d", in.ID, in.PID))
		}
	}
	slices.Sort(all)
	return all
}

func testContainersReplaced(t *testing.T, d *enginetest.Daemon, h *harness) {
	h.converge(1, page)
	first := h.await(target.Healthy)
	h.get("/", "release 1 of web-")
	stop := loaded(t, first.Units[0].URL)
	h.converge(2, page)
	second := h.await(target.Healthy)
	eventually(t, "release 1 is gone", func() (string, bool) {
		second = h.Observe(h.key())
		return fmt.Sprintf("%+v", second), len(second.Units[0].Instances) == 2
	})
	h.get("/", "release 2 of web-")
	if n := stop(); n == 0 {
		t.Error("nothing was asked meanwhile")
	}
	second = h.await(target.Healthy)
	h.leave()
	h2 := openWith(t, d, h.Dir, h.LogDir)
	h2.seq = h.seq
	if again := h2.await(target.Healthy); !slices.Equal(instances(second), instances(again)) {
		t.Errorf("there was %v, and there is %v", instances(second), instances(again))
	}
	h2.get("/", "release 2 of web-")
}

func testImageMissing(t *testing.T, d *enginetest.Daemon, h *harness) {
	h.converge(1, page)
	h.await(target.Healthy)
	// A tag is looked for three times, and then its release is failed.
	var asked atomic.Int64
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if r.URL.Path != "/v2/" {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				asked.Add(1)
			}
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "said by a test"}]}`)
		}
	}))
	defer registry.Close()
	h.converge(2, strings.NewReplacer("replicas: 2", "replicas: 1", "headgate.test/busybox:1",
		strings.TrimPrefix(registry.URL, "http://")+"/gone:1").Replace(page))
	if o := h.await(target.Failed); o.Reason != target.Reason(engine.ReasonImageNotFound) {
		t.Errorf("%s: %s", o.Reason, o.Message)
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("the registry was asked %d times", n)
	}
	h.get("/", "release 1 of web-")

	h.converge(3, strings.Replace(page, "image: headgate.test/busybox:1", "image: 127.0.0.1:1/no/such:1", 1))
	o := h.await(target.Failed)
	if o.Reason != target.Reason(engine.ReasonRegistryUnavailable) ||
		!strings.Contains(o.Message, "the registry of image 127.0.0.1:1/no/such:1 does not give it") {
		t.Errorf("%s: %s", o.Reason, o.Message)
	}
	h.get("/", "release 1 of web-")
}

// testSeenAndHealed: what somebody does to containers is seen, said, and put right.
func testSeenAndHealed(t *testing.T, d *enginetest.Daemon, h *harness) {
	one := strings.Replace(page, "replicas: 2", "replicas: 1", 1)
	h.converge(1, one)
	o := h.await(target.Healthy)
	container := func() string {
		t.Helper()
		all := containersOf(t, d, h.env)
		if len(all) != 1 {
			t.Fatalf("there are the containers %v", all)
		}
		return all[0]
	}
	for _, c := range []struct {
		do   func(name string) error
		says string
	}{
		{
			says: "somebody else", // has removed it, or had it end: it depends on when it is looked at
			do: func(name string) error {
				_, err := d.API.ContainerRemove(t.Context(), name, client.ContainerRemoveOptions{Force: true})
				return err
			},
		},
		{
			says: "as somebody else had the container engine do",
			do: func(name string) error {
				if d.Podman { // version 4 does not say that it was told to stop one
					_, err := d.API.ContainerKill(t.Context(), name, client.ContainerKillOptions{Signal: "SIGKILL"})
					return err
				}
				_, err := d.API.ContainerStop(t.Context(), name, client.ContainerStopOptions{})
				return err
			},
		},
	} {
		before := o.Units[0].Instances[0]
		if err := c.do(container()); err != nil {
			t.Fatal(err)
		}
		eventually(t, c.says, func() (string, bool) {
			o = h.Observe(h.key())
			lines, err := h.InstanceLog(h.key(), "web-1", 1000)
			text := fmt.Sprintf("%+v %v\n%s", o.Units[0].Instances, err, strings.Join(lines, "\n"))
			return text, o.State == target.Healthy && o.Units[0].Instances[0].Restarts > before.Restarts &&
				strings.Contains(text, c.says)
		})
		h.get("/", "release 1 of web-1")
	}

	// One that nobody has on record, with the labels of one that somebody has.
	name := container()
	found, err := d.API.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// It is left where drift is to be reported.
	reported := h.declared(1, 1, one)
	reported.Drift = target.Report
	h.Converge(reported)
	extra, err := d.API.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name:   "extra-" + h.env,
		Config: &moby.Config{Image: enginetest.Image, Cmd: []string{"sleep", "1000"}, Labels: found.Container.Config.Labels},
	})
	if err == nil {
		_, err = d.API.ContainerStart(t.Context(), extra.ID, client.ContainerStartOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	o = h.await(target.Degraded)
	if want := []target.Stray{{Unit: "web", Container: "extra-" + h.env}}; !slices.Equal(o.Strays, want) || !o.Unhealed {
		t.Errorf("%+v", o)
	}
	h.Converge(h.declared(1, 1, one))
	h.await(target.Healthy)
	eventually(t, "the extra container is gone, and no other", func() (string, bool) {
		all := containersOf(t, d, h.env)
		return fmt.Sprint(all), slices.Equal(all, []string{name})
	})
}

// containersOf are the names of the containers of an environment.
func containersOf(t testing.TB, d *enginetest.Daemon, env string) (all []string) {
	t.Helper()
	list, err := d.API.ContainerList(t.Context(), client.ContainerListOptions{
		All:     true,
		Filters: make(client.Filters).Add("label", labelEnvironment+"="+env),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list.Items {
		all = append(all, strings.TrimPrefix(c.Names[0], "/"))
	}
	return all
}

// testAsDeclared: a container has what is declared of it, and its volume survives.
func testAsDeclared(t *testing.T, d *enginetest.Daemon, h *harness) {
	compose := `services:
  web:
    image: headgate.test/busybox:1
    init: true
    user: "1000:1000"
    read_only: true
    tmpfs: [/tmp]
    volumes: ["data:/data"]
    mem_limit: 64m
    cpus: 0.5
    pids_limit: 50
    ulimits: {nofile: {soft: 1000, hard: 2000}, nproc: 20000}
    environment: {SAYS: "$HEADGATE_INSTANCE's"}
    command:
      - /bin/sh
      - -c
      - |
        mkdir /tmp/www
        (id -u; ulimit -n; touch /x 2>&1; echo $$SAYS; cat /data/was) > /tmp/www/index.html 2>&1
        echo release $HEADGATE_RELEASE >> /data/was
        exec httpd -f -p $PORT -h /tmp/www
    ports: ["0:8080"]
    x-headgate: {health: /, passes: 1}
    healthcheck: {interval: 200ms, timeout: 1m, start_period: 10m}
  asks:
    image: headgate.test/busybox:1
    command: [/bin/sh, -c, "trap 'exit 0' TERM; until wget -q -O /tmp/ready http://web:8080/; do sleep 0.1; done; sleep 1000 & wait"]
    ` + ready + `
volumes: {data: {}}
`
	h.converge(1, compose)
	h.await(target.Healthy) // asks has found web by its name
	page := func() string {
		t.Helper()
		for _, u := range h.Observe(h.key()).Units {
			if u.Name == "web" {
				_, body, err := get(u.URL)
				if err != nil {
					t.Fatal(err)
				}
				return body
			}
		}
		return ""
	}
	if got, want := page(), "1000\n1000\ntouch: /x: Read-only file system\nweb-1's\ncat: can't open '/data/was': No such file or directory\n"; got != want {
		t.Errorf("the container sees %q, want %q", got, want)
	}
	for _, name := range containersOf(t, d, h.env) {
		found, err := d.API.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := found.Container.HostConfig; strings.Contains(name, "-web-") &&
			(c.Memory != 64<<20 || c.NanoCPUs != 5e8 || *c.PidsLimit != 50 || !*c.Init || c.Privileged) {
			t.Errorf("it is limited to %+v", c.Resources)
		}
	}
	h.converge(2, compose)
	h.await(target.Healthy)
	if got := page(); !strings.HasSuffix(got, "\nrelease 1\n") {
		t.Errorf("the volume did not survive: %q", got)
	}
}

// testOwnImage: an image of the release needs no registry, and its own check counts.
func testOwnImage(t *testing.T, d *enginetest.Daemon, h *harness) {
	const ref = "headgate.test/own:1"
	d.Import(ref, moby.Config{
		Cmd: []string{"/bin/sh", "-c", "sleep 0.5; touch /tmp/ready; sleep 1000"},
		Healthcheck: &moby.HealthConfig{
			Test:     []string{"CMD-SHELL", "test -e /tmp/ready"},
			Interval: 100 * time.Millisecond,
			Retries:  1000,
		},
	})
	saved, err := d.API.ImageSave(t.Context(), []string{ref})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(saved)
	if err := errors.Join(err, saved.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.API.ImageRemove(t.Context(), ref, client.ImageRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	h.Archive = func(_ context.Context, of string, w io.Writer) error {
		if of != digest(7) {
			return fmt.Errorf("there is no image %s", of)
		}
		_, err := w.Write(archive)
		return err
	}
	declare := func(image string) {
		h.seq++
		dec := h.declared(h.seq, 1, "services:\n  web:\n    "+image+"\n    stop_grace_period: 0s\n")
		dec.Release.Images = map[string]string{"own": digest(7)}
		h.Converge(dec)
	}
	declare("x-headgate: {image: other}")
	if o := h.await(target.Failed); !strings.Contains(o.Message, `wants image "other", but release 1 has own`) {
		t.Error(o.Message)
	}
	declare("image: own")
	h.await(target.Healthy)
	lines, err := h.InstanceLog(h.key(), "web-1", 10)
	if err != nil || len(lines) == 0 {
		t.Errorf("%q %v", lines, err)
	}
}

// testEngineMissing: where there is no engine, what was promoted says so.
func testEngineMissing(t *testing.T, _ *enginetest.Daemon, _ *harness) {
	h := openIn(t, t.TempDir(), t.TempDir(), func(*Target) {})
	h.converge(1, page)
	o := h.await(target.Failed)
	if o.Reason != target.Reason(engine.ReasonEngineMissing) || !strings.Contains(o.Message, "apt-get install docker.io") {
		t.Errorf("%s: %s", o.Reason, o.Message)
	}
}

// testEngineAway: what is declared while the engine is away waits for it.
func testEngineAway(t *testing.T, d *enginetest.Daemon, h *harness) {
	h.converge(1, page)
	h.await(target.Healthy)
	d.Kill()
	h.converge(2, page)
	eventually(t, "it waits for the engine", func() (string, bool) {
		o := h.Observe(h.key())
		return fmt.Sprintf("%s %s: %s", o.State, o.Reason, o.Message),
			o.Reason == target.Reason(engine.ReasonEngineUnavailable)
	})
	d.Start()
	h.await(target.Healthy)
	h.get("/", "release 2 of web-")
}
