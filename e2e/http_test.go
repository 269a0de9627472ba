package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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
