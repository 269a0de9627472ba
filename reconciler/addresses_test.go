package reconciler

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/show"
)

// listening are the files of a repository with one environment that listens.
func listening(environment, port string) map[string]string {
	return map[string]string{
		"headgate.yaml": "environments:\n  " + environment + ": {target: services}\n",
		"deploy/" + environment + "/compose.yaml": "services: {web: {command: hello, ports: [\"" + port + "\"]}}\n",
	}
}

// TestAnAddressBelongsToItsEnvironment: who declares an address first has it, after a
// restart too, until what is promoted there does without it.
func TestAnAddressBelongsToItsEnvironment(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	other, err := h.store.Create(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	stop := h.start(t)
	if _, err := h.land(t.Context(), version1("ada", "one"), listening("live", "8000:80")); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "live", 1)

	holder := func(repository, address string) Holder {
		t.Helper()
		got, held, err := h.rc.HolderFor(repository, netip.MustParseAddrPort(address))
		if err != nil || held != (got != Holder{}) {
			t.Fatalf("%+v, %t, %v", got, held, err)
		}
		return got
	}
	live := Holder{Repository: "hello", Environment: "live"}
	for address, want := range map[string]Holder{
		"127.0.0.1:8000": live,
		"0.0.0.0:8000":   live,
		"[::]:8000":      live,
		"127.0.0.1:8001": {},
		"127.0.0.2:8000": {},
	} {
		if got := holder("other", address); got != want {
			t.Errorf("%s is held by %+v, want %+v", address, got, want)
		}
	}
	if got := holder("hello", "127.0.0.1:8000"); got != (Holder{}) {
		t.Errorf("hello is refused its own by %+v", got)
	}

	// Had it landed all the same, it is not promoted: not now, and not after a restart.
	if _, err := h.landIn(t.Context(), other, version1("eve", "bad"), listening("theirs", "0.0.0.0:8000:80")); err != nil {
		t.Fatal(err)
	}
	h.rc.Wake("")
	const refused = "release 1 cannot be declared: 0.0.0.0:8000 is held by an environment of another repository"
	notPromoted := func(e show.Environment) bool { return e.State == show.Empty && strings.Contains(e.Reason, refused) }
	h.eventuallyIn(t, "other", "theirs", "refused", notPromoted)
	stop()
	stop = h.start(t)
	h.healthy(t, "live", 1)
	h.eventuallyIn(t, "other", "theirs", "refused after a restart", notPromoted)

	// The holder goes: whoever has waited gets it, and has it.
	if _, err := h.land(t.Context(), version1("ada", "two"), listening("live", "8001:80")); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "live", 2)
	h.eventuallyIn(t, "other", "theirs", "promoted", func(e show.Environment) bool { return e.State == show.Healthy })
	if got := holder("hello", "127.0.0.1:8000"); got != (Holder{Repository: "other", Environment: "theirs"}) {
		t.Fatalf("held by %+v", got)
	}
	_, err = h.rc.Rollback(t.Context(), "hello", "live", 1, actor("ada"), "it was nicer")
	var denied *show.Error
	if !errors.As(err, &denied) ||
		!strings.Contains(denied.What, "127.0.0.1:8000 is held by an environment of another repository") {
		t.Fatalf("rolled back: %v", err)
	}

	// What is reserved is nobody else's, whoever listens there.
	if err := h.setAccess(serverYAML + "  other: {ports: [9000-9010]}\n"); err != nil {
		t.Fatal(err)
	}
	if got := holder("hello", "127.0.0.1:9005"); got != (Holder{Repository: "other", Reserved: true}) {
		t.Fatalf("held by %+v", got)
	}
	if got := holder("other", "127.0.0.1:9005"); got != (Holder{}) {
		t.Fatalf("held by %+v", got)
	}
	stop()
}
