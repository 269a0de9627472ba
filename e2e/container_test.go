package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
)

// containerCompose runs a web server of an image, which says what release it is of.
const containerCompose = `services:
  web:
    image: headgate.test/busybox:1
    init: true
    command:
      - /bin/sh
      - -c
      - mkdir -p /tmp/www; echo release $HEADGATE_RELEASE > /tmp/www/index.html; exec httpd -f -p $PORT -h /tmp/www
    ports: ["0:8080"]
    x-headgate: {health: /}
    healthcheck: {timeout: 1m, start_period: 10m}
`

// imageBuildspec is for a build in the image, which has a busybox and nothing else.
const imageBuildspec = `version: 0.2
phases:
  build:
    commands:
      - test ! -e /usr/bin/perl && echo "in $CODEBUILD_BUILD_IMAGE" && chown nobody words.txt
      - wget -q -O - http://db:8081/greeting
artifacts: {files: ['**/*']}
`

// imageSettings are of a build in the image, with a service beside it.
const imageSettings = `build:
  image: headgate.test/busybox:1
  services:
    db:
      image: headgate.test/busybox:1
      entrypoint: [sh, -c, 'echo good morning >/www/greeting; exec httpd -f -p 8081 -h /www']
      healthcheck: {test: wget -q -O /dev/null http://127.0.0.1:8081/greeting, interval: 100ms, timeout: 1m, start_period: 10m}
`

// TestContainersArePromoted: a compose.yaml with an image is promoted and answers
// through the proxy, a second release takes its place without a failed request, the
// agent's worker is killed and the same container goes on.
func TestContainersArePromoted(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t *testing.T, d *enginetest.Daemon) {
		h := prepared(t, plain)
		must := mustOf(t)
		must(h.start([]string{"DOCKER_HOST=" + d.Host}))
		_, err := h.ask("ada", "repo", "create", "hello")
		must(err)
		work := filepath.Join(h.dir, "hello")
		must(h.sample(work, "hello"))
		git := func(args ...string) {
			t.Helper()
			if _, errs, err := within(waitTimeout, work, h.env(), "git", args...); err != nil {
				t.Fatalf("git %v: %v: %s", args, err, errs)
			}
		}
		must(os.WriteFile(filepath.Join(work, "deploy", "staging", "compose.yaml"), []byte(containerCompose), 0o644))
		git("commit", "-qam", "Run an image")
		git("push", "-q", "origin", "main")

		// shown waits for staging to be as it is wanted.
		shown := func(want func(state, text string) bool) (url string) {
			t.Helper()
			var last string
			for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				var e struct {
					State string
					URLs  []string
				}
				last, _ = h.ask("ada", "env", "show", "hello", "staging", "--json")
				if json.Unmarshal([]byte(last), &e) == nil && len(e.URLs) > 0 && want(e.State, last) {
					return e.URLs[0]
				}
			}
			t.Fatalf("staging is not as wanted: %s\n%s", last, h.tail())
			return ""
		}
		healthy := func(state, _ string) bool { return state == "healthy" }
		url := shown(healthy)
		page := func() string {
			resp, err := http.Get(url)
			if err != nil {
				t.Errorf("a request failed: %v", err)
				return ""
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("a request failed: %s %q %v", resp.Status, body, err)
			}
			return strings.TrimSpace(string(body))
		}
		if got := page(); got != "release 1" {
			t.Errorf("it answers %q", got)
		}

		// The second release, asked for all the time.
		var asking sync.WaitGroup
		done := make(chan struct{})
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					page()
				}
			}
		})
		// It is built in a container of an image, with another one beside it; the verdict names
		// the digests of both.
		settings := filepath.Join(work, "headgate.yaml")
		text, err := os.ReadFile(settings)
		must(err)
		must(os.WriteFile(settings, append([]byte(imageSettings), text...), 0o644))
		must(os.WriteFile(filepath.Join(work, "buildspec.yml"), []byte(imageBuildspec), 0o644))
		git("commit", "-qam", "Again")
		git("push", "-q", "origin", "main")
		for deadline := time.Now().Add(waitTimeout); page() != "release 2"; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("release 2 does not come\n%s", h.tail())
			}
		}
		shown(healthy)
		verdict, errs, err := within(waitTimeout, work, h.env(), "sh", "-c",
			"git fetch -q origin refs/notes/verdicts && git log -p -1 --format= FETCH_HEAD")
		if err != nil || !strings.Contains(verdict, `"image":"headgate.test/busybox:1@sha256:`) ||
			!strings.Contains(verdict, `"services":[{"name":"db","image":"headgate.test/busybox:1@sha256:`) {
			t.Errorf("the verdict is %s, %v %s", verdict, err, errs)
		}
		containers := func() (all []string) {
			list, err := d.API.ContainerList(t.Context(), client.ContainerListOptions{All: true})
			must(err)
			for _, c := range list.Items {
				all = append(all, c.ID+" "+string(c.State))
			}
			return all
		}
		var before []string
		for deadline := time.Now().Add(waitTimeout); len(before) != 1; time.Sleep(20 * time.Millisecond) {
			if before = containers(); time.Now().After(deadline) {
				t.Fatalf("there are the containers %q", before)
			}
		}
		close(done)
		asking.Wait()

		// The same build on somebody's own machine.
		said, errs, err := within(waitTimeout, work, append(h.env(), "DOCKER_HOST="+d.Host),
			filepath.Join(h.bin, "headgate"), "run", "--image", "headgate.test/busybox:1")
		if err != nil || !strings.Contains(said, "\nin headgate.test/busybox:1@sha256:") ||
			!strings.Contains(said, "\ngood morning\n") {
			t.Errorf("headgate run: %v %s\n%s", err, errs, said)
		}
		// One that fails is entered where it ran; nothing is typed here.
		must(os.WriteFile(filepath.Join(work, "broken.yml"),
			[]byte("version: 0.2\nphases: {build: {commands: [exit 3]}}\n"), 0o644))
		if said, errs, err = within(waitTimeout, work, append(h.env(), "DOCKER_HOST="+d.Host), filepath.Join(h.bin, "headgate"),
			"run", "--image", "headgate.test/busybox:1", "-b", "broken.yml", "--shell"); err == nil ||
			!strings.Contains(errs, "the build has failed; this is its sandbox") {
			t.Errorf("headgate run --shell: %v %s\n%s", err, errs, said)
		}

		out, errs, err := within(waitTimeout, h.dir, h.env(), filepath.Join(h.bin, "headgate"), "agent", "status", "--json",
			"--data", h.data())
		if err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
		var status struct{ Agent struct{ Worker int } }
		must(json.Unmarshal([]byte(out), &status))
		must(syscall.Kill(status.Agent.Worker, syscall.SIGKILL))
		for deadline := time.Now().Add(waitTimeout); ; time.Sleep(20 * time.Millisecond) {
			out, _, err := within(waitTimeout, h.dir, h.env(), filepath.Join(h.bin, "headgate"), "agent", "status", "--json",
				"--data", h.data())
			if err == nil && !strings.Contains(out, `"worker":`+strconv.Itoa(status.Agent.Worker)+`,`) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no other worker came: %s %v", out, err)
			}
		}
		shown(healthy)
		if got := page(); got != "release 2" {
			t.Errorf("it answers %q", got)
		}
		if after := containers(); len(after) != 1 || after[0] != before[0] {
			t.Errorf("there was %q, and there is %q", before, after)
		}
		must(h.stopAgent())
		if left := containers(); len(left) != 0 {
			t.Errorf("containers are left over: %q", left)
		}
	})
}
