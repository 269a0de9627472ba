package forge

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/hooks/delivery"
)

// TestHostileBodies: whatever a body holds that is signed, it is taken or refused, nothing
// falls over, and the next one is taken.
func TestHostileBodies(t *testing.T) {
	t.Parallel()
	rt := newReceiver(t, 5*time.Minute)
	home := `"repository": {"full_name": "owner/name"}, "project": {"path_with_namespace": "owner/name"}`
	commits := strings.Repeat(`{"id": "0000000000000000000000000000000000000000", "added": null}, `, 100_000)
	bodies := map[string]struct {
		body string
		want int
	}{
		"null":                 {`null`, 202},
		"a list":               {`[]`, 400},
		"a number":             {`7`, 400},
		"nothing":              {``, 400},
		"cut short":            {`{"action": "created", "repository": {"full_`, 400},
		"a million lists":      {strings.Repeat("[", 1_000_000), 400},
		"a million in a field": {`{` + home + `, "x": ` + strings.Repeat(`{"y":`, 1_000_000), 400},
		"all null": {`{"action": null, "repository": null, "project": null, "number": null, "pull_request": null,
			"issue": null, "comment": null, "object_attributes": null, "merge_request": null, "sender": null}`, 202},
		"all of another type": {`{"action": {}, "repository": 7, "project": [], "number": "x", "pull_request": "x",
			"issue": true, "comment": [], "object_kind": 1, "object_attributes": 3, "merge_request": "", "sender": 1}`, 202},
		"numbers out of bounds": {
			`{` + home + `, "number": 1e400, "comment": {"id": 99999999999999999999}}`,
			202,
		},
		"a hundred thousand commits": {`{` + home + `, "object_kind": "push", "commits": [` + commits + `{}]}`, 202},
		"no UTF-8, and NUL":          {`{` + home + ", \"action\": \"\xff\x00\\u0000\"}", 400},
		"another repository behind the right one": {`{` + home + `, "repository": {"full_name": "owner/other"},
			"project": {"path_with_namespace": "owner/other"}}`, 403},
	}
	events := []string{"push", "pull_request", "issue_comment", "merge_group", "check_run", "check_suite",
		"deployment_protection_rule", "Note Hook"}
	for name, c := range bodies {
		digest := hex.EncodeToString(sum([]byte("new"), []byte(c.body)))
		for connection, header := range map[string][]string{
			"hub": {"X-Hub-Signature-256: sha256=" + digest, "X-GitHub-Event: push"},
			"lab": {"X-Gitlab-Token: new", "X-Gitlab-Event: Push Hook"},
			"tea": {"X-Gitea-Signature: " + digest, "X-Gitea-Event: push"},
		} {
			if got, a := rt.post(t, connection, c.body, header...); got != c.want && (got != 200 || c.want != 202) {
				t.Errorf("%s, %s: %d %s, want %d", connection, name, got, a.Message, c.want)
			}
		}
		for _, kind := range []Kind{GitHub, GitLab, Gitea} {
			for _, event := range events {
				h, err := HintsOf(kind, event, []byte(c.body))
				for _, key := range h.Keys {
					if err != nil || key.check() != nil {
						t.Errorf("%s %s, %s: %+v, %v", kind, event, name, key, err)
					}
				}
			}
		}
	}
	if got, a := rt.post(t, "hub", pushBody, signed("new", pushBody)); got != 202 {
		t.Errorf("a good one after them: %d %s", got, a.Message)
	}
}

// TestReplay: a delivery that comes a thousand times, several at a time, is one.
func TestReplay(t *testing.T) {
	t.Parallel()
	rt := newReceiver(t, 5*time.Minute)
	var mu sync.Mutex
	codes := map[int]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 125 {
				code, _ := rt.post(
					t,
					"hub",
					pushBody,
					signed("new", pushBody),
					"X-GitHub-Delivery: same",
					"X-GitHub-Event: push",
				)
				mu.Lock()
				codes[code]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	list := rt.inbox.List(10)
	if codes[202] != 1 || codes[200] != 999 || rt.arrived.Load() != 1 || len(list) != 1 || list[0].Duplicates != 999 {
		t.Errorf("answers %v, %d arrived, %+v", codes, rt.arrived.Load(), list)
	}
}

// TestManyAreOneLook: what has been acknowledged before a kill is all there after it, and
// the forge is asked once for all of it.
func TestManyAreOneLook(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	w, err := h.hub.worker("hub")
	if err != nil {
		t.Fatal(err)
	}
	const many = 2000
	var all sync.WaitGroup
	for of := range 64 {
		all.Go(func() {
			for i := of; i < many; i += 64 {
				_, err := w.inbox.Put(
					delivery.Delivery{ID: fmt.Sprint(i), Event: "push", At: time.Now(), Body: []byte(pushBody)},
				)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	// Nothing is closed: this is what a kill leaves.
	h.hub = &Hub{Dir: h.hub.Dir, Store: h.hub.Store, Access: h.hub.Access, Secrets: h.hub.Secrets, Log: h.hub.Log}
	defer h.run()()
	h.eventually("all are applied", func() bool {
		list, err := h.hub.Deliveries("hub", 2*many)
		applied := 0
		for _, d := range list {
			if d.Outcome == delivery.Applied {
				applied++
			}
		}
		return err == nil && applied == many
	})
	if n := h.calls.Load(); n > 10 {
		t.Errorf("the forge was called %d times for %d webhooks", n, many)
	}
	if status := h.hook("7"); status != http.StatusOK {
		t.Errorf("one of them again: %d", status)
	}
}

// TestFloodIsFewLooks: webhooks that go on coming are looked at together, by and by, and the
// last of them is followed, too.
func TestFloodIsFewLooks(t *testing.T) {
	t.Parallel()
	h := newHubTest(t)
	defer h.run()()
	h.inStep()
	began, before := time.Now(), h.calls.Load()
	for i := range 400 {
		if i == 399 {
			h.commit("last")
			h.git(h.clone, "push", "-q", "origin", "HEAD:main")
		}
		if status := h.hook(fmt.Sprint("flood-", i)); status != http.StatusAccepted {
			t.Fatalf("webhook %d: %d", i, status)
		}
	}
	h.inStep()
	h.eventually("all are applied", func() bool { return h.status().Pending == 0 })
	looks := looksAtOnce + int64(time.Since(began)/paceOfLooks) + 2
	if n := h.calls.Load() - before; n > 4*looks { // of which each takes a few calls
		t.Errorf("the forge was called %d times in %s", n, time.Since(began))
	}
}
