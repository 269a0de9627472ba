package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// listener is what front makes, to be configured.
func listener(t *testing.T, pool *Pool) (*Listener, string) {
	t.Helper()
	transport := Transport()
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := ServeOn(on, pool, transport, nil, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		l.Close(ctx)
		transport.CloseIdleConnections()
	})
	return l, l.Address().String()
}

// client is one with connections of its own.
func client(t *testing.T, configure func(*http.Transport)) *http.Client {
	transport := &http.Transport{}
	if configure != nil {
		configure(transport)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func h2c(t *http.Transport) {
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
}

type answer struct {
	status int
	body   string
	header http.Header
	proto  string
}

func send(t *testing.T, c *http.Client, r *http.Request) answer {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, strings.TrimSpace(string(body)), resp.Header, resp.Proto}
}

func request(t *testing.T, method, url string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// TestSplit: of a hundred requests in a row exactly as many as the weight says go to
// the version that takes over, and one side serves alone when the other has nobody.
func TestSplit(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	c := client(t, nil)
	before, after := []Backend{back(t, "old", says("old"))}, []Backend{back(t, "new", says("new"))}
	hundred := func() (new int) {
		for range 100 {
			if strings.HasPrefix(send(t, c, request(t, "GET", "http://"+at, nil)).body, "new") {
				new++
			}
		}
		return new
	}
	for _, weight := range []int{0, 1, 10, 50, 99, 100} {
		pool.Split(before, after, weight)
		if n := hundred(); n != weight {
			t.Errorf("with a weight of %d, %d of 100 requests went to the new version", weight, n)
		}
	}
	pool.Split(before, nil, 40)
	if n := hundred(); n != 0 {
		t.Errorf("%d", n)
	}
	pool.Split(nil, after, 40)
	if n := hundred(); n != 100 {
		t.Errorf("%d", n)
	}
	pool.Split(nil, after, 0)
	if got := send(t, c, request(t, "GET", "http://"+at, nil)); got.status != http.StatusServiceUnavailable {
		t.Errorf("what has no weight got a request: %v", got)
	}
	pool.Configure(Settings{Test: "X-Try"})
	pool.Split(before, after, 0)
	if got := send(t, c, request(t, "GET", "http://"+at, nil, "X-Try", "yes")); !strings.HasPrefix(got.body, "new") {
		t.Errorf("%q", got.body)
	}
	if n := hundred(); n != 0 {
		t.Errorf("%d without the header", n)
	}
}

// TestSticky: who was moved to the new version stays there while the weight grows.
func TestSticky(t *testing.T) {
	for _, name := range []string{OwnCookie, "session"} {
		t.Run(name, func(t *testing.T) {
			pool := &Pool{Name: "web"}
			_, at := listener(t, pool)
			pool.Configure(Settings{Sticky: name})
			c := client(t, nil)
			var seen atomic.Int32
			handler := func(which string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if _, err := r.Cookie(OwnCookie); err == nil {
						seen.Add(1)
					}
					fmt.Fprint(w, which)
				}
			}
			before, after := []Backend{back(t, "old", handler("old"))}, []Backend{back(t, "new", handler("new"))}
			pool.Split(before, after, 20)
			visitors := make([]string, 200) // cookies
			moved := make([]bool, len(visitors))
			for _, weight := range []int{20, 20, 60, 60} {
				pool.Split(before, after, weight)
				n := 0
				for i := range visitors {
					if visitors[i] == "" && name != OwnCookie {
						visitors[i] = fmt.Sprintf("%s=visitor-%d", name, i)
					}
					r := request(t, "GET", "http://"+at, nil)
					if visitors[i] != "" {
						r.Header.Set("Cookie", visitors[i])
					}
					got := send(t, c, r)
					if set := got.header.Get("Set-Cookie"); set != "" {
						visitors[i], _, _ = strings.Cut(set, ";")
					}
					if moved[i] && got.body != "new" {
						t.Fatalf("visitor %d was moved back with a weight of %d", i, weight)
					}
					if moved[i] = got.body == "new"; moved[i] {
						n++
					}
				}
				if n < len(visitors)*weight/100*7/10 || n > len(visitors)*weight/100*13/10 {
					t.Errorf("%d of %d visitors were moved with a weight of %d", n, len(visitors), weight)
				}
			}
			if seen.Load() > 0 {
				t.Error("instances see the proxy's own cookie")
			}
		})
	}
}

// TestHeld: while requests are held, or nobody is there, they wait and are lost neither
// by the pause nor by its end.
func TestHeld(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	c := client(t, nil)
	b := back(t, "web-1", says("hi"))
	pool.Configure(Settings{Hold: time.Minute})
	for _, c1 := range []struct {
		name       string
		begin, end func()
	}{
		{"no instance", func() { pool.Set(nil) }, func() { pool.Set([]Backend{b}) }},
		{
			"paused",
			func() { pool.Configure(Settings{Hold: time.Minute, Traffic: Hold}) },
			func() { pool.Configure(Settings{Hold: time.Minute}) },
		},
	} {
		t.Run(c1.name, func(t *testing.T) {
			c1.begin()
			answers := make(chan answer, 5)
			for range 5 {
				r := request(t, "POST", "http://"+at, strings.NewReader("body"))
				go func() { answers <- send(t, c, r) }()
			}
			until(t, func() bool {
				pool.mu.Lock()
				defer pool.mu.Unlock()
				return pool.held == 5
			})
			c1.end()
			for range 5 {
				if got := <-answers; got.status != 200 || !strings.HasSuffix(got.body, "body") {
					t.Errorf("%v", got)
				}
			}
		})
	}
	pool.Configure(Settings{Hold: time.Millisecond, Traffic: Hold})
	if got := send(t, c, request(t, "GET", "http://"+at, nil)); got.status != http.StatusGatewayTimeout {
		t.Errorf("held for too long: %v", got)
	}
	pool.Configure(Settings{Hold: time.Millisecond, Page: []byte("<p>sorry")})
	pool.Set(nil)
	if got := send(t, c, request(t, "GET", "http://"+at, nil, "Accept", "text/html,*/*")); got.status != 503 ||
		got.body != "<p>sorry" {
		t.Errorf("%v", got)
	}
}

// until waits for a fact that nothing announces.
func until(t *testing.T, true func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !true(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came")
		}
	}
}

func TestMaintenance(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	c := client(t, nil)
	pool.Set([]Backend{back(t, "web-1", says("hi"))})
	pool.Configure(Settings{Traffic: Maintenance, Page: []byte("<h1>Back soon</h1>")})
	for accept, want := range map[string]string{"text/html": "<h1>Back soon</h1>",
		"application/json": "503 web: down for maintenance"} {
		got := send(t, c, request(t, "GET", "http://"+at, nil, "Accept", accept))
		if got.status != 503 || got.body != want || got.header.Get("Retry-After") == "" {
			t.Errorf("%s: %v", accept, got)
		}
	}
}

// TestLimits: what is over a limit is refused with its status, by length or as it comes.
func TestLimits(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	pool.Set([]Backend{back(t, "web-1", says("hi"))})
	pool.Configure(Settings{MaxBody: 1000, MaxHeader: 2000, Stall: time.Minute})
	none := func() io.Reader { return nil }
	body := func(n int) func() io.Reader {
		return func() io.Reader { return bytes.NewReader(bytes.Repeat([]byte("x"), n)) }
	}
	chunked := func(n int) func() io.Reader {
		return func() io.Reader { return io.MultiReader(body(n)()) } // of no known length
	}
	for name, c := range map[string]struct {
		body   func() io.Reader
		header int
		want   int
	}{
		"body fits":           {body(1000), 0, 200},
		"body too long":       {body(1001), 0, 413},
		"unknown length fits": {chunked(1000), 0, 200},
		"unknown length":      {chunked(1001), 0, 413},
		"header fits":         {none, 1500, 200},
		"header too large":    {none, 2500, 431},
		"over the listener":   {none, 2 * maxHeaderBytes, 431},
	} {
		for _, configure := range []func(*http.Transport){nil, h2c} {
			cl := client(t, configure)
			r := request(t, "POST", "http://"+at, c.body(), "X-Long", strings.Repeat("h", c.header))
			resp, err := cl.Do(r)
			if configure != nil && c.header > maxHeaderBytes {
				// HTTP/2 may end the stream, or the client may know better than to try.
				if err == nil {
					resp.Body.Close()
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("%s (%s): %d, want %d", name, resp.Proto, resp.StatusCode, c.want)
			}
		}
	}
}

// TestTimeouts: an instance that does not begin to answer is given up, and a visitor
// who does not go on; what has begun may be quiet for as long as it likes.
func TestTimeouts(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	c := client(t, nil)
	release := make(chan struct{})
	pool.Set([]Backend{back(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/never":
			<-r.Context().Done()
		case "/upload":
			_, _ = io.Copy(io.Discard, r.Body)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: one\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
			fmt.Fprint(w, "data: two\n\n")
		}
	})})
	pool.Configure(Settings{Timeout: 50 * time.Millisecond, Stall: 50 * time.Millisecond})
	if got := send(t, c, request(t, "GET", "http://"+at+"/never", nil)); got.status != http.StatusGatewayTimeout {
		t.Errorf("%v", got)
	}

	// A visitor who stalls: the head and half of the body, and no more.
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pool.Configure(Settings{Stall: 50 * time.Millisecond})
	fmt.Fprint(conn, "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("%v %v", resp, err)
	}

	// A stream over all those times: another request is given up meanwhile, which shows
	// that they have passed. A busy machine may miss such short ones, but not each time.
	pool.Configure(Settings{Timeout: 50 * time.Millisecond, Stall: 100 * time.Millisecond})
	stream := func(c *http.Client) error {
		resp, err := c.Do(request(t, "GET", "http://"+at+"/events", nil))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		if line, err := lines.ReadString('\n'); line != "data: one\n" {
			return fmt.Errorf("%s: %q %v", resp.Status, line, err)
		}
		for range 3 {
			if got := send(t, c, request(t, "GET", "http://"+at+"/never", nil)); got.status != http.StatusGatewayTimeout {
				return fmt.Errorf("%v", got)
			}
		}
		release <- struct{}{}
		rest, err := io.ReadAll(lines)
		if err != nil || string(rest) != "\ndata: two\n\n" {
			return fmt.Errorf("%s: %q %v", resp.Proto, rest, err)
		}
		return nil
	}
	for _, configure := range []func(*http.Transport){nil, h2c} {
		c := client(t, configure)
		var err error
		for range 10 {
			if err = stream(c); err == nil {
				break
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestBothWaysAtOnce: a request and its answer are streamed at the same time, over
// HTTP/1 and HTTP/2, to instances that speak either.
func TestBothWaysAtOnce(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		w.Header().Set("X-Proto", r.Proto)
		w.WriteHeader(200)
		_ = control.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(w, "echo", lines.Text())
			_ = control.Flush()
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
	two := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	two.Config.Protocols = new(http.Protocols)
	two.Config.Protocols.SetUnencryptedHTTP2(true)
	two.Start()
	t.Cleanup(two.Close)
	transport := HTTP2Transport()
	t.Cleanup(transport.CloseIdleConnections)
	for _, c := range []struct {
		name     string
		client   func(*http.Transport)
		backend  Backend
		settings Settings
		want     string
	}{
		{"1 to 1", nil, back(t, "one", echo), Settings{}, "HTTP/1.1"},
		{"2 to 1", h2c, back(t, "one", echo), Settings{}, "HTTP/1.1"},
		{"2 to 2", h2c, Backend{ID: "two", Address: two.Listener.Addr().String(), HTTP2: true},
			Settings{HTTP2: transport}, "HTTP/2.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool := &Pool{Name: "web"}
			_, at := listener(t, pool)
			pool.Configure(c.settings)
			pool.Set([]Backend{c.backend})
			r, w := io.Pipe()
			resp, err := client(t, c.client).Do(request(t, "POST", "http://"+at, r))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := resp.Header.Get("X-Proto"); got != c.want {
				t.Errorf("the instance was spoken to with %s", got)
			}
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				fmt.Fprintf(w, "line %d\n", i)
				if line, err := lines.ReadString('\n'); line != fmt.Sprintf("echo line %d\n", i) {
					t.Fatalf("%q %v", line, err)
				}
			}
			w.Close()
			if _, err := io.ReadAll(lines); err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("%v %v", err, resp.Trailer)
			}
		})
	}
}

// TestRoutes: the route that says most has a request.
func TestRoutes(t *testing.T) {
	pools := map[string]*Pool{}
	var all []Route
	for i, r := range []Route{{}, {Path: "/api"}, {Path: "/api/v2/"}, {Host: "shop.example"}, {Host: "*.example"},
		{Host: "shop.example", Path: "/api"}} {
		name := fmt.Sprintf("%s|%s", r.Host, r.Path)
		pools[name] = &Pool{Name: name}
		pools[name].Set(
			[]Backend{back(t, fmt.Sprint(i), func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name) })})
		r.Pool = pools[name]
		all = append(all, r)
	}
	l, at := listener(t, all[0].Pool)
	l.Route(all...)
	c := client(t, nil)
	for _, q := range []struct{ host, path, want string }{
		{"other", "/", "|"},
		{"other", "/api", "|/api"},
		{"other", "/api/users", "|/api"},
		{"other", "/apix", "|"},
		{"other", "/api/v2", "|/api/v2/"},
		{"other", "/api/v2/x", "|/api/v2/"},
		{"other", "/x/../api/v2/./x", "|/api/v2/"},
		{"other", "/%61pi", "|/api"},
		{"SHOP.example:8080", "/", "shop.example|"},
		{"shop.example.", "/", "shop.example|"},
		{"shop.example", "/api/x", "shop.example|/api"},
		{"www.example", "/api", "*.example|"},
		{"example", "/", "|"},
	} {
		r := request(t, "GET", "http://"+at, nil)
		r.URL.Opaque, r.Host = q.path, q.host
		if got := send(t, c, r); got.body != q.want {
			t.Errorf("%s%s went to %s, want %s", q.host, q.path, got.body, q.want)
		}
	}
	l.Route(all[1])
	if got := send(t, c, request(t, "GET", "http://"+at+"/x", nil)); got.status != http.StatusNotFound {
		t.Errorf("%v", got)
	}
}

// certificate writes a pair for names into dir.
func certificate(t *testing.T, dir, file string, serial int64, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: names[0]},
		DNSNames:     names,
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der},
		".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file+name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTLS: certificates come from files, by name, and a renewed one is served without
// a restart.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir, "a", 1, "a.example")
	certificate(t, dir, "b", 2, "b.example")
	pool := &Pool{Name: "web"}
	l, at := listener(t, pool)
	pool.Set([]Backend{back(t, "web-1",
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto")) })})
	certificates := &Certificates{Dir: dir}
	if err := certificates.Check(); err != nil {
		t.Fatal(err)
	}
	l.Secure(certificates.Config())
	ask := func(name string) (serial int64, proto, body string) {
		c := client(t, func(tr *http.Transport) {
			tr.ForceAttemptHTTP2 = true
			tr.TLSClientConfig = &tls.Config{
				InsecureSkipVerify: true, // it is looked at below
				ServerName:         name,
				VerifyConnection: func(s tls.ConnectionState) error {
					serial = s.PeerCertificates[0].SerialNumber.Int64()
					return nil
				},
			}
		})
		got := send(t, c, request(t, "GET", "https://"+at, nil))
		return serial, got.proto, got.body
	}
	for name, want := range map[string]int64{"a.example": 1, "b.example": 2, "c.example": 1} {
		if serial, proto, body := ask(name); serial != want || proto != "HTTP/2.0" || body != "https" {
			t.Errorf("%s: certificate %d, %s, %q", name, serial, proto, body)
		}
	}
	certificate(t, dir, "b", 33, "b.example")
	if serial, _, _ := ask("b.example"); serial != 33 {
		t.Errorf("certificate %d after it was renewed", serial)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.key"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if serial, _, _ := ask("b.example"); serial != 33 || certificates.Check() == nil {
		t.Errorf("certificate %d after it was damaged, which %v", serial, certificates.Check())
	}
	if err := (&Certificates{Dir: t.TempDir()}).Check(); err == nil || !strings.Contains(err.Error(), "put <name>.crt") {
		t.Errorf("%v", err)
	}
}

func TestLogAndMetrics(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	var mu sync.Mutex
	var lines []string
	pool.Configure(Settings{Access: func(a Access) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, a.String())
	}})
	b := back(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
		fmt.Fprint(w, "12345")
	})
	b.Release = "7"
	bad := gone(t, "web-2")
	bad.Release = "7"
	pool.Set([]Backend{bad, b})
	c := client(t, nil)
	for range 4 {
		send(t, c, request(t, "GET", "http://"+at+"/x?y=1", nil, "User-Agent", `a "b"`))
	}
	send(t, c, request(t, "GET", "http://"+at+"/bad", nil))
	until(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(lines) == 5 })
	if !strings.Contains(lines[0], `"GET /x?y=1 HTTP/1.1" 200 5 "-" "a \"b\"" `) ||
		!strings.HasSuffix(lines[0], " web-1") {
		t.Errorf("%s", lines[0])
	}
	var out strings.Builder
	if err := WriteMetrics(&out, []Measured{{Labels: `service="web"`, Pool: pool}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`headgate_proxy_requests_total{service="web",release="7",code="200"} 4` + "\n",
		`headgate_proxy_requests_total{service="web",release="7",code="500"} 1` + "\n",
		`headgate_proxy_request_duration_seconds_bucket{service="web",release="7",le="+Inf"} 5` + "\n",
		`headgate_proxy_request_duration_seconds_count{service="web",release="7"} 5` + "\n",
		`headgate_proxy_response_bytes_total{service="web",release="7"} 25` + "\n",
		`headgate_proxy_requests_in_flight{service="web"} 0` + "\n",
		"# TYPE headgate_proxy_request_duration_seconds histogram\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), `headgate_proxy_retries_total{service="web"} 0`) {
		t.Error("no retry was counted")
	}
}

// TestSwitchingLosesNothing: keep-alive connections of many clients go through
// switches, each of which drains and ends the instance that had the requests.
func TestSwitchingLosesNothing(t *testing.T) {
	pool := &Pool{Name: "web"}
	_, at := listener(t, pool)
	instance := func(id string) (Backend, *httptest.Server) {
		s := httptest.NewServer(says(id))
		return Backend{ID: id, Address: s.Listener.Addr().String()}, s
	}
	serving, server := instance("web-0")
	pool.Set([]Backend{serving})
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answered atomic.Int64
	failed := make(chan string, 1)
	for i := range 8 {
		c := client(t, []func(*http.Transport){nil, h2c}[i%2])
		clients.Go(func() {
			for ctx.Err() == nil {
				r, _ := http.NewRequest("POST", "http://"+at, strings.NewReader("x"))
				resp, err := c.Do(r)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 {
						err = errors.Join(err, fmt.Errorf("status %d", resp.StatusCode))
					}
				}
				if err != nil {
					select {
					case failed <- err.Error():
					default:
					}
					return
				}
				answered.Add(1)
			}
		})
	}
	for i := range 20 {
		next, nextServer := instance(fmt.Sprintf("web-%d", i+1))
		pool.Split([]Backend{serving}, []Backend{next}, 50)
		seen := answered.Load()
		until(t, func() bool { return answered.Load() > seen+20 || len(failed) > 0 })
		pool.Set([]Backend{next})
		pool.Drain(ctx, serving.ID)
		server.Close()
		serving, server = next, nextServer
	}
	cancel()
	clients.Wait()
	server.Close()
	if len(failed) > 0 {
		t.Fatalf("%s, after %d requests", <-failed, answered.Load())
	}
}
