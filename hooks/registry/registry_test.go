package registry

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/transport"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

const serverYAML = `
users:
  ada: {name: Ada, keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJlY2VpdmUtdGVzdC1rZXktMDAwMDAwMDAwMDAwMDAw"]}
  jun: {name: Jun}
groups:
  administrators: [ada]
repositories:
  hello: {read: [ada], write: [ada]}
  open: {public: true, read: [everyone], write: [ada]}
`

// harness is a registry in front of two repositories with releases.
type harness struct {
	*httptest.Server
	t     *testing.T
	dir   string
	store *artifact.Store
	repos *repo.Store
	books map[string]*release.Store
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	repos, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repos.Close)
	config, err := access.Parse("server.yaml", []byte(serverYAML))
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, dir: dir, repos: repos, books: map[string]*release.Store{}}
	if h.store, err = artifact.Open(filepath.Join(dir, "artifacts")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hello", "open"} {
		r, err := repos.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		h.books[name] = release.Of(r)
	}

	git := &transport.Transport{Store: repos, Access: func() *access.Config { return config },
		Log: slog.New(slog.DiscardHandler)}
	g := &Registry{
		Tokens: &transport.Tokens{
			Access: git.Access,
			Open:   git.Open,
			Identify: func(token string) (access.Identity, string, bool) {
				return access.Identity{User: token, Via: access.ViaToken}, "token:" + token, token == "ada" || token == "jun"
			},
			Obtain: func() string { return "token create" },
			Log:    git.Log,
		},
		Artifacts: h.store,
		Releases:  func(repository string) *release.Store { return h.books[repository] },
		Declared: func(repository, environment, artifact string) (string, error) {
			if repository == "hello" && environment == "production" {
				return h.artifactOf("hello", 1), nil
			}
			return "", nil
		},
		Log: git.Log,
	}
	h.Server = httptest.NewServer(
		g.Before(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "next") })))
	t.Cleanup(h.Close)
	return h
}

// release makes a release of a repository with one artifact, web, and returns its
// digest.
func (h *harness) release(repository, content string) string {
	h.t.Helper()
	src := h.t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	a, err := h.store.Pack(h.t.Context(), src, "web", []artifact.File{{Source: "f", Path: "f"}})
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := h.repos.Repository(repository)
	if err != nil {
		h.t.Fatal(err)
	}
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	commit, err := r.WriteCommit(repo.NewCommit{At: noon, Message: content})
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = h.books[repository].Make(h.t.Context(), release.Landing{
		Branch: "main", Commit: commit, Subject: content, Changes: []int{1}, By: "ada", At: noon,
		Verdict: verdict.Verdict{
			Result:    verdict.Green,
			Artifacts: []verdict.Artifact{{Name: a.Name, Digest: a.Digest, Size: a.Size}},
			Started:   noon,
			Finished:  noon,
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return a.Digest
}

func (h *harness) artifactOf(repository string, number int) string {
	rel, err := h.books[repository].Read(number)
	if err != nil {
		h.t.Fatal(err)
	}
	return rel.Artifacts[0].Digest
}

// ask asks as a user, nobody for "".
func (h *harness) ask(user, method, path string, headers ...string) (*http.Response, string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.URL+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth("any", user)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := h.Client().Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp, string(body)
}

func TestPull(t *testing.T) {
	h := newHarness(t)
	first, second := h.release("hello", "one"), h.release("hello", "two")

	for tag, want := range map[string]string{"1": first, "2": second, "latest": second, "production": first,
		first: first} {
		resp, body := h.ask("ada", "GET", "/v2/hello/web/manifests/"+tag)
		if resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") != want ||
			resp.Header.Get("Content-Type") != "application/vnd.oci.image.manifest.v1+json" {
			t.Errorf("%s: %s %v %s", tag, resp.Status, resp.Header, body)
		}
		forever := strings.Contains(resp.Header.Get("Cache-Control"), "immutable")
		if forever != (tag == first) {
			t.Errorf("%s: %s", tag, resp.Header.Get("Cache-Control"))
		}
		head, empty := h.ask("ada", "HEAD", "/v2/hello/web/manifests/"+tag)
		if head.StatusCode != 200 || empty != "" || head.ContentLength != int64(len(body)) {
			t.Errorf("HEAD of %s: %s, %d bytes", tag, head.Status, head.ContentLength)
		}
		if again, _ := h.ask("ada", "GET", "/v2/hello/web/manifests/"+tag, "If-None-Match",
			resp.Header.Get("ETag")); again.StatusCode != 304 {
			t.Errorf("%s again: %s", tag, again.Status)
		}
	}

	m, err := h.store.Manifest(first)
	if err != nil {
		t.Fatal(err)
	}
	layer := m.Blobs[1]
	resp, whole := h.ask("ada", "GET", "/v2/hello/web/blobs/"+layer.Digest)
	if resp.StatusCode != 200 || int64(len(whole)) != layer.Size {
		t.Fatalf("%s, %d bytes of %d", resp.Status, len(whole), layer.Size)
	}
	if resp, rest := h.ask("ada", "GET", "/v2/hello/web/blobs/"+layer.Digest, "Range",
		"bytes=10-"); resp.StatusCode != 206 || rest != whole[10:] {
		t.Errorf("a range: %s", resp.Status)
	}

	resp, body := h.ask("ada", "GET", "/v2/hello/web/referrers/"+first)
	if resp.StatusCode != 200 || !strings.Contains(body, `"manifests":[]`) {
		t.Errorf("referrers: %s %s", resp.Status, body)
	}
	if _, body := h.ask("ada", "GET", "/elsewhere"); body != "next" {
		t.Errorf("another address: %s", body)
	}
}

func TestTags(t *testing.T) {
	h := newHarness(t)
	for i := range 11 {
		h.release("hello", strings.Repeat("x", i+1))
	}
	var tags []string
	path := "/v2/hello/web/tags/list?n=5"
	for pages := 0; path != "" && pages < 10; pages++ {
		resp, body := h.ask("ada", "GET", path)
		var list struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil || list.Name != "hello/web" {
			t.Fatalf("%s: %v", body, err)
		}
		tags = append(tags, list.Tags...)
		path, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	want := []string{"1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9", "latest"}
	if !slices.Equal(tags, want) {
		t.Errorf("%v, want %v", tags, want)
	}
}

// TestOnlyWhatMayBeRead: a digest gives nothing that its repository would not.
func TestOnlyWhatMayBeRead(t *testing.T) {
	h := newHarness(t)
	hidden, public := h.release("hello", "hidden"), h.release("open", "public")
	m, err := h.store.Manifest(hidden)
	if err != nil {
		t.Fatal(err)
	}
	blob := m.Blobs[1].Digest
	never := "sha256:" + strings.Repeat("0", 64)

	for _, c := range []struct {
		user, method, path string
		status             int
		says               string
	}{
		{"", "GET", "/v2/", 401, "UNAUTHORIZED"},
		{"ada", "GET", "/v2/", 200, "{}"},
		{"eve", "GET", "/v2/", 401, "not valid"},
		{"", "GET", "/v2/hello/web/manifests/1", 401, "UNAUTHORIZED"},
		{"jun", "GET", "/v2/hello/web/manifests/1", 404, "no such repository"},
		{"jun", "GET", "/v2/hello/web/blobs/" + blob, 404, "no such repository"},
		{"jun", "GET", "/v2/none/web/manifests/1", 404, "no such repository"},
		{"", "GET", "/v2/open/web/manifests/1", 200, "layers"},
		{"jun", "GET", "/v2/open/web/manifests/" + public, 200, "layers"},
		{"jun", "GET", "/v2/open/web/manifests/" + hidden, 404, "MANIFEST_UNKNOWN"},
		{"jun", "GET", "/v2/open/web/blobs/" + blob, 404, "BLOB_UNKNOWN"},
		{"ada", "GET", "/v2/hello/web/blobs/" + never, 404, "BLOB_UNKNOWN"},
		{"ada", "GET", "/v2/hello/web/blobs/x", 400, "DIGEST_INVALID"},
		{"ada", "GET", "/v2/hello/web/manifests/3", 404, "a tag is the number of a release"},
		{"ada", "GET", "/v2/hello/other/manifests/1", 404, "NAME_UNKNOWN"},
		{"ada", "GET", "/v2/hello/web/tags/other", 404, "tags/list"},
		{"ada", "GET", "/v2/hello/manifests/1", 404, "NAME_UNKNOWN"},
		{"ada", "GET", "/v2/..%2fhello/web/manifests/1", 404, "NAME_UNKNOWN"},
		{"ada", "PUT", "/v2/hello/web/manifests/1", 405, "a release is made when a change lands"},
		{"ada", "POST", "/v2/hello/web/blobs/uploads/", 405, "UNSUPPORTED"},
	} {
		resp, body := h.ask(c.user, c.method, c.path)
		if resp.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %s as %q: %s %s, want %d %q", c.method, c.path, c.user, resp.Status, body, c.status, c.says)
		}
		if challenged := resp.Header.Get("WWW-Authenticate") != ""; challenged != (c.status == 401) {
			t.Errorf("%s %s: WWW-Authenticate %q", c.method, c.path, resp.Header.Get("WWW-Authenticate"))
		}
	}
}

// TestGoneBytes: a release whose artifact is not kept says so.
func TestGoneBytes(t *testing.T) {
	h := newHarness(t)
	digest := h.release("hello", "one")
	m, err := h.store.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(h.dir, "artifacts", "blobs")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"manifests/1", "blobs/" + m.Blobs[1].Digest} {
		if resp, body := h.ask("ada", "GET", "/v2/hello/web/"+path); resp.StatusCode != 404 {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}
