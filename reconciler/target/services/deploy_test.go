package services

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// prometheus stands in for Prometheus' query API.
func prometheus(t *testing.T, answer func(query string) string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/query" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, answer(r.URL.Query().Get("query")))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func vector(values ...string) string {
	var series []string
	for _, v := range values {
		series = append(series, fmt.Sprintf(`{"metric":{},"value":[1,%q]}`, v))
	}
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
}

// TestPrometheusAnswers: of what Prometheus may say each is a value, none, or trouble.
func TestPrometheusAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer, want string
		above              bool
	}{
		{"one", vector("0.5"), "0.5", true},
		{"the highest", vector("1", "3", "2"), "3", true},
		{"the lowest", vector("3", "1", "2"), "1", false},
		{"nothing", vector(), "none", true},
		{"nothing by nothing", vector("NaN"), "none", true},
		{"endless", vector("+Inf"), "+Inf", true},
		{"scalar", `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`, "7", true},
		{"matrix", `{"status":"success","data":{"resultType":"matrix","result":[]}}`,
			"the query gives a matrix; an alarm needs a vector or a scalar", true},
		{"error", `{"status":"error","errorType":"bad_data","error":"parse error"}`, "parse error", true},
		{"something else", `<html>`, "answered 200, and not as Prometheus does", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked string
			q := alarm.Query{Query: `errors{release="$HEADGATE_RELEASE"}`}
			q.Prometheus = prometheus(t, func(query string) string { asked = query; return c.answer })
			q, err := QueryOf(q, &target.Declared{Release: target.Release{Number: 7}})
			if err != nil {
				t.Fatal(err)
			}
			m := q.Ask(t.Context(), "errors", c.above)
			got := fmt.Sprint(m.Value)
			if m.None {
				got = "none"
			}
			if m.Err != "" {
				got = m.Err
			}
			if !strings.HasSuffix(got, c.want) || asked != `errors{release="7"}` {
				t.Errorf("%s, want %s; asked %s", got, c.want, asked)
			}
		})
	}
	away := httptest.NewServer(nil)
	away.Close()
	if m := (alarm.Query{Prometheus: away.URL, Query: "up"}).Ask(t.Context(), "errors", true); m.Name != "errors" ||
		!strings.HasSuffix(m.Err, "connection refused") || strings.Contains(m.Err, "query=") {
		t.Errorf("without Prometheus: %+v", m)
	}
}

// TestHookAnswers: what a hook may answer, and that what passes by itself is tried again.
func TestHookAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   rollout.Hooked
	}{
		{"nothing", 204, "", rollout.Hooked{Result: rollout.Succeeded}},
		{"text", 200, "all is well\nmore", rollout.Hooked{Result: rollout.Succeeded, Message: "all is well"}},
		{"done", 200, `{"hookStatus":"SUCCEEDED"}`, rollout.Hooked{Result: rollout.Succeeded}},
		{"not yet", 200, `{"hookStatus":"IN_PROGRESS"}`, rollout.Hooked{Result: rollout.InProgress, Again: 30 * time.Second}},
		{"later", 200, `{"hookStatus":"IN_PROGRESS","callBackDelay":5,"message":"half"}`,
			rollout.Hooked{Result: rollout.InProgress, Again: 5 * time.Second, Message: "half"}},
		{"no", 200, `{"hookStatus":"FAILED","message":"3 tests"}`,
			rollout.Hooked{Result: rollout.Failed, Message: "3 tests"}},
		{"refused", 403, "no", rollout.Hooked{Result: rollout.Failed, Message: "answered 403: no"}},
		{"elsewhere", 302, "", rollout.Hooked{Result: rollout.Failed, Message: "answered 302"}},
		{"broken", 502, "", rollout.Hooked{Result: rollout.InProgress, Again: 5 * time.Second, Message: "answered 502"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var about hookRequest
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				_ = json.Unmarshal(body, &about)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}))
			defer s.Close()
			c.want.Name = "smoke"
			if got := callHook(t.Context(), s.URL, hookRequest{Hook: "smoke", Release: 7}); got != c.want || about.Release != 7 {
				t.Errorf("%+v, want %+v; told %+v", got, c.want, about)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := callHook(ctx, "http://127.0.0.1:1/", hookRequest{}); got.Result != rollout.InProgress || got.Message == "" {
		t.Errorf("%+v", got)
	}
}

// TestCanary: a canary gets its part of the traffic, an alarm stops it and has it rolled
// back; a hook lets the next one through, and both services share a port by route.
func TestCanary(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, h *harness) {
		var errors atomic.Value
		errors.Store("0")
		address := prometheus(t, func(string) string { return vector(errors.Load().(string)) })
		var called atomic.Int32
		hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { called.Add(1) }))
		t.Cleanup(hook.Close)
		compose := fmt.Sprintf(`
x-headgate:
  deployment:
    strategy: canary
    percent: 20
    interval: 1h
    hooks: [{stage: post-scale-up, url: "%s"}]
    alarms: [{name: errors, prometheus: "%s", query: "errors", above: 0.5, interval: 1s}]
services:
  web:
    command: ./server
    environment: {BE_SERVER: 1, ENV: %s}
    ports: ["0:80"]
    x-headgate: {health: /healthz, test_header: X-Canary}
    healthcheck: {timeout: 1m, start_period: 10m}
`, hook.URL, address, h.env)
		h.converge(1, compose)
		o := h.await(target.Healthy)
		url := o.Units[0].URL
		h.converge(2, compose)
		eventually(t, "a fifth goes to the canary", func() (string, bool) {
			o := h.Observe(h.key())
			return fmt.Sprintf("%+v", o), len(o.Units) == 1 && o.Units[0].Weight == 20 && o.Units[0].Canary == 2 &&
				o.Units[0].Release == 1
		})
		n := 0
		for range 100 {
			if _, body, err := get(url); err == nil && strings.HasPrefix(body, "release 2 ") {
				n++
			}
		}
		if n != 20 {
			t.Errorf("%d of 100 requests went to the canary", n)
		}
		r, _ := http.NewRequest(http.MethodGet, url, nil)
		r.Header.Set("X-Canary", "1")
		if resp, err := http.DefaultClient.Do(r); err != nil {
			t.Error(err)
		} else {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !strings.HasPrefix(string(body), "release 2 ") {
				t.Errorf("with the test header: %s", body)
			}
		}
		if called.Load() != 2 {
			t.Errorf("the hook was called %d times", called.Load())
		}

		errors.Store("0.9")
		o = h.await(target.Failed)
		if !o.RollBack || !strings.Contains(o.Message, "alarm errors: 0.9 is above 0.5") ||
			!strings.Contains(o.Message, "release 1 goes on serving") {
			t.Errorf("%+v", o)
		}
		for range 20 {
			if _, body, err := get(url); err != nil || !strings.HasPrefix(body, "release 1 ") {
				t.Fatalf("%s %v", body, err)
			}
		}
	})
}
