package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHTTPAccess: every address of git's, with every kind of credential: who is let
// in to do what, whatever else the client says.
func TestHTTPAccess(t *testing.T) {
	t.Parallel()
	h := served(t, raced)
	must := mustOf(t)
	must(h.addUser("jun"))
	must(h.configure(func(yaml string) string {
		yaml = strings.Replace(yaml, "repositories: {}\n", "", 1)
		return yaml + "\nrepositories:\n  hello: {}\n  open: {read: [], write: [ada], public: true}\n  vault: {read: [ada], write: [ada]}\n"
	}))
	create := func(user string, args ...string) string {
		t.Helper()
		out, err := h.ask(user, append([]string{"token", "create", "--json"}, args...)...)
		must(err)
		var made struct{ Token string }
		must(json.Unmarshal([]byte(out), &made))
		return made.Token
	}
	tokens := map[string]string{
		"none":  "",
		"wrong": "hg_000000000000000000000000000000000000",
		"read":  create("ada"),
		"write": create("ada", "--write"),
		"hello": create("ada", "--write", "--repository", "hello"),
		"jun":   create("jun", "--write"),
	}
	ask := func(method, path, authorization, kind string, body io.Reader, header ...string) (int, http.Header, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, h.HTTP+path, body)
		must(err)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		r.Header.Set("Content-Type", kind)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s %s as %q: %v", method, path, kind, err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		must(err)
		return resp.StatusCode, resp.Header, string(text)
	}
	basic := func(token string) string {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth("whoever", token)
		return r.Header.Get("Authorization")
	}

	const refs, fetch, push = "/info/refs?service=git-upload-pack", "/git-upload-pack", "/git-receive-pack"
	const pushRefs = "/info/refs?service=git-receive-pack"
	all := []string{"none", "read", "write", "hello", "jun"}
	for _, r := range []struct {
		repository string
		paths      []string
		want       []int // as all
	}{
		{"hello", []string{refs, fetch, fetch + "?service=git-receive-pack"}, []int{401, 200, 200, 200, 200}},
		{"hello", []string{pushRefs, push, push + "?service=git-upload-pack"}, []int{401, 403, 200, 200, 200}},
		{"open", []string{refs, fetch}, []int{200, 200, 200, 404, 200}},
		{"open", []string{pushRefs, push}, []int{401, 403, 200, 404, 403}},
		{"vault", []string{refs, fetch}, []int{401, 200, 200, 404, 404}},
		{"vault", []string{pushRefs, push}, []int{401, 403, 200, 404, 404}},
		{"headgate", []string{refs, fetch}, []int{401, 200, 200, 404, 404}},
		{"headgate", []string{pushRefs, push}, []int{401, 403, 403, 404, 404}},
		{"nowhere", []string{refs, fetch, pushRefs, push}, []int{401, 404, 404, 404, 404}},
	} {
		for _, path := range r.paths {
			for i, who := range all {
				for suffix, authorization := range map[string]string{"": basic(tokens[who]), ".git": "Bearer " + tokens[who]} {
					if who == "none" {
						authorization = ""
					}
					method, kind, body := "GET", "", io.Reader(nil)
					if service, _, _ := strings.Cut(path, "?"); service != "/info/refs" {
						method, kind, body = "POST", "application/x-"+service[1:]+"-request", strings.NewReader("0000")
					}
					url := "/" + r.repository + suffix + path
					got, header, text := ask(method, url, authorization, kind, body)
					scheme, _, _ := strings.Cut(authorization, " ")
					if got != r.want[i] {
						t.Errorf("%s %s with %s %s: %d, want %d\n%s", method, url, scheme, who, got, r.want[i], text)
					}
					if challenge := header.Get("WWW-Authenticate"); (got == 401) != strings.HasPrefix(challenge,
						`Basic realm="headgate"`) {
						t.Errorf("%s %s with %s %s: %d, and the challenge %q", method, url, scheme, who, got, challenge)
					}
				}
			}
		}
	}

	// A token is for Git: with it, as with none, every page asks for a session.
	for _, path := range []string{"/", "/hello", "/hello/changes", "/hello/changes/events", "/hello/tree/main",
		"/headgate", "/headgate/agents", "/nowhere", "/search?q=x"} {
		for _, authorization := range []string{"", basic(tokens["write"]), "Bearer " + tokens["write"],
			"Bearer " + tokens["hello"]} {
			for _, method := range []string{"GET", "POST"} {
				got, _, text := ask(method, path, authorization, "", nil, "Accept", "application/json")
				if got != 401 || strings.Contains(text, "ada") {
					t.Errorf("%s %s: %d, want 401\n%s", method, path, got, text)
				}
			}
		}
	}

	good := basic(tokens["write"])
	const kind = "application/x-git-upload-pack-request"
	for _, r := range []struct {
		method, path, kind string
		want               int
		says               string
	}{
		{"GET", "/hello/HEAD", "", 403, "smart protocol"},
		{"GET", "/hello/objects/info/packs", "", 403, "smart protocol"},
		{"GET", "/hello/info/refs", "", 403, "smart protocol"},
		{"GET", "/hello/info/refs?service=git-upload-archive", "", 403, "smart protocol"},
		{"GET", "/hello/info/refs?service=git-upload-pack&service=git-receive-pack", "", 403, "smart protocol"},
		{"GET", "/hello/git-upload-pack", "", 405, "not answered"},
		{"POST", "/hello/info/refs?service=git-upload-pack", kind, 405, "not answered"},
		{"POST", "/hello/git-upload-pack", "application/x-www-form-urlencoded", 415, "type"},
		{"POST", "/hello/git-upload-pack", "application/x-git-receive-pack-request", 415, "type"},
		{"POST", "/hello/git-upload-pack", "", 415, "type"},
		{"GET", "/hello" + refs, "", 200, "# service"}, // with a body, which nobody reads
	} {
		if got, _, text := ask(r.method, r.path, good, r.kind, strings.NewReader("0000")); got != r.want ||
			!strings.Contains(text, r.says) {
			t.Errorf("%s %s as %q: %d %s", r.method, r.path, r.kind, got, text)
		}
	}
	if got, _, text := ask("POST", "/hello/git-upload-pack", good, kind, strings.NewReader("zzzz"), "Content-Encoding",
		"br"); got != 415 || !strings.Contains(text, "gzip") {
		t.Errorf("brotli: %d %s", got, text)
	}
	if got, _, text := ask("POST", "/hello/git-upload-pack", good, kind, strings.NewReader("not packets")); got != 400 {
		t.Errorf("no packets: %d %s", got, text)
	}

	// A small body that becomes a large one is cut off.
	out, errs, err := within(waitTimeout, h.dir, h.env(), "git", "ls-remote", "ssh://"+h.SSH+"/headgate",
		"refs/heads/main")
	if err != nil {
		t.Fatal(err, errs)
	}
	want := fmt.Sprintf("0032want %.40s\n", out)
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	for range (33 << 20) / len(want) {
		if _, err := io.WriteString(zip, want); err != nil {
			t.Fatal(err)
		}
	}
	must(zip.Close())
	if got, _, text := ask("POST", "/headgate/git-upload-pack", good, kind, &bomb, "Content-Encoding",
		"gzip"); got != 413 || !strings.Contains(text, "32 MiB") {
		t.Errorf("%d packed bytes: %d %s", bomb.Len(), got, text)
	}

	hostilePushes(t, h, func(body string, kind string) (int, string) {
		status, _, text := ask("POST", "/hello/"+kind, good, "application/x-"+kind+"-request", strings.NewReader(body),
			"Git-Protocol", "version=2")
		return status, text
	}, strings.TrimSpace(strings.Fields(out)[0]))
	for _, name := range []string{"he'llo", `he"llo`, "$(id)", "he%0allo", "-x", "hello.git.git", strings.Repeat("x", 4096),
		"h%C3%A9llo", "..", "hello%00", "hello%2fhello", "refs", ".hello"} {
		if got, _, text := ask("GET", "/"+name+refs, good, "", nil); got < 300 || got >= 500 {
			t.Errorf("a repository called %.40q: %d %.200s", name, got, text)
		}
	}

	// Wrong ones are counted; a good one is let in all the same.
	limited := false
	for range 30 {
		got, header, text := ask("GET", "/hello"+refs, basic(tokens["wrong"]), "", nil)
		switch {
		case got == 429 && header.Get("Retry-After") != "":
			limited = true
		case got != 401 || limited && got != 429:
			t.Fatalf("a wrong token: %d %s", got, text)
		}
	}
	if !limited {
		t.Error("30 wrong tokens in a row were each looked at")
	}
	if got, _, text := ask("GET", "/hello"+refs, good, "", nil); got != 200 {
		t.Errorf("a good token after them: %d %s", got, text)
	}

	// The tokens of who is removed are dead, when the name is given again too.
	key := ""
	must(h.configure(func(yaml string) string {
		from := strings.Index(yaml, "  jun:\n")
		to := from + strings.Index(yaml[from:], "keys: ")
		to += strings.Index(yaml[to:], "\n") + 1
		key = yaml[from:to]
		return yaml[:from] + yaml[to:]
	}))
	must(h.configure(func(yaml string) string { return strings.Replace(yaml, "users:\n", "users:\n"+key, 1) }))
	if _, err := h.ask("jun", "whoami"); err != nil {
		t.Errorf("jun is not back: %v", err)
	}
	if got, _, _ := ask("GET", "/hello"+refs, basic(tokens["jun"]), "", nil); got != 401 && got != 429 {
		t.Errorf("the token of jun who was removed: %d", got)
	}
}

// hostilePushes has git's addresses be sent what no client of git's sends. None of it moves a
// ref, leaves an object, or shows one of elsewhere; a good push is taken after it.
func hostilePushes(t *testing.T, h *harness, post func(body, service string) (int, string), elsewhere string) {
	t.Helper()
	out, errs, err := within(waitTimeout, h.dir, h.env(), "sh", "-ec", `
		git init -q -b main odd; cd odd
		printf 'version: 0.2\nphases: {build: {commands: ["true"]}}\n' >buildspec.yml
		git add .; git commit -qm first; git rev-parse HEAD
		git rev-list --objects HEAD | git pack-objects --stdout -q >../odd.pack`)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	commit := strings.TrimSpace(out)
	data, err := os.ReadFile(filepath.Join(h.dir, "odd.pack"))
	if err != nil {
		t.Fatal(err)
	}
	pack := string(data)
	packet := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	zero := strings.Repeat("0", 40)
	push := func(pack string, options ...string) string {
		body := packet(zero+" "+commit+" refs/heads/odd\x00report-status push-options agent=x\n") + "0000"
		for _, o := range options {
			body += packet(o)
		}
		return body + "0000" + pack
	}
	flipped := pack[:len(pack)-1] + string(pack[len(pack)-1]^1)
	huge := "PACK\x00\x00\x00\x02\x00\x00\x00\x01" + "\xbf\xff\xff\xff\x0f" + strings.Repeat("x", 1000) // a blob of 4 GiB
	many := strings.Split(strings.Repeat("x=1,", 10_000), ",")
	for name, body := range map[string]string{
		"nothing":                    "",
		"no end":                     packet(zero + " " + commit + " refs/heads/odd\x00report-status"),
		"no packets":                 "GET / HTTP/1.1\r\n\r\n",
		"no pack":                    push(""),
		"a pack that is cut":         push(pack[:len(pack)/2]),
		"a pack with a bit flipped":  push(flipped),
		"a pack that counts wrongly": push(pack[:11] + "\x7f" + pack[12:]),
		"a pack of a file of 4 GiB":  push(huge),
		"ten thousand options":       push(pack, many...),
		"an option of 60 kB":         push(pack, strings.Repeat("x", 60_000)),
		"a ref of the server's": packet(zero+" "+commit+" refs/changes/1/log\x00report-status push-options agent=x\n") +
			"00000000" + pack,
		"a name that is an option": packet(zero+" "+commit+" refs/heads/--exec=x\x00report-status push-options agent=x\n") +
			"00000000" + pack,
	} {
		if status, text := post(body, "git-receive-pack"); strings.Contains(text, "ok refs/") || status >= 500 {
			t.Errorf("%s: %d %.300q", name, status, text)
		}
	}
	if out, errs, err := within(waitTimeout, h.dir, h.env(), "git", "ls-remote", "ssh://"+h.SSH+"/hello"); err != nil ||
		strings.Contains(out, "refs/") {
		t.Errorf("after hostile pushes there are %q, %v %s", out, err, errs)
	}
	objects := filepath.Join(h.data(), "repositories", "hello.git", "objects")
	if left, err := filepath.Glob(filepath.Join(objects, "tmp_*")); err != nil || len(left) > 0 {
		t.Errorf("they left %q, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(objects, commit[:2], commit[2:])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the commit that nobody has accepted is there: %v", err)
	}

	// What is another repository's is not to be had by its name.
	want := packet("command=fetch") + "0001" + packet("want "+elsewhere+"\n") + packet("done\n") + "0000"
	if status, text := post(want, "git-upload-pack"); strings.Contains(text, "PACK") || status >= 500 {
		t.Errorf("an object of elsewhere: %d %.300q", status, text)
	}
	// Options are data, whatever is in them.
	options := []string{"nowait", "x=\x1b[31m;y=`id`", "x\x00y", "\xff\xfe"}
	if status, text := post(push(pack, options...), "git-receive-pack"); status != 200 ||
		!strings.Contains(text, "ok refs/heads/odd") || strings.Contains(text+h.tail(), "\x1b") {
		t.Errorf("a good push after them: %d %q", status, text)
	}
}
