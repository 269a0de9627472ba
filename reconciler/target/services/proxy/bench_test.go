package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkProxy measures the proxy beside a plain httputil.ReverseProxy, and for the record
// beside nginx, in turn, to the same instance. Goals: at least 0.8 of the plain one's
// throughput, and no more than 1 ms over its 99th percentile.
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

	other := nginx(b, instance.Listener.Addr().String())

	const turns, each = 5, 4000
	var ratios, over, beside []float64
	for range turns {
		a, slowA := pull(b, ours, each)
		p, slowP := pull(b, plain.URL, each)
		n, slowN := pull(b, other, each)
		ratios, over = append(ratios, a/p), append(over, (slowA-slowP).Seconds()*1000)
		beside = append(beside, a/n)
		fmt.Printf("proxy %6.0f/s p99 %v, httputil.ReverseProxy %6.0f/s p99 %v, nginx %6.0f/s p99 %v\n",
			a, slowA, p, slowP, n, slowN)
	}
	slices.Sort(ratios)
	slices.Sort(over)
	slices.Sort(beside)
	b.ReportMetric(ratios[turns/2], "of-plain,goal-0.8")
	b.ReportMetric(over[turns/2], "ms-over-p99,goal-1")
	b.ReportMetric(beside[turns/2], "of-nginx")
	b.ReportMetric(0, "ns/op")
}

// nginx runs Debian's nginx as a proxy of an instance, to which it keeps its connections as
// ours does, and says where it answers.
func nginx(b *testing.B, instance string) (url string) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(program); err != nil {
		b.Fatal("nginx is not installed: apt-get install nginx-light")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	err = os.WriteFile(config, fmt.Appendf(nil, `daemon off;
worker_processes auto;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000;
  upstream instance { server %[2]s; keepalive 64; keepalive_requests 1000000; }
  server {
    listen %[3]s;
    location / {
      proxy_pass http://instance;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
`, dir, instance, address), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, "-c", config, "-e", "stderr")
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
	})
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return "http://" + address
		}
		select {
		case err := <-ended:
			ended <- err
			b.Fatalf("nginx has ended: %v\n%s", err, said.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
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
