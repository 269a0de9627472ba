package function

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

// lambdaService is what AWS Lambda's REST API does for functions, versions and aliases, as it
// is documented (2015-03-31). It was not compared with AWS itself.
type lambdaService struct {
	t testing.TB

	mu        sync.Mutex
	functions map[string]*lambdaFunction
	moves     []string       // of aliases
	fail      map[string]int // by "METHOD last part of the path": status of the next requests
	hook      func(function string, payload []byte) (answer string, failed bool)
}

type lambdaFunction struct {
	code     string // its SHA-256
	busy     int    // how often it is in progress still
	versions []string
	aliases  map[string]lambdaAlias
}

type lambdaAlias struct {
	FunctionVersion string
	RoutingConfig   struct{ AdditionalVersionWeights map[string]float64 }
}

func newLambda(t testing.TB, functions ...string) *lambdaService {
	l := &lambdaService{t: t, functions: map[string]*lambdaFunction{}, fail: map[string]int{}}
	for _, name := range functions {
		l.functions[name] = &lambdaFunction{aliases: map[string]lambdaAlias{}}
	}
	return l
}

// connect has a target speak to it.
func (l *lambdaService) connect(f *Target) {
	server := httptest.NewServer(l)
	l.t.Cleanup(server.Close)
	f.awsOptions = []func(*config.LoadOptions) error{
		config.WithBaseEndpoint(server.URL), config.WithRegion("eu-central-1"),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", "")),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
}

func (l *lambdaService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	signed := r.Header.Get("Authorization")
	if !strings.HasPrefix(signed, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") ||
		!strings.Contains(signed, "/eu-central-1/lambda/aws4_request") || !strings.Contains(signed, "SignedHeaders=") {
		l.refuse(w, 403, "AccessDeniedException", "it is not signed: "+signed)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/2015-03-31/functions/"), "/")
	what := r.Method + " " + parts[min(1, len(parts)-1)]
	if status := l.fail[what]; status > 0 {
		l.refuse(w, status, "ServiceException", "it does not work now")
		return
	}
	f := l.functions[parts[0]]
	if f == nil {
		l.refuse(w, 404, "ResourceNotFoundException", "Function not found: "+parts[0])
		return
	}
	var in struct {
		ZipFile    []byte
		CodeSha256 string
		Name       string
		lambdaAlias
	}
	body, _ := io.ReadAll(r.Body)
	if what != "POST invocations" && len(body) > 0 {
		if err := json.Unmarshal(body, &in); err != nil {
			l.refuse(w, 400, "InvalidRequestContentException", err.Error())
			return
		}
	}
	switch what {
	case "PUT code":
		if _, err := zip.NewReader(bytes.NewReader(in.ZipFile), int64(len(in.ZipFile))); err != nil {
			l.refuse(w, 400, "InvalidParameterValueException", "Could not unzip uploaded file")
			return
		}
		sum := sha256.Sum256(in.ZipFile)
		f.code, f.busy = base64.StdEncoding.EncodeToString(sum[:]), 1
		l.answer(w, 200, map[string]any{"CodeSha256": f.code, "LastUpdateStatus": "InProgress"})
	case "GET configuration":
		status := "Successful"
		if f.busy > 0 {
			status = "InProgress"
			f.busy--
		}
		l.answer(w, 200, map[string]any{"State": "Active", "LastUpdateStatus": status})
	case "POST versions":
		if in.CodeSha256 != f.code || f.busy > 0 {
			l.refuse(w, 412, "PreconditionFailedException", "the code is another one, or the function is busy")
			return
		}
		if n := len(f.versions); n == 0 || f.versions[n-1] != f.code {
			f.versions = append(f.versions, f.code)
		}
		l.answer(w, 201, map[string]any{"Version": strconv.Itoa(len(f.versions)), "CodeSha256": f.code})
	case "POST aliases":
		if _, there := f.aliases[in.Name]; there {
			l.refuse(w, 409, "ResourceConflictException", "Alias already exists")
			return
		}
		l.put(w, 201, f, in.Name, in.lambdaAlias)
	case "POST invocations":
		answer, failed := l.hook(parts[0], body)
		if failed {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
		}
		fmt.Fprint(w, answer)
	default:
		if len(parts) != 3 || parts[1] != "aliases" {
			l.refuse(w, 404, "UnknownOperationException", what)
			return
		}
		at, there := f.aliases[parts[2]]
		switch {
		case !there:
			l.refuse(w, 404, "ResourceNotFoundException", "Cannot find alias arn")
		case r.Method == "GET":
			l.answer(w, 200, at)
		case r.Method == "PUT":
			l.put(w, 200, f, parts[2], in.lambdaAlias)
		case r.Method == "DELETE":
			delete(f.aliases, parts[2])
			w.WriteHeader(204)
		}
	}
}

func (l *lambdaService) put(w http.ResponseWriter, status int, f *lambdaFunction, name string, at lambdaAlias) {
	text := at.FunctionVersion
	for _, v := range slices.Sorted(maps.Keys(at.RoutingConfig.AdditionalVersionWeights)) {
		text += fmt.Sprintf(" %s:%g", v, at.RoutingConfig.AdditionalVersionWeights[v])
	}
	for _, v := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' }) {
		v, _, _ = strings.Cut(v, ":")
		if n, err := strconv.Atoi(v); err != nil || n < 1 || n > len(f.versions) {
			l.refuse(w, 404, "ResourceNotFoundException", "there is no version "+v)
			return
		}
	}
	f.aliases[name] = at
	l.moves = append(l.moves, text)
	l.answer(w, status, at)
}

func (l *lambdaService) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (l *lambdaService) refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("X-Amzn-ErrorType", kind)
	l.answer(w, status, map[string]string{"Type": "User", "Message": message})
}

// did are the moves of aliases since the last time.
func (l *lambdaService) did() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.Join(l.moves, ", ")
	l.moves = nil
	return text
}

func (l *lambdaService) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// TestContractAWS holds functions at AWS to the contract of targets, against lambdaService.
func TestContractAWS(t *testing.T) {
	t.Parallel()
	targettest.Run(t, func(t *testing.T) targettest.Subject {
		f := New(t.TempDir(), t.TempDir(), unpackSmall)
		newLambda(t, "hello").connect(f)
		return targettest.Subject{
			Target: f,
			Good:   files("engine: aws\n"),
			Broken: files("engine: aws\nfunctions: {hello: {code: nowhere}}\n"),
			Bad: map[string]target.Files{
				"appspec.yml":     {"other.yml": nil},
				"function.yaml:1": files("engine: gcp\n"),
				"function.yaml:2": files("engine: aws\nregion: Frankfurt\n"),
				"function.yaml:3": files("engine: aws\nfunctions:\n  hello: {memory: 256}\n"),
			},
			Release: release,
		}
	})
}

// remoteHarness is a target of functions at AWS that runs.
func remoteHarness(t *testing.T, l *lambdaService) *harness {
	h := &harness{TB: t, target: New(t.TempDir(), t.TempDir(), unpackSmall),
		key: target.Key{Repository: "shop", Application: "shop", Environment: "production"}}
	l.connect(h.target)
	h.start()
	return h
}

// unpackSmall is a bootstrap that is another one in each release.
func unpackSmall(ctx context.Context, digest, dir string) error {
	return os.WriteFile(filepath.Join(dir, "bootstrap"), []byte("#!/bin/sh\n# "+digest+"\n"), 0o755)
}

// TestAWS: versions and weights at AWS, hooks by invoking them, back to where the alias was on
// failure, drift, and a removal.
func TestAWS(t *testing.T) {
	t.Parallel()
	l := newLambda(t, "hello", "before")
	var asked []string
	var broken bool
	l.hook = func(function string, payload []byte) (string, bool) {
		var p struct{ DeploymentId, LifecycleEventHookExecutionId string }
		_ = json.Unmarshal(payload, &p)
		asked = append(asked, function+" "+p.DeploymentId)
		return `{"errorMessage": "it does not add up"}`, broken
	}
	h := remoteHarness(t, l)
	settings := "engine: aws\ndeployment: {strategy: canary, percent: 10, interval: 1s}\n" +
		"functions: {before: {artifact: main}}\n"
	declare := func(sequence, n int) target.Declared {
		d := target.Declared{Key: h.key, Commit: fmt.Sprintf("%040d", sequence), Sequence: sequence, Release: release(n),
			Files: files(settings)}
		d.Files["appspec.yml"] = []byte(spec + "Hooks: [{BeforeAllowTraffic: before}]\n")
		h.last = d
		h.target.Converge(d)
		return d
	}
	is := func(sequence int, state target.State) target.Observed {
		t.Helper()
		return awaitRemote(t, h, func(o target.Observed) bool { return o.Sequence == sequence && o.State == state })
	}
	declare(1, 1)
	is(1, target.Healthy)
	if did := l.did(); did != "1" {
		t.Errorf("at first: %s", did)
	}
	declare(2, 2)
	o := is(2, target.Healthy)
	if did := l.did(); did != "1 2:0.1, 2" || o.Units[0].Release != 2 {
		t.Errorf("canary: %s, %+v", did, o.Units)
	}
	// A hook that ends in an error has the alias stay.
	l.do(func() { broken = true })
	declare(3, 3)
	o = is(3, target.Failed)
	if did := l.did(); did != "" || !o.RollBack || !strings.Contains(o.Message, "it does not add up") {
		t.Errorf("a hook that failed: %s, %+v", did, o)
	}
	l.do(func() { broken = false })
	// The same again is the same version, by what is on record.
	declare(4, 2)
	is(4, target.Healthy)
	if did := l.did(); did != "" {
		t.Errorf("nothing to do: %s", did)
	}
	// Moved by hand it comes back.
	l.do(func() { l.functions["hello"].aliases["live"] = lambdaAlias{FunctionVersion: "1"} })
	h.restart()
	awaitRemote(t, h, func(o target.Observed) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return o.State == target.Healthy && l.functions["hello"].aliases["live"].FunctionVersion == "2"
	})
	l.do(func() {
		if want := []string{"before d-1-000000000000", "before d-2-000000000000"}; len(asked) < 3 ||
			!slices.Equal(asked[:2], want) {
			t.Errorf("asked %q", asked)
		}
	})
	h.target.Remove(h.key, 4)
	awaitRemote(t, h, func(o target.Observed) bool { return o.Commit == "" })
	l.do(func() {
		if f := l.functions["hello"]; len(f.aliases) != 0 || len(f.versions) != 3 {
			t.Errorf("after the removal: %+v", f)
		}
	})
}

// TestAWSFails: what AWS says is said; what passes is tried again, and ends at one version.
func TestAWSFails(t *testing.T) {
	t.Parallel()
	l := newLambda(t, "hello")
	h := remoteHarness(t, l)
	d := target.Declared{Key: h.key, Commit: "one", Sequence: 1, Release: release(1), Files: files("engine: aws\n")}
	h.last = d
	h.target.Converge(d)
	awaitRemote(t, h, func(o target.Observed) bool { return o.State == target.Healthy })
	l.did()
	l.do(func() { l.fail["PUT aliases"] = 503 })
	d.Commit, d.Sequence, d.Release = "two", 2, release(2)
	h.last = d
	h.target.Converge(d)
	awaitRemote(t, h, func(o target.Observed) bool {
		return o.Sequence == 2 && strings.Contains(o.Message, "it does not work now")
	})
	// It is restarted in the middle, with the alias on record and not moved.
	h.stop()
	l.do(func() { delete(l.fail, "PUT aliases") })
	h.restart()
	awaitRemote(t, h, func(o target.Observed) bool { return o.Sequence == 2 && o.State == target.Healthy })
	if did := l.did(); did != "2" {
		t.Errorf("moved: %s", did)
	}

	l.do(func() { delete(l.functions, "hello") })
	d.Commit, d.Sequence, d.Release = "three", 3, release(3)
	h.last = d
	h.target.Converge(d)
	o := awaitRemote(t, h, func(o target.Observed) bool { return o.Sequence == 3 && o.State == target.Failed })
	if !strings.Contains(o.Message, "AWS has no function hello in eu-central-1; create it there") {
		t.Errorf("%+v", o)
	}
}

// TestZip: the same code is the same zip file, with what may be run.
func TestZip(t *testing.T) {
	t.Parallel()
	f := New(t.TempDir(), t.TempDir(), unpackSmall)
	var made [2][]byte
	for i := range made {
		var err error
		if made[i], err = f.zipped(t.Context(), version{Digest: "one"}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := zip.NewReader(bytes.NewReader(made[0]), int64(len(made[0])))
	if err != nil || !bytes.Equal(made[0], made[1]) || len(r.File) != 1 || r.File[0].Name != "bootstrap" ||
		r.File[0].Mode()&0o111 == 0 {
		t.Errorf("%v, %+v", err, r)
	}
}

func awaitRemote(t *testing.T, h *harness, ok func(target.Observed) bool) target.Observed {
	t.Helper()
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
		case <-time.After(time.Second): // what is at AWS tells nobody
		case <-late:
			t.Fatalf("still %+v", o)
		}
	}
}
