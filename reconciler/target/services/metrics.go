package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
)

// scrapes is where Prometheus reads what the proxy counts.
type scrapes struct {
	mu      sync.Mutex
	address string
	moved   chan struct{} // holds one when address is another
}

// metricsRetry is how long an address that cannot be listened on is left alone.
const metricsRetry = time.Second

// SetMetrics has Prometheus read at an address, host:port, what the proxy counts; "" is
// nowhere.
func (t *Target) SetMetrics(address string) {
	s := &t.scrapes
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.address == address {
		return
	}
	s.address = address
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// serveMetrics answers GET /metrics where SetMetrics says, until ctx ends.
func (t *Target) serveMetrics(ctx context.Context) {
	var serving *http.Server
	at, told := "", ""
	end := func() {
		if serving != nil {
			serving.Close()
			serving, at = nil, ""
		}
	}
	defer end()
	for {
		t.scrapes.mu.Lock()
		want := t.scrapes.address
		t.scrapes.mu.Unlock()
		var again <-chan time.Time
		if want != at {
			if t.Unlisten != nil && at != "" {
				t.Unlisten(at)
			}
			end()
		}
		if want != at {
			ln, err := t.open(want)
			if err == nil {
				serving, at = t.metricsOn(ln), want
				t.Log.Info("what the proxy counts is at", "metrics", "http://"+ln.Addr().String()+"/metrics")
			} else {
				if told != want {
					t.Log.Error("what the proxy counts cannot be read", "metrics", want, "err", err)
				}
				again = time.After(metricsRetry)
			}
			told = want
		}
		select {
		case <-ctx.Done():
			return
		case <-t.scrapes.moved:
		case <-again:
		}
	}
}

// metricsOn serves what the proxy counts.
func (t *Target) metricsOn(ln net.Listener) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var text bytes.Buffer
		_ = proxy.WriteMetrics(&text, t.counted()) // memory takes all
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text.Bytes()) // who has gone away needs none of it
	})
	s := &http.Server{
		Handler:        mux,
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   time.Minute,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	go func() {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			t.Log.Error("what the proxy counts is not served any more", "err", err)
		}
	}()
	return s
}

// counted are the pools of all services, in the order of their labels.
func (t *Target) counted() (list []proxy.Measured) {
	t.mu.Lock()
	apps := slices.Collect(maps.Values(t.apps))
	t.mu.Unlock()
	for _, a := range apps {
		pools := a.counted.Load()
		if pools == nil {
			continue
		}
		k := a.key()
		for service, pool := range *pools {
			list = append(list, proxy.Measured{
				Labels: fmt.Sprintf("repository=%q,application=%q,environment=%q,service=%q", // names, which need no escapes
					k.Repository, k.Application, k.Environment, service),
				Pool: pool,
			})
		}
	}
	slices.SortFunc(list, func(a, b proxy.Measured) int { return strings.Compare(a.Labels, b.Labels) })
	return list
}

// count says which pools there are.
func (a *app) count() {
	pools := maps.Clone(a.pools)
	a.counted.Store(&pools)
}
