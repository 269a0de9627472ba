package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front is a listener before a pool.
func front(t *testing.T, trusted Trusted) (*Pool, string) {
	t.Helper()
	pool := &Pool{Name: "web of hello in staging"}
	transport := Transport()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := ServeOn(ln, pool, transport, trusted, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		http.DefaultClient.CloseIdleConnections()
		l.Close(ctx)
		transport.CloseIdleConnections()
	})
	return pool, "http://" + l.Address().String()
}

func back(t *testing.T, id string, h http.HandlerFunc) Backend {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Backend{ID: id, Address: s.Listener.Addr().String()}
}

// gone is a backend that takes no connection.
func gone(t *testing.T, id string) Backend {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return Backend{ID: id, Address: l.Addr().String()}
}

// resets is a backend that takes a request and hangs up.
func resets(t *testing.T, id string) Backend {
	return back(t, id, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	})
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", text, r.Host, body)
	}
}

func do(t *testing.T, method, url, body string) string {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "hello.example"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(got)))
}

func TestNobodyThere(t *testing.T) {
	pool, url := front(t, nil)
	pool.SetWhy("web-1 is starting")
	if got := do(t, "GET", url, ""); got != "503 503 web of hello in staging: no healthy instance\nweb-1 is starting" {
		t.Errorf("%q", got)
	}
	pool.Set([]Backend{gone(t, "web-1")})
	if got := do(t, "GET", url, ""); got != "502 502 web of hello in staging: web-1 takes no connection" {
		t.Errorf("%q", got)
	}
	pool.Set([]Backend{resets(t, "web-2")})
	if got := do(t, "POST", url, "x"); got != "502 502 web of hello in staging: web-2 ended before it answered" {
		t.Errorf("%q", got)
	}
}

func TestAnotherInstanceIsTriedWhenThatIsSafe(t *testing.T) {
	pool, url := front(t, nil)
	good := back(t, "web-9", says("hi"))
	for _, c := range []struct {
		name         string
		bad          Backend
		method, body string
		served       bool
	}{
		{"no connection, GET", gone(t, "web-1"), "GET", "", true},
		{"no connection, POST", gone(t, "web-1"), "POST", "x", true},
		{"hung up, GET", resets(t, "web-1"), "GET", "", true},
		{"hung up, DELETE", resets(t, "web-1"), "DELETE", "", true},
		{"hung up, POST", resets(t, "web-1"), "POST", "x", false},
		{"hung up, PUT with a body", resets(t, "web-1"), "PUT", "x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool.Set([]Backend{c.bad, good})
			refused := 0
			for range 6 {
				got := do(t, c.method, url, c.body)
				if strings.HasPrefix(got, "502") {
					refused++
				} else if got != strings.TrimSpace("200 hi hello.example "+c.body) {
					t.Errorf("%q", got)
				}
			}
			if served := refused == 0; served != c.served {
				t.Errorf("%d of 6 refused", refused)
			}
		})
	}
}

func TestLeastBusyIsTaken(t *testing.T) {
	pool, url := front(t, nil)
	release, started := make(chan struct{}), make(chan struct{}, 1)
	pool.Set([]Backend{
		back(t, "slow", func(w http.ResponseWriter, r *http.Request) {
			started <- struct{}{}
			<-release
		}),
	})
	done := make(chan string, 1)
	go func() { done <- do(t, "GET", url, "") }()
	<-started
	pool.mu.Lock()
	slow := pool.backends[0].Backend
	pool.mu.Unlock()
	pool.Set([]Backend{slow, back(t, "idle", says("idle"))})
	for range 5 {
		if got := do(t, "GET", url, ""); got != "200 idle hello.example" {
			t.Errorf("%q", got)
		}
	}
	close(release)
	<-done
}

func TestDrain(t *testing.T) {
	pool, url := front(t, nil)
	release, started := make(chan struct{}), make(chan struct{}, 2)
	old := back(t, "old", func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		select {
		case <-release:
			fmt.Fprint(w, "finished")
		case <-r.Context().Done():
		}
	})
	request := func() chan string {
		done := make(chan string, 1)
		go func() { done <- do(t, "GET", url, "") }()
		<-started
		return done
	}
	pool.Set([]Backend{old})
	done := request()
	pool.Set([]Backend{back(t, "new", says("new"))})
	drained := make(chan struct{})
	go func() {
		pool.Drain(context.Background(), "old")
		close(drained)
	}()
	if got := do(t, "GET", url, ""); got != "200 new hello.example" {
		t.Errorf("%q", got)
	}
	select {
	case <-drained:
		t.Error("drained with a request in flight")
	default:
	}
	release <- struct{}{}
	if got := <-done; got != "200 finished" {
		t.Errorf("%q", got)
	}
	<-drained

	// What takes longer than its time is ended.
	pool.Set([]Backend{old})
	done = request()
	pool.Set(nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	pool.Drain(ctx, "old")
	if got := <-done; got != "502 502 web of hello in staging: old was stopped before it answered" {
		t.Errorf("%q", got)
	}
	pool.Drain(context.Background(), "never seen")
}

func TestUpgradedConnections(t *testing.T) {
	pool, url := front(t, nil)
	pool.Set([]Backend{back(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	})})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	fmt.Fprintln(conn, "ping")
	if line, err := r.ReadString('\n'); line != "ping\n" {
		t.Fatalf("%q %v", line, err)
	}
	// It would never end by itself, so it is closed as soon as its instance drains.
	pool.Set(nil)
	pool.Drain(context.Background(), "web-1")
	if _, err := r.ReadString('\n'); err == nil {
		t.Error("it is still open")
	}
}

// TestForwarding: who stands before us is believed if that was configured, and
// nobody else is.
func TestForwarding(t *testing.T) {
	sent := map[string]string{
		"X-Forwarded-For":    "10.9.8.7",
		"X-Forwarded-Proto":  "https",
		"X-Forwarded-Host":   "shop.example",
		"X-Forwarded-Prefix": "/shop",
		"X-Real-Ip":          "10.9.8.7",
		"Forwarded":          "for=10.9.8.7",
	}
	for name, c := range map[string]struct {
		trusted Trusted
		want    string
	}{
		"nobody": {nil, "127.0.0.1|http|hello.example|||"},
		"others": {Trusted{netip.MustParsePrefix("10.0.0.0/8")}, "127.0.0.1|http|hello.example|||"},
		"who sent it": {Trusted{netip.MustParsePrefix("127.0.0.0/8")},
			"10.9.8.7, 127.0.0.1|https|shop.example|/shop|10.9.8.7|for=10.9.8.7"},
	} {
		t.Run(name, func(t *testing.T) {
			pool, url := front(t, c.trusted)
			pool.Set([]Backend{back(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
				var got []string
				for _, name := range []string{"For", "Proto", "Host", "Prefix"} {
					got = append(got, r.Header.Get("X-Forwarded-"+name))
				}
				fmt.Fprint(w, strings.Join(append(got, r.Header.Get("X-Real-Ip"), r.Header.Get("Forwarded")), "|"))
			})})
			req, _ := http.NewRequest("GET", url, nil)
			for name, value := range sent {
				req.Header.Set(name, value)
			}
			req.Host = "hello.example"
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); string(body) != c.want {
				t.Errorf("%s, want %s", body, c.want)
			}
		})
	}
}

// TestWhatIsNotOursIsPassedThrough: parameters that Go would not read, and a body
// without a type.
func TestWhatIsNotOursIsPassedThrough(t *testing.T) {
	pool, url := front(t, nil)
	pool.Set([]Backend{back(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		if kind := r.Header.Get("Want-Type"); kind != "" {
			w.Header().Set("Content-Type", kind)
		}
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "<html>"+r.RequestURI)
	})})
	for target, kind := range map[string]string{
		"/a%2Fb/../c//d?q=a;b&x=1":  "",
		"/?x=%zz&y=%":               "",
		"/?":                        "",
		"/a;b=c?d":                  "text/made-up",
		"/%E2%82%AC?u=http://e/?f;": "",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		header := ""
		if kind != "" {
			header = "Want-Type: " + kind + "\r\n"
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", target, header)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		for err == nil && resp.StatusCode == http.StatusEarlyHints {
			resp, err = http.ReadResponse(r, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "<html>"+target {
			t.Errorf("%s arrived as %q, %v", target, body, err)
		}
		if got := resp.Header["Content-Type"]; strings.Join(got, ",") != kind {
			t.Errorf("%s: the type is %q, want %q", target, got, kind)
		}
	}
}

// TestConsoleNameIsNoService: by the console's own name nobody reaches a service: a
// browser would send it the session.
func TestConsoleNameIsNoService(t *testing.T) {
	pool, address := front(t, nil)
	reached := 0
	pool.Set([]Backend{back(t, "web-1", func(http.ResponseWriter, *http.Request) { reached++ })})
	for host, want := range map[string]int{
		"console.localhost":       http.StatusMisdirectedRequest,
		"console.localhost:8081":  http.StatusMisdirectedRequest,
		"Console.LOCALHOST.:8081": http.StatusMisdirectedRequest,
		"localhost:8081":          http.StatusOK,
		"my-console.localhost":    http.StatusOK,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %s, want %d", host, res.Status, want)
		}
	}
	if reached != 2 {
		t.Errorf("the service was reached %d times", reached)
	}
}

// TestConsoleCookiesStayAway: an application on another port of the console's
// host is sent the console's cookies, and must not get them.
func TestConsoleCookiesStayAway(t *testing.T) {
	pool, url := front(t, nil)
	got := make(chan []string, 1)
	pool.Set([]Backend{back(t, "web-1", func(w http.ResponseWriter, r *http.Request) { got <- r.Header["Cookie"] })})

	for _, c := range []struct {
		sent, want []string
	}{
		{[]string{"headgate-session=secret"}, nil},
		{[]string{"a=1; headgate-session=secret; b=\"x y\""}, []string{"a=1; b=\"x y\""}},
		{[]string{"__Host-headgate-session=secret;HEADGATE-flash=x; a=1"}, []string{"a=1"}},
		{[]string{"headgate-session=1", "b=2"}, []string{"b=2"}},
		{[]string{"headgate=mine; ab=headgate-session"}, []string{"headgate=mine; ab=headgate-session"}},
		{nil, nil},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Cookie"] = c.sent
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if seen := <-got; !slices.Equal(seen, c.want) {
			t.Errorf("%q arrives as %q, want %q", c.sent, seen, c.want)
		}
	}
}
