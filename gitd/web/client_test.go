package web

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// codes is a Login whose codes are "CODE-" and the user's name, each good once.
type codes struct {
	mu   sync.Mutex // guards used
	used map[string]bool
}

func (c *codes) Redeem(code string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	user, ok := strings.CutPrefix(code, "CODE-")
	if !ok || c.used[code] {
		return "", false
	}
	c.used[code] = true
	return user, true
}

// users are those the fixture's server knows.
var users = []string{"ada", "mirek", "outsider", longUser}

// console is a Server on a Backend of fixtures, with its clock at noon.
func console(h *backend) *Server {
	return &Server{
		Backend: h, Login: &codes{used: map[string]bool{}}, Key: []byte("0123456789abcdef0123456789abcdef"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: func() time.Time { return noon },
		Actor: func(_ context.Context, name string) (access.Identity, bool) {
			return access.Identity{User: name, Via: access.ViaConsole}, slices.Contains(users, name)
		},
		Administers: func(who access.Identity) bool { return who.User == "ada" },
	}
}

// browser is a client of a console, signed in as one user or as nobody.
type browser struct {
	t      *testing.T
	url    string
	cookie *http.Cookie
	token  string // goes with every form, as on a page of the session
}

// signedIn serves s and opens a session for user ("" for nobody).
func signedIn(t *testing.T, s *Server, user string) *browser {
	t.Helper()
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	b := &browser{t: t, url: srv.URL}
	if user != "" {
		b.cookie = cookieFor(s, user)
		b.token = tokenFor(s, b.cookie)
	}
	return b
}

func cookieFor(s *Server, user string) *http.Cookie {
	rec := httptest.NewRecorder()
	newSessions(s.Key).begin(rec, user, "127.0.0.1:1", s.Now())
	return rec.Result().Cookies()[0]
}

// tokenFor is the form token of a cookie's session.
func tokenFor(s *Server, cookie *http.Cookie) string {
	all := newSessions(s.Key)
	var opened session
	if !all.open("session", cookie.Value, &opened) {
		return ""
	}
	return all.token(opened)
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

func (b *browser) do(method, path, body string, header ...string) answer {
	b.t.Helper()
	if body != "" && b.token != "" {
		body += "&token=" + b.token
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if b.cookie != nil {
		req.AddCookie(b.cookie)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Timeout: waitTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{res, string(got)}
}

func (b *browser) get(path string, header ...string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, path, "", append([]string{"Accept", "text/html"}, header...)...)
}

func (b *browser) json(path string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, path, "", "Accept", "application/json")
}
