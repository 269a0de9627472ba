package function

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
)

// freePort is one that nobody listens on, and that the kernel gives to nobody who asks for
// any.
func freePort(t *testing.T) int {
	t.Helper()
	for {
		port := 20_000 + rand.IntN(12_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
}

func (h *harness) request(method, address, body string, header ...string) (*http.Response, string) {
	h.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		h.Fatal(err)
	}
	return resp, string(said)
}

// TestURL: an ordinary request becomes an event of payload format 2.0, and what the function
// returns the response.
func TestURL(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	port := freePort(t)
	h.declare(1, 1, files(fmt.Sprintf("functions: {hello: {timeout: 5m, url: %d, environment: {DO: request}}}\n", port)))
	address := fmt.Sprintf("http://127.0.0.1:%d", port)
	if o := h.healthy(1); o.Units[0].URL != address {
		t.Errorf("it is at %s", o.Units[0].URL)
	}
	resp, said := h.request("PUT", address+"/a%20b/c?x=1&x=2&y=", `{"n": 1}`, "Content-Type", "application/json",
		"X-More", "one", "X-More", "two", "Cookie", "a=1; b=2", "User-Agent", "test")
	var got events.LambdaFunctionURLRequest
	if err := json.Unmarshal([]byte(said), &got); err != nil || resp.StatusCode != 200 ||
		resp.Header.Get("X-Amz-Executed-Version") != "1" {
		t.Fatalf("%s %v: %s", resp.Status, resp.Header, said)
	}
	host := fmt.Sprintf("127.0.0.1:%d", port)
	about := got.RequestContext
	if about.HTTP.Method != "PUT" || about.HTTP.Path != "/a b/c" || about.HTTP.SourceIP != "127.0.0.1" ||
		about.HTTP.UserAgent != "test" ||
		about.HTTP.Protocol != "HTTP/1.1" || about.DomainName != host || about.TimeEpoch == 0 || about.RequestID == "" ||
		about.AccountID != "anonymous" {
		t.Errorf("the context is %+v", about)
	}
	got.RequestContext = events.LambdaFunctionURLRequestContext{}
	want := events.LambdaFunctionURLRequest{
		Version:        "2.0",
		RawPath:        "/a%20b/c",
		RawQueryString: "x=1&x=2&y=",
		Cookies:        []string{"a=1", "b=2"},
		Headers: map[string]string{
			"host": host, "x-more": "one,two", "user-agent": "test", "content-type": "application/json",
			"accept-encoding": "gzip", "content-length": "8",
		},
		QueryStringParameters: map[string]string{"x": "1,2", "y": ""},
		Body:                  `{"n": 1}`,
	}
	delete(got.Headers, "content-length")
	delete(want.Headers, "content-length")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the event is\n%+v, not\n%+v", got, want)
	}
	_, said = h.request("POST", address+"/", "\x00\x01", "Content-Type", "application/octet-stream")
	if err := json.Unmarshal([]byte(said), &got); err != nil || !got.IsBase64Encoded || got.Body != "AAE=" {
		t.Errorf("bytes come as %s", said)
	}

	for path, want := range map[string]struct {
		status     int
		kind, said string
	}{
		"/text":   {200, "application/json", `"hello"`},
		"/object": {200, "application/json", `{"n":1}`},
		"/whole":  {418, "image/png", "\x00\x01\xfe"},
		"/fails":  {502, "application/json", "{\"message\":\"Internal Server Error\"}\n"},
		"/odd":    {502, "application/json", "{\"message\":\"Internal Server Error\"}\n"},
	} {
		resp, said := h.request("GET", address+path, "")
		if resp.StatusCode != want.status || resp.Header.Get("Content-Type") != want.kind || said != want.said {
			t.Errorf("%s: %s %s %q", path, resp.Status, resp.Header.Get("Content-Type"), said)
		}
		if path == "/whole" && (resp.Header.Get("X-Own") != "yes" ||
			!reflect.DeepEqual(resp.Header["Set-Cookie"], []string{"a=1", "b=2; Secure"})) {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
	if resp, _ := h.request("POST", address+"/",
		strings.Repeat("x", maxPayload)); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too much gets %s", resp.Status)
	}
	// The address goes with its declaration.
	h.declare(2, 1, files("functions: {hello: {timeout: 5m, environment: {DO: request}}}\n"))
	h.healthy(2)
	if _, err := http.Get(address); err == nil {
		t.Error("the URL answers and is not declared any more")
	}
}

// TestStreaming: the first part of an answer is there before the second is made.
func TestStreaming(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	port := freePort(t)
	address := fmt.Sprintf("http://127.0.0.1:%d", port)
	settings := fmt.Sprintf("functions: {hello: {timeout: 5m, url: %d, stream: STREAM, environment: {DO: stream}}}\n",
		port)
	h.declare(1, 1, files(strings.Replace(settings, "STREAM", "true", 1)))
	h.healthy(1)

	arrived := make(chan struct{})
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-arrived }))
	defer gate.Close()
	resp, err := http.Get(address + "/?next=" + url.QueryEscape(gate.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Own") != "yes" ||
		resp.Header.Get("Content-Type") != "text/plain" || len(resp.Cookies()) != 2 {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Errorf("%q, %v", first, err)
	}
	close(arrived)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != " second" {
		t.Errorf("%q, %v", rest, err)
	}
	// One that breaks off is not taken for whole.
	if broken, err := http.Get(address + "/breaks"); err == nil {
		said, err := io.ReadAll(broken.Body)
		broken.Body.Close()
		if err == nil {
			t.Errorf("a broken answer reads like a whole one: %s %q", broken.Status, said)
		}
	}
	if resp, said := h.request("GET", address, ""); said != "first second" {
		t.Errorf("%s: %q", resp.Status, said)
	}

	// Without stream it comes whole, or not at all.
	h.declare(2, 2, files(strings.Replace(settings, "STREAM", "false", 1)))
	h.healthy(2)
	if resp, said := h.request("GET", address, ""); said != "first second" || resp.StatusCode != http.StatusTeapot {
		t.Errorf("%s: %q", resp.Status, said)
	}
	if resp, said := h.request("GET", address+"/breaks", ""); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("%s: %q", resp.Status, said)
	}
	if resp, said := h.invoke("hello:live", `{"rawPath": "/"}`); !bytes.HasSuffix([]byte(said), []byte("first second")) ||
		resp.StatusCode != 200 {
		t.Errorf("invoked: %s: %q", resp.Status, said)
	}
}
