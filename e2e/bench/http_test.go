package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

var weight = flag.Int("weight", 300, "MiB of the repository that is cloned and pushed over HTTP")

// heavyTimeout is how long one clone or push of it may take.
const heavyTimeout = 5 * time.Minute

// BenchmarkHTTP: clone, push and ls-remote over HTTP, against git http-backend behind a Go
// server: as it comes, and made to check and keep what is pushed, as Headgate does.
func BenchmarkHTTP(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("true"))
	program, err := exec.LookPath("git")
	if err != nil {
		b.Fatal(err)
	}
	root := path(w.dir, "backend")
	theirs := httptest.NewServer(&cgi.Handler{Path: program, Args: []string{"http-backend"}, Env: []string{
		"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
	}})
	b.Cleanup(theirs.Close)
	var token struct {
		Token string `json:"token"`
	}
	made := w.run(b, w.dir, "ssh", w.login(w.SSH, "token", "create", "bench", "--write", "--json")...)
	if err := json.Unmarshal([]byte(made), &token); err != nil {
		b.Fatal(err)
	}
	host := strings.Replace(strings.TrimPrefix(w.HTTP, "http://"), "console.localhost:", "127.0.0.1:", 1)

	const ours, plain, careful = 0, 1, 2
	kinds := []string{"ours", "plain", "careful"}
	fresh := func(kind int, name string) (url string) {
		if kind == ours {
			w.run(b, w.dir, "ssh", w.login(w.SSH, "repo", "create", name)...)
			return "http://any:" + token.Token + "@" + host + "/" + name
		}
		dir := path(root, kinds[kind], name+".git")
		w.run(b, w.dir, "git", "init", "-q", "--bare", "-b", "main", dir)
		settings := []string{"http.receivepack=true", "gc.auto=0", "receive.autogc=false"}
		if kind == careful {
			settings = append(settings, "transfer.fsckObjects=true", "core.fsync=objects,derived-metadata,reference",
				"core.fsyncMethod=fsync")
		}
		for _, kv := range settings {
			key, value, _ := strings.Cut(kv, "=")
			w.run(b, dir, "git", "config", key, value)
		}
		return theirs.URL + "/" + kinds[kind] + "/" + name + ".git"
	}

	c := w.clone(b, "heavy", "")
	// What the client does of its own accord, most of it with random data, is not measured.
	for _, key := range []string{"core.compression", "pack.compression", "pack.window"} {
		c.git(b, "config", key, "0")
	}
	c.git(b, "config", "http.postBuffer", strconv.Itoa(2*(*weight)<<20)) // CGI takes nothing in chunks
	noise := make([]byte, 10<<20)
	for i := range max(1, *weight*(1<<20)/len(noise)) {
		_, _ = rand.Read(noise) // never fails
		if err := os.WriteFile(path(c.dir, fmt.Sprintf("noise-%d", i)), noise, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	c.git(b, "add", "-A")
	c.git(b, "commit", "-q", "-m", "Make noise")
	timed := func(dir string, args ...string) time.Duration {
		ctx, cancel := context.WithTimeout(context.Background(), heavyTimeout)
		defer cancel()
		began := time.Now()
		w.within(b, ctx, dir, "git", args...)
		return time.Since(began)
	}

	n := min(3, *runs)
	pushes, clones, lists := newSamples(len(kinds)), newSamples(len(kinds)), newSamples(len(kinds))
	urls := make([]string, len(kinds))
	for i := range n {
		for _, k := range turn(i, len(kinds)) {
			urls[k] = fresh(k, fmt.Sprint("heavy-", i))
			pushes.add(k, timed(c.dir, "push", "-q", urls[k], "HEAD:refs/heads/work"))
		}
	}
	for i := range n {
		for _, k := range turn(i, 2) {
			to := path(w.dir, "again")
			clones.add(k, timed(w.dir, "clone", "-q", "--bare", urls[k], to))
			if err := os.RemoveAll(to); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i := range *runs + warm {
		for _, k := range turn(i, 2) {
			if took := timed(w.dir, "ls-remote", urls[k]); i >= warm {
				lists.add(k, took)
			}
		}
	}

	t := newTable(fmt.Sprintf("%d MiB over HTTP", *weight))
	for i, name := range []string{"Headgate", "git http-backend, as it comes", "git http-backend, checking and syncing"} {
		t.row("push: "+name, pushes.of(i))
	}
	t.row("clone: Headgate", clones.of(ours))
	t.row("clone: git http-backend", clones.of(plain))
	t.row("ls-remote: Headgate", lists.of(ours))
	t.row("ls-remote: git http-backend", lists.of(plain))
	t.ratio("push: Headgate / git http-backend, as it comes", pushes.ratio(ours, plain), 1.1)
	t.ratio("push: Headgate / git http-backend, checking and syncing", pushes.ratio(ours, careful), 0)
	t.ratio("clone: Headgate / git http-backend", clones.ratio(ours, plain), 1.1)
	t.ratio("ls-remote: Headgate / git http-backend", lists.ratio(ours, plain), 0.75)
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(pushes.ratio(ours, plain), "push-x")
	b.ReportMetric(clones.ratio(ours, plain), "clone-x")
	b.ReportMetric(lists.ratio(ours, plain), "ls-remote-x")
}
