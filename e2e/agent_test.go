package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestServerIsNotNoticed: under 500 requests a second the server is killed, started,
// stopped and started again. No request is lost, and the same processes run.
func TestServerIsNotNoticed(t *testing.T) {
	t.Parallel()
	h := served(t, plain)
	must := mustOf(t)
	_, err := h.ask("ada", "repo", "create", "hello")
	must(err)
	work := filepath.Join(h.dir, "hello")
	must(h.sample(work, "hello"))
	_, errs, err := within(waitTimeout, work, h.env(), "git", "push", "-q", "origin", "main")
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	var url string
	healthy := func() {
		t.Helper()
		var last string
		for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			var e struct {
				State string
				URLs  []string
			}
			last, _ = h.ask("ada", "env", "show", "hello", "staging", "--json")
			if json.Unmarshal([]byte(last), &e) == nil && e.State == "healthy" && len(e.URLs) > 0 {
				url = e.URLs[0]
				return
			}
		}
		t.Fatalf("staging is not healthy: %s\n%s", last, h.tail())
	}
	healthy()
	before := instances(t, h)

	var sent, lost atomic.Int64
	var why atomic.Value
	end := make(chan struct{})
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	for range 8 {
		all.Go(func() {
			pace := time.NewTicker(8 * time.Second / 500)
			defer pace.Stop()
			for {
				select {
				case <-end:
					return
				case <-pace.C:
				}
				if err := answers(client, url); err != nil {
					lost.Add(1)
					why.Store(err.Error())
				}
				sent.Add(1)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		from := sent.Load()
		for deadline := time.Now().Add(waitTimeout); sent.Load() < from+n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nothing is answered any more")
			}
		}
	}
	more(200)
	must(h.stop(true))
	more(300)
	must(h.start(nil))
	healthy()
	more(200)
	must(h.stop(false))
	more(300)
	must(h.start(nil))
	healthy()
	close(end)
	all.Wait()
	if lost.Load() > 0 {
		t.Errorf("%d of %d requests were lost: %v", lost.Load(), sent.Load(), why.Load())
	}
	if after := instances(t, h); after != before {
		t.Errorf("there ran\n%s\nand now\n%s", before, after)
	}
}

func answers(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "in staging")) {
		err = errors.New(resp.Status + " " + string(body))
	}
	return err
}

// instances are what runs, by the agent's account: processes and restarts.
func instances(t *testing.T, h *harness) (all string) {
	t.Helper()
	out, errs, err := within(waitTimeout, h.dir, h.env(), filepath.Join(h.bin, "headgate"), "agent", "status", "--json",
		"--data", h.data())
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	var state struct {
		Applications []struct {
			Units []struct {
				Instances []struct {
					ID            string
					PID, Restarts int
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, a := range state.Applications {
		for _, u := range a.Units {
			for _, in := range u.Instances {
				all += fmt.Sprintf("%s is process %d, restarted %d times\n", in.ID, in.PID, in.Restarts)
			}
		}
	}
	return all
}
