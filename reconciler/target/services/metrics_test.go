package services

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestMetrics: what the proxy counts is read where the server says, from then on, there no
// more once it says another, and of services that are there alone. An address that somebody
// else has is taken when it is free.
func TestMetrics(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	opened := map[string]string{} // what was asked for → where that is
	h := openIn(t, t.TempDir(), t.TempDir(), func(s *Target) {
		s.Listen = func(address string) (net.Listener, error) {
			ln, err := net.Listen("tcp", address)
			if err == nil {
				mu.Lock()
				opened[address] = ln.Addr().String()
				mu.Unlock()
			}
			return ln, err
		}
	})
	h.SetMetrics(taken.Addr().String())
	h.converge(1, web)
	h.await(target.Healthy)
	h.get("/", "hello")
	h.get("/", "hello")

	read := func(address, path string) (status int, text string) {
		eventually(t, "metrics at "+address, func() (string, bool) {
			mu.Lock()
			at := opened[address]
			mu.Unlock()
			if at == "" {
				return "nobody listens", false
			}
			var err error
			status, text, err = get("http://" + at + path)
			return "answers", err == nil
		})
		return status, text
	}
	for _, address := range []string{taken.Addr().String(), "localhost:0"} {
		if address == "localhost:0" {
			h.SetMetrics(address)
		}
		taken.Close()
		status, text := read(address, "/metrics")
		want := `headgate_proxy_requests_total{repository="hello",application="hello",environment="` + h.key().Environment +
			`",service="web",release="1",code="200"} 2` + "\n"
		if status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: %d, without %s:\n%s", address, status, want, text)
		}
		if status, _ := read(address, "/"); status != http.StatusNotFound {
			t.Errorf("%s: another page: %d", address, status)
		}
	}
	if _, _, err := get("http://" + taken.Addr().String() + "/metrics"); err == nil {
		t.Error("they are still where they were before")
	}

	h.Remove(h.key(), h.seq+1)
	eventually(t, "nothing is counted of what is gone", func() (string, bool) {
		_, text := read("localhost:0", "/metrics")
		return text, !strings.Contains(text, `service="web"`)
	})
	h.end()
}
