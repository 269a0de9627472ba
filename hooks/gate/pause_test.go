package gate

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// writers is a server.yaml in which ada and jun may write hello, and eve may read it.
func writers() (*access.Config, error) {
	text := "users:\n"
	for i, name := range []string{"ada", "jun", "eve"} {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i + 1)
		key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
		if err != nil {
			return nil, err
		}
		text += fmt.Sprintf("  %s: {name: %s, keys: [%q]}\n", name, name,
			strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
	}
	text += "groups:\n  administrators: [ada]\nrepositories:\n  hello: {read: [everyone], write: [ada, jun]}\n"
	return access.Parse(access.FileName, []byte(text))
}

// TestPauseLetsNothingLand: what is pushed while a branch is paused is built and waits,
// over a restart too, and lands when it is resumed.
func TestPauseLetsNothingLand(t *testing.T) {
	w := newHarness(t)
	config, err := writers()
	if err != nil {
		t.Fatal(err)
	}
	w.config.Access = func() *access.Config { return config }
	w.stop()
	w.start()
	base := w.commit("begin", files("a", "1\n"))
	w.land(ada, base)

	var refused *show.Error
	if _, _, err := w.gate.Pause(t.Context(), "hello", "", showActor("eve"), ""); !errors.As(err, &refused) ||
		refused.Kind != show.Forbidden {
		t.Errorf("eve pauses: %v", err)
	}
	if _, _, err := w.gate.Pause(t.Context(), "hello", "topic", ada, ""); !errors.As(err, &refused) ||
		refused.Kind != show.NotFound {
		t.Errorf("a branch that is not gated is paused: %v", err)
	}
	p, already, err := w.gate.Pause(t.Context(), "hello", "", ada, "the database\nmoves")
	if err != nil || already || p.Branch != "main" || p.By != "ada" || p.Reason != "the database moves" {
		t.Fatalf("pause: %+v %v %v", p, already, err)
	}
	if again, already, err := w.gate.Pause(t.Context(), "hello", "main", showActor("jun"), "me too"); err != nil ||
		!already || again != p {
		t.Errorf("paused again: %+v %v %v", again, already, err)
	}

	a := w.propose(ada, w.commit("one", files("b", "1\n"), base))
	if a.Paused == nil || *a.Paused != p {
		t.Errorf("its pusher is told %+v", a.Paused)
	}
	waits := func() bool {
		e := w.story(a.Change).Last()
		return e.Reason == p.String() && e.Cause == "paused" && w.main() == base
	}
	w.until("it waits", waits)
	w.stop()
	w.start()
	w.until("it waits after a restart", func() bool {
		q := w.gate.Queue("hello")
		return waits() && len(q) == 1 && q[0].State == show.Waits
	})
	if n := strings.Count(events(w.story(a.Change)), "waits"); n != 1 {
		t.Errorf("it is noted %d times: %s", n, events(w.story(a.Change)))
	}

	ended, branch, err := w.gate.Resume(t.Context(), "hello", "", showActor("jun"), "")
	if err != nil || branch != "main" || ended == nil || *ended != p {
		t.Fatalf("resume: %+v %q %v", ended, branch, err)
	}
	if got := w.end(a.Change); got.Kind != Landed {
		t.Errorf("it is %s: %s", got.Kind, got.Reason)
	}
	if ended, _, err := w.gate.Resume(t.Context(), "hello", "main", ada, ""); err != nil || ended != nil {
		t.Errorf("resumed again: %+v %v", ended, err)
	}
	if all, err := w.gate.Paused("hello"); err != nil || len(all) != 0 {
		t.Errorf("paused are %+v, %v", all, err)
	}
	if rep := w.verify(); len(rep.Findings) > 0 {
		t.Errorf("%+v", rep.Findings)
	}
}
