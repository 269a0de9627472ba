package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpgrades: agents of another program go on with the server's, one by one. One that the
// server does not hear goes back, and holds the others up until somebody says so; one that is
// killed on the way comes to the same end; and what was taken works after a restart, too.
func TestUpgrades(t *testing.T) {
	t.Parallel()
	h := served(t, plain)
	another, err := raced()
	if err != nil {
		t.Fatal(err)
	}
	ask := h.asker(t)
	// is says how far an agent is: "" for one with the server's program, "away" when it is.
	is := func(name string) string {
		var a struct {
			Connected bool
			Upgrade   struct{ State, Message string }
		}
		if err := json.Unmarshal([]byte(ask("agent", "show", name, "--json")), &a); err != nil {
			t.Fatal(err)
		}
		if !a.Connected {
			return "away"
		}
		return strings.TrimSpace(a.Upgrade.State + " " + a.Upgrade.Message)
	}
	var web []*otherMachine
	for i, point := range []string{"agent.program-reporting", "agent.program-received"} {
		m := newMachine(t, h, fmt.Sprintf("web-%d", i+1))
		if err := os.Symlink(filepath.Join(another, "headgate"), filepath.Join(m.dir, "headgate")); err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(ask("agent", "enrol", "--name", fmt.Sprintf("web-%d", i+1)), "\n")
		_, line, _ = strings.Cut(line, "chmod +x headgate && ")
		if out, err := m.paste(line); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m.start("HEADGATE_CRASH_AT=" + point)
		if i == 0 {
			await(t, h, "web-1 has gone back", func() bool { return strings.HasPrefix(is("web-1"), "failed") })
		}
		web = append(web, m)
	}
	if said := is("web-1"); !strings.Contains(said, "it ended before the server had heard it: signal: killed") {
		t.Errorf("web-1: %s", said)
	}
	await(t, h, "web-2 waits", func() bool { return is("web-2") == "queued" })
	if out := ask("agent", "list"); !strings.Contains(out, "not upgraded") || !strings.Contains(out, "to be upgraded") {
		t.Errorf("%s", out)
	}
	if out := ask("agent", "upgrade", "web-2"); !strings.Contains(out, "web-2: to go on with the program of this server") {
		t.Errorf("%s", out)
	}
	await(t, h, "web-2 works by the server's program", func() bool { return is("web-2") == "" })
	if !strings.Contains(web[1].told(), "signal: killed") {
		t.Errorf("web-2 was not killed:\n%s", web[1].told())
	}

	web[0].kill()
	web[0].start()
	await(t, h, "web-1 is as it was", func() bool { return strings.HasPrefix(is("web-1"), "failed") })
	ask("agent", "upgrade")
	await(t, h, "web-1 works by the server's program", func() bool { return is("web-1") == "" })
	for _, m := range web {
		m.kill()
	}
	await(t, h, "both are away", func() bool { return is("web-1") == "away" && is("web-2") == "away" })
	for _, m := range web {
		m.start()
	}
	await(t, h, "both are back with it", func() bool { return is("web-1") == "" && is("web-2") == "" })
	log, err := os.ReadFile(filepath.Join(h.dir, "server.log"))
	if n := strings.Count(string(log), "an agent is to work by this program"); err != nil || n != 4 { // web-2's was cut once
		t.Errorf("%d upgrades began: %v\n%s", n, err, log)
	}
	if out := ask("agent", "upgrade", "web-1"); !strings.Contains(out, "web-1 goes on as it is") {
		t.Errorf("%s", out)
	}
}
