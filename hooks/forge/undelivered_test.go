package forge

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/hooks/delivery"
)

// TestUndelivered: what GitHub could not deliver, and does not send again, is taken from its
// log: each once, counted as lost, and processed like what has come.
func TestUndelivered(t *testing.T) {
	t.Parallel()
	a := newAppTest(t, "")
	api, err := a.api()
	a.must(err)
	address := a.hub.Webhook("hub")
	a.must(api.SetHook(t.Context(), address, hookSecret))
	w, err := a.hub.worker("hub")
	a.must(err)
	post := func(id, secret string, want int) {
		t.Helper()
		if status, answer, err := a.Hook(address, id, secret, 0, 0); err != nil || status != want {
			t.Fatalf("%s: %d %s, %v", id, status, answer, err)
		}
	}

	// What was posted before there was a connection was not lost.
	post("before", "another", http.StatusUnauthorized)
	w.lookAtHook(t.Context())
	if n := w.lost.read(); n.Count != 0 || n.Until.IsZero() {
		t.Fatalf("%+v", n)
	}

	post("came", hookSecret, http.StatusAccepted)
	for i := range 5 { // more than one page of them
		post(fmt.Sprint("lost-", i), "another", http.StatusUnauthorized)
	}
	post("late", "another", http.StatusUnauthorized)
	post("late", hookSecret, http.StatusAccepted)
	post("twice", "another", http.StatusUnauthorized)
	post("twice", "another", http.StatusUnauthorized)
	for range 2 { // the second time changes nothing
		w.lookAtHook(t.Context())
		if n := w.lost.read(); n.Count != 6 || n.Last.IsZero() {
			t.Fatalf("%d are lost", n.Count)
		}
	}
	again, err := openLost(w.lost.path)
	a.must(err)
	if again.read() != w.lost.read() {
		t.Errorf("on disk is %+v, and %+v counts", again.read(), w.lost.read())
	}

	defer a.run()()
	a.eventually("all are processed", func() bool { return a.status().Pending == 0 })
	list, err := a.hub.Deliveries("hub", 100)
	a.must(err)
	fromLog := map[string]bool{}
	for _, d := range list {
		if d.Outcome != delivery.Applied || d.Event != "push" || time.Since(d.At) > time.Hour {
			t.Errorf("%+v", d)
		}
		if d.Secret == delivery.FromLog {
			fromLog[d.ID] = true
		}
	}
	if len(list) != 8 || len(fromLog) != 6 || !fromLog["twice"] || !fromLog["lost-4"] || fromLog["late"] {
		t.Errorf("%d deliveries, %v from the log", len(list), fromLog)
	}

	// It is what GitHub sends again by hand, and known for the same.
	post("lost-1", hookSecret, http.StatusOK)
}
