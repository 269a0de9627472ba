package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkProxy measures the proxy beside a plain httputil.ReverseProxy, in turn, to
// the same instance. Goals: at least 0.8 of its throughput, and no more than 1 ms over
// its 99th percentile.
func BenchmarkProxy(b *testing.B) {
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello, hello, hello, hello")
	}))
	defer instance.Close()
	transport := Transport()
	defer transport.CloseIdleConnections()
	pool := &Pool{Name: "web"}
	pool.Configure(Settings{Stall: time.Minute, Timeout: time.Minute})
	pool.Set([]Backend{{ID: "web-1", Address: instance.Listener.Addr().String()}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l := ServeOn(ln, pool, transport, nil, slog.New(slog.DiscardHandler))
	defer l.Close(context.Background())
	ours := "http://" + l.Address().String()
	to, _ := url.Parse(instance.URL)
	plain := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() },
		Transport: transport,
	})
	defer plain.Close()

	const turns, each = 5, 4000
	var ratios, over []float64
	for range turns {
		a, slowA := pull(b, ours, each)
		p, slowP := pull(b, plain.URL, each)
		ratios, over = append(ratios, a/p), append(over, (slowA-slowP).Seconds()*1000)
		fmt.Printf("proxy %6.0f/s p99 %v, httputil.ReverseProxy %6.0f/s p99 %v\n", a, slowA, p, slowP)
	}
	slices.Sort(ratios)
	slices.Sort(over)
	b.ReportMetric(ratios[turns/2], "of-plain,goal-0.8")
	b.ReportMetric(over[turns/2], "ms-over-p99,goal-1")
	b.ReportMetric(0, "ns/op")
}

// pull sends n requests over 16 connections and says how many a second, and the 99th
// percentile.
func pull(b *testing.B, address string, n int) (perSecond float64, p99 time.Duration) {
	const connections = 16
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	took := make([][]time.Duration, connections)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range took {
		wg.Go(func() {
			for range n / connections {
				start := time.Now()
				resp, err := client.Get(address)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) == 0 {
		b.Fatal("nothing was answered")
	}
	return float64(len(all)) / time.Since(began).Seconds(), all[len(all)*99/100]
}
