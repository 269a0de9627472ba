package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// waitTimeout is how long what must come is waited for: long enough for a machine that has
// much else to do.
const waitTimeout = 5 * time.Minute

// registry is one that gives nothing as it should, each name in its own way.
func registry(t *testing.T) (host string) {
	answer := func(w http.ResponseWriter, status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"errors": [{"code": %q, "message": "said by a test"}]}`, code)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		switch name {
		case "denied":
			answer(w, http.StatusForbidden, "DENIED")
		case "missing":
			answer(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		case "broken":
			answer(w, http.StatusInternalServerError, "UNKNOWN")
		case "other":
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			_, _ = io.WriteString(w, `{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
				"config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": "sha256:`+strings.Repeat("cd", 32)+`"}, "layers": []}`)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestEngine(t *testing.T) { enginetest.Run(t, testEngine) }

func TestPodman(t *testing.T) { enginetest.RunPodman(t, testEngine) }

func testEngine(t *testing.T, d *enginetest.Daemon) {
	e, err := engine.Open(d.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	image, err := e.Resolve(ctx, enginetest.Image, engine.PullOnce, engine.Login{})
	if err != nil {
		t.Fatal(err)
	}

	run := func(t *testing.T, s engine.Spec) string {
		t.Helper()
		s.Image = image.ID
		id, err := e.Create(ctx, s)
		if err == nil {
			err = e.Start(ctx, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Remove(context.Background(), id); err != nil {
				t.Error(err)
			}
		})
		return id
	}
	sh := func(text string) []string { return []string{"/bin/sh", "-c", text} }

	t.Run("served, logged, ended", func(t *testing.T) {
		id := run(t, engine.Spec{
			Command: sh(
				"echo hello > /www/index.html; httpd -p 80 -h /www; echo out; echo err >&2; trap 'exit 7' TERM; sleep 1000 & wait"),
			Port:     80,
			HostPort: 18080,
			Labels:   map[string]string{"of": "this test"},
		})
		printed := make(chan string, 10)
		go e.Logs(ctx, id, engine.Position{}, func(_ engine.Position, line []byte) { printed <- string(line) })
		var got []string
		for range 2 {
			select {
			case line := <-printed:
				got = append(got, line)
			case <-ctx.Done():
				t.Fatalf("it printed %q and no more", got)
			}
		}
		if s := strings.Join(got, ""); s != "out\nerr\n" && s != "err\nout\n" {
			t.Errorf("it printed %q", got)
		}
		resp, err := http.Get("http://127.0.0.1:18080/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("it answers %s", resp.Status)
		}
		all, err := e.List(ctx, "of", "this test")
		if err != nil || len(all) != 1 || all[0].ID != id || !all[0].Running {
			t.Errorf("found by its label: %+v, %v", all, err)
		}
		if sent, err := e.Signal(ctx, id, "SIGTERM"); err != nil || !sent {
			t.Fatal(sent, err)
		}
		end, err := e.Wait(ctx, id)
		if err != nil || end.Code != 7 {
			t.Errorf("it ended %+v, %v", end, err)
		}
	})

	t.Run("a command in it", func(t *testing.T) {
		id := run(t, engine.Spec{Command: sh("sleep 1000")})
		var out bytes.Buffer
		code, err := e.Exec(ctx, id, printing(sh("echo sick; exit 3"), &out))
		if err != nil || code != 3 || out.String() != "sick\n" {
			t.Errorf("%d %q %v", code, out.String(), err)
		}
		// Given up before it has started, while it does, and after that.
		for _, d := range []time.Duration{5 * time.Millisecond, 60 * time.Millisecond, 200 * time.Millisecond} {
			short, stop := context.WithTimeout(ctx, d)
			if _, err := e.Exec(short, id, printing(sh("sleep 999"), &out)); err == nil {
				t.Error("what hangs is not given up")
			}
			stop()
		}
		out.Reset()
		for late := time.Now().Add(waitTimeout); ; {
			out.Reset()
			if _, err := e.Exec(ctx, id, printing(sh("ps"), &out)); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), "sleep 999") {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("what was given up goes on:\n%s", out.String())
			}
		}
	})

	t.Run("how it ended", func(t *testing.T) {
		for _, c := range []struct {
			name   string
			spec   engine.Spec
			do     func(id string) error
			reason engine.Reason
			code   int
		}{
			{name: "by itself", spec: engine.Spec{Command: sh("exit 4")}, code: 4},
			{
				name: "stopped by hand",
				spec: engine.Spec{Command: sh("sleep 1000")},
				do: func(id string) error {
					_, err := e.Signal(ctx, id, "SIGKILL")
					return err
				},
				reason: engine.ReasonStoppedByHand,
				code:   137,
			},
			{
				name:   "removed by hand",
				spec:   engine.Spec{Command: sh("sleep 1000")},
				do:     func(id string) error { return e.Remove(ctx, id) },
				reason: engine.ReasonRemoved,
				code:   -2,
			},
			{
				name: "out of memory",
				// It ends once its engine has said what was ended in it: one that hears of the end
				// before the reason never tells it. An engine that has only begun to listen may have
				// missed it the first time.
				spec: engine.Spec{
					Command: sh(`until test -e /told; do
						(x=0123456789; while :; do x=$x$x; done)
						code=$?
						for i in $(seq 40); do test -e /told && break; sleep 0.05; done
					done
					exit $code`),
					Memory: 8 << 20,
				},
				do: func(id string) error {
					told := d.API.Events(ctx, client.EventsListOptions{
						Since:   strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10),
						Filters: make(client.Filters).Add("container", id).Add("event", string(events.ActionOOM)),
					})
					select {
					case <-told.Messages:
					case err := <-told.Err:
						return err
					}
					for tries := 1; ; tries++ { // memory may be short for this one too
						code, err := e.Exec(ctx, id, engine.Command{
							Argv:    []string{"touch", "/told"},
							Streams: tty.Streams{Out: io.Discard, Err: io.Discard},
						})
						switch {
						case err == nil && code == 0:
							return nil
						case tries == 20:
							return fmt.Errorf("touch exited %d: %w", code, err)
						}
					}
				},
				reason: engine.ReasonOutOfMemory,
				code:   137,
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				if d.Podman && c.reason == engine.ReasonOutOfMemory {
					return // with cgroups of version 1, as CI has, Podman 4 does not know
				}
				id := run(t, c.spec)
				if c.do != nil {
					if err := c.do(id); err != nil {
						t.Fatal(err)
					}
				}
				end, err := e.Wait(ctx, id)
				if err != nil || end.Reason != c.reason || c.code != -2 && end.Code != c.code {
					t.Fatalf("%+v, %v", end, err)
				}
			})
		}
	})

	t.Run("images that cannot be had", func(t *testing.T) {
		for ref, want := range map[string]engine.Reason{
			"Not A Reference":                   engine.ReasonImageInvalid,
			"127.0.0.1:1/nobody/listens:1":      engine.ReasonRegistryUnavailable,
			"registry.invalid/nobody/answers:1": engine.ReasonRegistryUnavailable,
		} {
			_, err := e.Resolve(ctx, ref, engine.PullOnce, engine.Login{})
			if engine.ReasonOf(err) != want || err.Error() == "" {
				t.Errorf("%s: %s: %v", ref, engine.ReasonOf(err), err)
			}
		}
		if _, err := e.Resolve(ctx, enginetest.Image, engine.PullAlways,
			engine.Login{}); engine.ReasonOf(err) != engine.ReasonRegistryUnavailable {
			t.Errorf("what is there was taken for what the registry has: %v", err)
		}
		host := registry(t)
		for ref, want := range map[string]engine.Reason{
			host + "/denied:1":  engine.ReasonImageDenied,
			host + "/missing:1": engine.ReasonImageNotFound,
			host + "/broken:1":  engine.ReasonRegistryUnavailable,
			host + "/other@sha256:" + strings.Repeat("ab", 32): engine.ReasonDigestMismatch,
		} {
			_, err := e.Resolve(ctx, ref, engine.PullOnce, engine.Login{})
			if engine.ReasonOf(err) != want {
				t.Errorf("%s: %s: %v", ref, engine.ReasonOf(err), err)
			}
		}
		if _, err := e.Resolve(ctx, "nobody/has:this", engine.PullNever,
			engine.Login{}); engine.ReasonOf(err) != engine.ReasonImageNotFound {
			t.Error(err)
		}
	})

	t.Run("an image's own check", func(t *testing.T) {
		d.Import("headgate.test/checked:1", container.Config{Healthcheck: &container.HealthConfig{
			Test:        []string{"CMD-SHELL", "test -e /ready"},
			Interval:    7 * time.Second,
			StartPeriod: 9 * time.Second,
		}})
		image, err := e.Resolve(ctx, "headgate.test/checked:1", engine.PullMissing, engine.Login{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Podman {
			if image.Health != nil { // version 4 says none of it by Docker's API
				t.Errorf("doc/services.md says that Podman tells no check, and it tells %+v", *image.Health)
			}
			return
		}
		got := fmt.Sprintf("%+v", *image.Health)
		if want := "{Test:[/bin/sh -c test -e /ready] Interval:7s Timeout:0s StartPeriod:9s Retries:0}"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})

	t.Run("the engine is away and back", func(t *testing.T) {
		id := run(t, engine.Spec{Command: sh("while [ ! -e /end ]; do sleep 0.1; done; echo last; exit 5")})
		ended := make(chan engine.End, 1)
		go func() {
			end, err := e.Wait(ctx, id)
			if err != nil {
				t.Error(err)
			}
			ended <- end
		}()
		d.Kill()
		if err := e.Ping(ctx); engine.ReasonOf(err) != engine.ReasonEngineUnavailable {
			t.Errorf("without an engine: %v", err)
		}
		d.Start()
		if _, err := e.Exec(ctx, id, printing(sh("touch /end"), &bytes.Buffer{})); err != nil {
			t.Fatal(err)
		}
		if end := <-ended; end.Code != 5 || end.Reason != "" {
			t.Errorf("%+v", end)
		}
	})
}

// printing is a command whose output goes to out.
func printing(argv []string, out *bytes.Buffer) engine.Command {
	return engine.Command{Argv: argv, Streams: tty.Streams{Out: out, Err: out}}
}
