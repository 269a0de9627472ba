package transport

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// TestNothingBeginsOnceItEnds: requests of connections that are just being closed come while
// all is being ended, and afterwards. They are told so, and nothing is begun for them.
func TestNothingBeginsOnceItEnds(t *testing.T) {
	t.Parallel()
	h := HTTP{Transport: &Transport{}}
	served := h.Before(http.NotFoundHandler())
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		served.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/hello.git/info/refs", nil))
		return w
	}
	if got := ask().Code; got == http.StatusServiceUnavailable {
		t.Errorf("it is answered %d before anything ends", got)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { ask() })
	}
	h.Close()
	all.Wait()
	if w := ask(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// FuzzRoute: whatever is asked for, it is of a repository whose name is one, by the method of
// its service and by none that the question restates; and what becomes git's environment is
// nothing but a protocol.
func FuzzRoute(f *testing.F) {
	for _, seed := range [][3]string{
		{"/hello/info/refs", "service=git-upload-pack", "version=2"},
		{"/hello.git/git-receive-pack", "service=git-upload-pack", "version=2:x=y"},
		{"/hello/info/refs", "service=git-upload-pack&service=git-receive-pack", "version=1"},
		{"/hello/objects/info/packs", "", "version=2:$(id)"},
		{"/../hello/info/refs", "%zz", "version=2\nx"},
		{"/webhooks/git-upload-pack", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, path, query, protocol string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query}}
		if to, ok := routeOf(r); ok {
			own := to.repository == access.Own || !slices.Contains(access.Reserved(), strings.ToLower(to.repository))
			if repo.CheckName(to.repository) != nil || !own || !strings.HasPrefix(path, "/"+to.repository) {
				t.Errorf("%q is of %q", path, to.repository)
			}
			post := strings.HasSuffix(path, "/"+string(UploadPack)) || strings.HasSuffix(path, "/"+string(ReceivePack))
			if post != (to.method == http.MethodPost) || post && !strings.HasSuffix(path, "/"+string(to.service)) ||
				to.service != "" && to.service != UploadPack && to.service != ReceivePack {
				t.Errorf("%q?%q is %+v", path, query, to)
			}
		}
		if ValidProtocol(protocol) && strings.ContainsAny(protocol, " \t\r\n\x00$`;'\"") {
			t.Errorf("%q is a protocol", protocol)
		}
	})
}

// FuzzCredential: who carries anything at all is somebody or refused, and never nobody, to
// whom what is public is open.
func FuzzCredential(f *testing.F) {
	f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte("any:hg_secret")))
	f.Add("bearer hg_secret")
	f.Add("Basic")
	f.Add("")
	f.Add("Digest username=x")
	f.Fuzz(func(t *testing.T, header string) {
		secret, given := credential(&http.Request{Header: http.Header{"Authorization": {header}}})
		if !given {
			t.Errorf("%q is nothing", header)
		}
		if len(secret) > len(header) {
			t.Errorf("%q is longer than %q", secret, header)
		}
		if twice, _ := credential(&http.Request{Header: http.Header{"Authorization": {header, header}}}); twice != "" {
			t.Errorf("two of %q are %q", header, twice)
		}
	})
}
