package hosts

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// checked is a host whose revision says in a file what was done, and what is declared with a
// healthcheck.
func checked(t *testing.T, sequence int, healthcheck string) (dir string, d target.Declared) {
	dir = t.TempDir()
	d = target.Declared{
		Key:      target.Key{Repository: "shop", Application: "shop", Environment: "production"},
		Commit:   "c1",
		Sequence: sequence,
		Files: target.Files{
			"appspec.yml": []byte("version: 0.0\nos: linux\nfiles: [{source: app, destination: " + dir + "/app}]\n" +
				"hooks:\n  ApplicationStop: [{location: stop.sh}]\n  ApplicationStart: [{location: start.sh}]\n"),
			FileName: []byte("healthcheck: " + healthcheck + "\n"),
		},
		Release: release(1),
	}
	return dir, d
}

// scripts is what an artifact unpacks to: its digest, and shell scripts.
func scripts(all map[string]string) func(context.Context, string, string) error {
	return func(ctx context.Context, digest, dir string) error {
		if err := revision(ctx, digest, dir); err != nil {
			return err
		}
		for name, text := range all {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
				return err
			}
		}
		return nil
	}
}

// words are those of a file, "" if there is none.
func words(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

// healthy reports whether it is, of a release.
func healthy(n int) func(target.Observed) bool {
	return func(o target.Observed) bool {
		return o.State == target.Healthy && len(o.Units) > 0 && o.Units[0].Release == n
	}
}

// TestHealthByCommand: what was started has to be well before the deployment succeeds; one that
// is not is put back, and what is not well any more is started again, or reported.
func TestHealthByCommand(t *testing.T) {
	dir, d := checked(t, 1, `{test: "test -e `+"DIR"+`/well || { echo it is not well; false; }", interval: 1s, timeout: 1m, retries: 2, start_period: 0s}`)
	said := func(d *target.Declared) {
		for name, data := range d.Files {
			d.Files[name] = []byte(strings.ReplaceAll(string(data), "DIR", dir))
		}
	}
	said(&d)
	starts := filepath.Join(dir, "starts")
	h := New(t.TempDir(), scripts(map[string]string{
		"start.sh": "echo started >>" + starts + "; touch " + dir + "/well",
		"stop.sh":  "echo stopped >>" + starts,
	}))
	running(t, h)
	h.Converge(d)
	await(t, h, d.Key, healthy(1))
	if got := words(t, starts); got != "started" {
		t.Errorf("it was %s", got)
	}
	// Not well any more: it is started again, once.
	if err := os.Remove(filepath.Join(dir, "well")); err != nil {
		t.Fatal(err)
	}
	await(t, h, d.Key, func(o target.Observed) bool {
		return healthy(1)(o) && words(t, starts) == "started stopped started"
	})
	// Or it is said.
	d.Drift = target.Report
	h.Converge(d)
	if err := os.Remove(filepath.Join(dir, "well")); err != nil {
		t.Fatal(err)
	}
	o := await(t, h, d.Key, func(o target.Observed) bool { return o.State == target.Degraded && o.Unhealed })
	if !strings.Contains(o.Message, "it is not healthy: ") || !strings.Contains(o.Message, "it is not well") ||
		words(t, starts) != "started stopped started" {
		t.Errorf("%+v; it was %s", o, words(t, starts))
	}
	if err := os.WriteFile(filepath.Join(dir, "well"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, h, d.Key, healthy(1))
}

// TestHealthByURL: a release that does not become well has the one before it back.
func TestHealthByURL(t *testing.T) {
	var status atomic.Int64
	status.Store(200)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte("so it is\n"))
	}))
	defer server.Close()
	dir, d := checked(t, 1, "{url: \""+server.URL+"/health\", interval: 1s, timeout: 1m, retries: 2, start_period: 0s}")
	h := New(t.TempDir(), scripts(map[string]string{"start.sh": "exit 0", "stop.sh": "exit 0"}))
	running(t, h)
	h.Converge(d)
	await(t, h, d.Key, healthy(1))
	status.Store(503)
	d.Commit, d.Sequence, d.Release = "c2", 2, release(2)
	h.Converge(d)
	o := await(t, h, d.Key, func(o target.Observed) bool { return o.State == target.Failed })
	if !strings.Contains(o.Message, "ApplicationStart: is not healthy: GET "+server.URL+"/health answered 503: so it is") ||
		!strings.Contains(o.Message, "the previous revision is put back") {
		t.Errorf("%+v", o)
	}
	if got := words(t, filepath.Join(dir, "app", "version")); got != "release 1" {
		t.Errorf("there is %s", got)
	}
}

// TestHealthIsRead: by file and line.
func TestHealthIsRead(t *testing.T) {
	for text, want := range map[string]string{
		"{test: ./check}":        "",
		"{url: \"http://a/b\"}":  "",
		"{}":                     "hosts.yaml:1: healthcheck has either a url or a test",
		"{test: a, url: \"b:\"}": "hosts.yaml:1: healthcheck.url is not an address",
		"{test: a, every: 1s}":   "hosts.yaml:1: ",
		"check":                  "hosts.yaml:1: ",
	} {
		_, d := checked(t, 1, text)
		problems, _ := Check("", d.Files)
		if want == "" && len(problems) > 0 || want != "" && (len(problems) == 0 || !strings.Contains(problems[0].Error(), want)) {
			t.Errorf("%s: %v", text, problems)
		}
	}
}
