package transport

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
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
