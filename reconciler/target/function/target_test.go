package function

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

const spec = `version: 0.0
Resources:
  - hello: {Type: AWS::Lambda::Function, Properties: {Name: hello, Alias: live}}
`

// unpackSelf is what an artifact unpacks to: the test binary as bootstrap.
func unpackSelf(_ context.Context, digest, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, place := range []string{".", "plain", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, place), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "digest"), []byte(digest), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "plain", "bootstrap"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		return err
	}
	return exec.Command("cp", "--reflink=auto", self, filepath.Join(dir, "bootstrap")).Run()
}

func release(n int) target.Release {
	return target.Release{Number: n, Commit: "abc", Artifacts: map[string]string{"main": fmt.Sprintf("sha256:%064x", n)}}
}

func files(settings string) target.Files {
	f := target.Files{"appspec.yml": []byte(spec)}
	if settings != "" {
		f[settingsFile] = []byte(settings)
	}
	return f
}

func newTarget(t testing.TB) *Target {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	f := New(t.TempDir(), t.TempDir(), unpackSelf)
	f.Records.Dir = filepath.Join(f.Dir, "sandboxes")
	f.initTimeout = 5 * time.Minute // on a busy machine
	if testing.Verbose() {
		f.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	t.Cleanup(func() {
		if err := unpacked.RemoveTree(f.Dir); err != nil {
			t.Error(err)
		}
	})
	return f
}

// TestContract holds the target to its contract, with processes in their sandbox.
func TestContract(t *testing.T) {
	t.Parallel()
	targettest.Run(t, func(t *testing.T) targettest.Subject {
		return targettest.Subject{
			Target: newTarget(t),
			Good:   files(""),
			Broken: files("functions: {hello: {environment: {DO: exit}}}\n"),
			Bad: map[string]target.Files{
				"appspec.yml":     {"other.yml": nil},
				"appspec.yml:1:1": {"appspec.yml": []byte("version: 0.0\nos: linux\n")},
				"function.yaml:2": files("functions:\n  hello: {memry: 128}\n"),
			},
			Release: release,
		}
	})
}

// harness is a target that runs, with one application.
type harness struct {
	testing.TB
	target *Target
	key    target.Key
	last   target.Declared
	stop   func()
}

func newHarness(t testing.TB) *harness {
	h := &harness{TB: t, target: newTarget(t),
		key: target.Key{Repository: "shop", Application: "shop", Environment: "production"}}
	h.start()
	return h
}

func (h *harness) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.target.Run(ctx) }()
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			h.Error(err)
		}
	}
	h.Cleanup(h.stop)
}

// restart runs another target in the same directory, as a server that is started again.
func (h *harness) restart() {
	h.Helper()
	h.stop()
	f := New(h.target.Dir, h.target.LogDir, unpackSelf)
	f.Unpack, f.awsOptions = h.target.Unpack, h.target.awsOptions
	f.Records, f.Log, f.now, f.initTimeout = h.target.Records, h.target.Log, h.target.now, h.target.initTimeout
	h.target = f
	h.start()
	h.target.Converge(h.last)
}

func (h *harness) declare(sequence, n int, f target.Files) {
	h.last = target.Declared{
		Key:      h.key,
		Commit:   fmt.Sprintf("commit-%d", sequence),
		Sequence: sequence,
		Files:    f,
		Release:  release(n),
	}
	h.target.Converge(h.last)
}

func (h *harness) await(what string, ok func(target.Observed) bool) target.Observed {
	h.Helper()
	changed, end := h.target.Watch(h.key)
	defer end()
	late := time.After(2 * time.Minute)
	for {
		o := h.target.Observe(h.key)
		if ok(o) {
			return o
		}
		select {
		case <-changed:
		case <-late:
			h.Fatalf("not %s: %+v", what, o)
		}
	}
}

func (h *harness) healthy(sequence int) target.Observed {
	h.Helper()
	return h.await("healthy", func(o target.Observed) bool {
		if o.State == target.Failed {
			h.Fatalf("failed: %s", o.Message)
		}
		return o.State == target.Healthy && o.Sequence == sequence
	})
}

func (h *harness) failed(sequence int) target.Observed {
	h.Helper()
	return h.await("failed", func(o target.Observed) bool { return o.State == target.Failed && o.Sequence == sequence })
}

// invoke calls the invoke API.
func (h *harness) invoke(function, event string, header ...string) (*http.Response, string) {
	h.Helper()
	h.target.mu.Lock()
	a := h.target.apps[h.key]
	h.target.mu.Unlock()
	name, query, _ := strings.Cut(function, "?")
	return h.post(a.invokeURL()+"/2015-03-31/functions/"+name+"/invocations?"+query, event, header...)
}

func (h *harness) post(url, body string, header ...string) (*http.Response, string) {
	h.Helper()
	return h.request(http.MethodPost, url, body, header...)
}

// TestInvoke: a program built with github.com/aws/aws-lambda-go runs unchanged, and is
// told what Lambda tells.
func TestInvoke(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.declare(1, 1, files("functions: {hello: {environment: {GREETING: hi}, memory: 256, timeout: 5m}}\n"))
	o := h.healthy(1)
	if len(o.Units) != 1 || o.Units[0].Release != 1 || o.Units[0].URL == "" || len(o.Units[0].Instances) != 1 {
		t.Errorf("there are the units %+v", o.Units)
	}
	resp, said := h.invoke("hello:live", `{"Text": "ann"}`)
	var got map[string]any
	if err := json.Unmarshal([]byte(said), &got); err != nil || resp.StatusCode != 200 ||
		resp.Header.Get("X-Amz-Function-Error") != "" {
		t.Fatalf("%s: %s", resp.Status, said)
	}
	if got["request"] != resp.Header.Get("X-Amzn-Requestid") || resp.Header.Get("X-Amz-Executed-Version") != "1" {
		t.Errorf("answered with %v", resp.Header)
	}
	for name, want := range map[string]any{
		"text": "ann", "greeting": "hi", "version": "1", "name": "hello", "memory": "256", "handler": "bootstrap",
		"root": "/var/task", "dir": "/var/task", "left": true,
		"arn": "arn:aws:lambda:local:000000000000:function:hello:live",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, not %v", name, got[name], want)
		}
	}

	// One that is warm is used again; also by other ways to say its name.
	for _, name := range []string{"hello", "hello:$LATEST", "hello:1", "hello%3Alive", "hello?Qualifier=live",
		"arn:aws:lambda:eu-north-1:123456789012:function:hello:live", "arn:aws:lambda:eu-north-1:123456789012:function:hello"} {
		resp, said := h.invoke(name, `{}`)
		var again map[string]any
		if err := json.Unmarshal([]byte(said), &again); err != nil || again["started"] != got["started"] {
			t.Errorf("%s: %s: %s", name, resp.Status, said)
		}
	}
	// The task is read-only, /tmp is its own.
	_, said = h.invoke("hello:live", `{"Do": "write"}`)
	if want := `{"task":"open /var/task/x: read-only file system","tmp":"<nil>","usr":"open /usr/x: read-only file system"}`; said != want {
		t.Errorf("it may write: %s", said)
	}
	for _, c := range []struct {
		name, function, event string
		header                []string
		status                int
		says, functionError   string
	}{
		{"no such function", "other", `{}`, nil, 404, "ResourceNotFoundException", ""},
		{"no such alias", "hello:dead", `{}`, nil, 404, "ResourceNotFoundException", ""},
		{"no such version", "hello:9", `{}`, nil, 404, "ResourceNotFoundException", ""},
		{"no JSON", "hello:live", `{`, nil, 400, "InvalidRequestContentException", ""},
		{"too much", "hello:live", `"` + strings.Repeat("x", maxPayload) + `"`, nil, 413, "RequestTooLargeException", ""},
		{"from a page", "hello:live", `{}`, []string{"Origin", "http://evil.example"}, 403, "AccessDeniedException", ""},
		{"dry run", "hello:live", `{"Do":"exit"}`, []string{"X-Amz-Invocation-Type", "DryRun"}, 204, "", ""},
		{"odd type", "hello:live", `{}`, []string{"X-Amz-Invocation-Type", "Later"}, 400,
			"InvalidParameterValueException", ""},
		{"handler error", "hello:live", `{"Do":"fail"}`, nil, 200,
			`{"errorMessage":"it does not work","errorType":"errorString"}`, "Unhandled"},
		{"panic", "hello:live", `{"Do":"panic"}`, nil, 200, `"errorMessage":"it is broken"`, "Unhandled"},
		{"exit", "hello:live", `{"Do":"exit"}`, nil, 200, "Runtime exited with error: exit status 7", "Unhandled"},
		{"large answer", "hello:live", `{"Do":"large"}`, nil, 200, "Function.ResponseSizeTooLarge", "Unhandled"},
		{"and well again", "hello:live", `{"Text":"bob"}`, nil, 200, `"text":"bob"`, ""},
	} {
		resp, said := h.invoke(c.function, c.event, c.header...)
		if resp.StatusCode != c.status || !strings.Contains(said, c.says) ||
			resp.Header.Get("X-Amz-Function-Error") != c.functionError {
			t.Errorf("%s: %s %q %.300s", c.name, resp.Status, resp.Header.Get("X-Amz-Function-Error"), said)
		}
	}

	// What it printed last is told to whoever asks: the end of it.
	resp, _ = h.invoke("hello:live", `{"Do": "print", "Text": "one line"}`, "X-Amz-Log-Type", "Tail")
	if log, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Amz-Log-Result")); err != nil ||
		string(log) != "one line\n" {
		t.Errorf("the log is %q, %v", log, err)
	}
	var printed []string
	for line, err := range h.target.Logs(t.Context(), h.key, target.LogQuery{Unit: "hello"}) {
		if err != nil {
			t.Fatal(err)
		}
		printed = append(printed, line.Text)
	}
	if !slices.Contains(printed, "one line") {
		t.Errorf("the logs are %q", printed)
	}
	resp, _ = h.invoke("hello:live", `{"Do": "flood"}`, "X-Amz-Log-Type", "Tail")
	if log, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Amz-Log-Result")); err != nil ||
		len(log) != logTail || resp.StatusCode != 200 {
		t.Errorf("after a flood the log has %d bytes, %v, %s", len(log), err, resp.Status)
	}
}

// TestTimeout: what hangs is ended, also where SIGTERM is ignored, and the next event is
// dealt with by another instance.
func TestTimeout(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.declare(1, 1, files("functions: {hello: {timeout: 1s, environment: {DO: ignores SIGTERM}}}\n"))
	h.healthy(1)
	resp, said := h.invoke("hello:live", `{"Do": "hang"}`)
	if resp.Header.Get("X-Amz-Function-Error") != "Unhandled" ||
		!strings.Contains(said, `"errorType":"Sandbox.Timedout"`) ||
		!strings.Contains(said, "Task timed out after 1.00 seconds") {
		t.Errorf("%s: %s", resp.Status, said)
	}
	h.await("without the instance", func(o target.Observed) bool { return len(o.Units[0].Instances) == 0 })
	h.declare(2, 1, files("functions: {hello: {timeout: 5m, environment: {DO: ignores SIGTERM}}}\n"))
	h.healthy(2)
	if resp, said := h.invoke("hello:live", `{"Text": "next"}`); !strings.Contains(said, `"text":"next"`) {
		t.Errorf("%s: %s", resp.Status, said)
	}
}

// TestConcurrency: as many instances as are allowed, and no more.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.declare(1, 1, files("functions: {hello: {concurrency: 2, timeout: 5m}}\n"))
	h.healthy(1)
	letGo := make(chan struct{})
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-letGo }))
	defer gate.Close()
	answers := make(chan int, 2)
	for range 2 {
		go func() {
			resp, _ := h.invoke("hello:live", fmt.Sprintf(`{"Do": "get", "Text": %q}`, gate.URL))
			answers <- resp.StatusCode
		}()
	}
	f := h.target.apps[h.key].view.Load().functions["hello"]
	for {
		f.mu.Lock()
		active := f.active
		f.mu.Unlock()
		if active == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	resp, said := h.invoke("hello:live", `{}`)
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("X-Amzn-Errortype") != "TooManyRequestsException" {
		t.Errorf("a third gets %s: %s", resp.Status, said)
	}
	// An event that nobody waits for waits itself.
	if resp, said := h.invoke("hello:live", `{"Do": "print", "Text": "later"}`, "X-Amz-Invocation-Type",
		"Event"); resp.StatusCode != 202 {
		t.Errorf("an event gets %s: %s", resp.Status, said)
	}
	close(letGo)
	for range 2 {
		if status := <-answers; status != 200 {
			t.Errorf("one of two got %d", status)
		}
	}
	for line, err := range h.target.Logs(t.Context(), h.key, target.LogQuery{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if line.Text == "later" {
			break
		}
	}
	if o := h.target.Observe(h.key); len(o.Units[0].Instances) != 2 {
		t.Errorf("there are %+v", o.Units[0].Instances)
	}
}

// TestRuntimeAPI: what a runtime may not do is refused, and does no harm.
func TestRuntimeAPI(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.declare(1, 1, files("functions: {hello: {timeout: 5m, environment: {DO: raw}}}\n"))
	h.healthy(1)
	resp, said := h.invoke("hello:live", `"twice"`)
	if said != `"first"` {
		t.Errorf("answered twice: %s: %s", resp.Status, said)
	}
	if _, said := h.invoke("hello:live", `"another"`, "X-Amz-Log-Type", "Tail"); said != `{"another": 400}` {
		t.Errorf("answered another event: %s", said)
	}
	if _, said := h.invoke("hello:live", `"next"`); said != `{"next": 403}` {
		t.Errorf("asked without an answer: %s", said)
	}
	if resp, said := h.invoke("hello:live",
		`"?"`); said != `{"errorType":"Odd","errorMessage":"what is that","stackTrace":[]}` || resp.Header.Get(
		"X-Amz-Function-Error") != "Unhandled" {
		t.Errorf("an error: %s", said)
	}
}

// TestNeverStarts: what cannot come up never gets a request, and says why.
func TestNeverStarts(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	sequence := 0
	for settings, want := range map[string]string{
		"{environment: {DO: exit}}":           "does not start: Runtime.ExitError: Runtime exited with error: exit status 3: no database",
		"{environment: {DO: init error}}":     "does not start: NoDatabase: there is no database",
		"{code: plain}":                       "hello: bootstrap is not executable; chmod +x it in the build",
		"{code: none}":                        "hello: the code has no file bootstrap at its top; build the program under that name, or say with code: in function.yaml where it is",
		"{code: nowhere}":                     "hello: the artifact has no nowhere; say with code: in function.yaml where the function is",
		"{code: digest}":                      "hello: digest of the artifact is neither a directory nor a zip file",
		"{artifact: web}":                     "release 1 has no artifact web; it has main",
		"{runtime: nodejs22.x, handler: i.h}": "hello: there is no runtime client of Node; add aws-lambda-ric",
	} {
		sequence++
		h.declare(sequence, 1, files("functions: {hello: "+settings+"}\n"))
		if o := h.failed(sequence); !strings.Contains(o.Message, want) {
			t.Errorf("%s: %s", settings, o.Message)
		}
		if resp, _ := h.invoke("hello:live", `{}`); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: the alias answers %s", settings, resp.Status)
		}
	}
	sequence++
	h.declare(sequence, 1, files(""))
	h.healthy(sequence)
}

func TestNeverAsks(t *testing.T) {
	t.Parallel()
	h := &harness{TB: t, target: newTarget(t),
		key: target.Key{Repository: "shop", Application: "shop", Environment: "production"}}
	h.target.initTimeout = 500 * time.Millisecond
	h.start()
	h.declare(1, 1, files("functions: {hello: {environment: {DO: never asks}}}\n"))
	want := "hello version 1 does not start: Sandbox.Timedout: initialization timed out after 0.50 seconds: it never asked for an event"
	if o := h.failed(1); o.Message != want {
		t.Errorf("it says %s", o.Message)
	}
}
