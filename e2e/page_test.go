package e2e

import (
	"context"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// pageCmd: page PATH prints a page of the console as the user reads it, without its
// tags; page PATH NAME=VALUE… sends the form there with these fields, as pressing a
// button does, and prints where that leads. It fails when the console refuses.
func pageCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: page PATH [NAME=VALUE…]")
	}
	status, text, err := harnessOf(ts).page(args[0], args[1:])
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), text)
	if (status >= 400) != neg {
		ts.Fatalf("page %s: %d\n%s", args[0], status, text)
	}
}

var (
	tagForm   = regexp.MustCompile(`(?s)<(?:script|style).*?</(?:script|style)>|<[^>]*>`)
	spaceForm = regexp.MustCompile(`\s*\n\s*`)
	tokenForm = regexp.MustCompile(`name="token" value="([^"]+)"`)
)

func (h *harness) page(path string, fields []string) (status int, text string, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return 0, "", err
	}
	// What ends in .localhost is this machine, as browsers have it; not every resolver knows.
	here := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(h.HTTP, "http://"))
	}
	client := http.Client{Jar: jar, Timeout: time.Minute,
		Transport: &http.Transport{DialContext: here, DisableKeepAlives: true}}
	code, err := h.ask(h.user, "login", "--json")
	if err != nil {
		return 0, "", err
	}
	m := regexp.MustCompile(`"code": ?"([^"]+)"`).FindStringSubmatch(code)
	if m == nil {
		return 0, "", fmt.Errorf("no code in %s", code)
	}
	send := func(path string, form url.Values) (int, string, error) {
		method, body := "GET", ""
		if form != nil {
			method, body = "POST", form.Encode()
		}
		req, err := http.NewRequest(method, h.console()+path, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", h.console())
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		return resp.StatusCode, string(data), err
	}

	status, text, err = send("/sign-in", url.Values{"code": {m[1]}, "to": {path}})
	if err == nil && len(fields) > 0 {
		token := tokenForm.FindStringSubmatch(text)
		if token == nil {
			return status, text, fmt.Errorf("%s has no form", path)
		}
		form := url.Values{"token": {token[1]}}
		for _, f := range fields {
			name, value, _ := strings.Cut(f, "=")
			form.Add(name, value)
		}
		status, text, err = send(path, form)
	}
	text = html.UnescapeString(tagForm.ReplaceAllString(text, ""))
	return status, strings.TrimSpace(spaceForm.ReplaceAllString(text, "\n")) + "\n", err
}
