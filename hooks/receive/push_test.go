package receive

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
)

func TestPlainRefsMove(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	first := c.commit("first", map[string]string{"f": "1"})
	h.push(c, "jun", "origin", "main").ok(t, "[new branch]      main -> main")
	if got := h.ref(h.loose, "refs/heads/main"); got != first {
		t.Fatalf("main is at %s", got)
	}
	if n := h.decisions(h.loose); n != 1 {
		t.Fatalf("%d decisions", n)
	}
	if h.unpacked.Load() == 0 {
		t.Error("nobody was told that the push is unpacked, and its place free")
	}
	second := c.commit("second", map[string]string{"f": "2"})
	c.git("tag", "-a", "v1", "-m", "one")
	h.push(c, "jun", "origin", "main", "v1", "main:topic/one").ok(t, "main -> main", "v1 -> v1", "main -> topic/one")
	if got := h.ref(h.loose, "refs/heads/topic/one"); got != second {
		t.Fatalf("topic/one is at %s", got)
	}
	if n := h.decisions(h.loose); n != 4 {
		t.Fatalf("%d decisions", n)
	}
	// forced and deleted, as a policy without more to say allows
	c.git("reset", "--quiet", "--hard", first.String())
	third := c.commit("third", map[string]string{"f": "3"})
	h.push(c, "jun", "origin", "main").refused(t, "[rejected]") // git itself
	h.push(c, "jun", "--force", "origin", "main").ok(t, "forced update")
	if got := h.ref(h.loose, "refs/heads/main"); got != third {
		t.Fatalf("main is at %s", got)
	}
	h.push(c, "jun", "origin", ":topic/one", ":v1").ok(t, "[deleted]")
	if got := h.ref(h.loose, "refs/heads/topic/one"); got != repo.Zero {
		t.Fatalf("topic/one is at %s", got)
	}
	h.push(c, "jun", "origin", ":main").refused(t, "cannot be deleted")
	if out, err := h.loose.Git(t.Context(), "fsck", "--strict"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// A pusher who reads ASCII only loses nothing of what others wrote in more, behind the
// ref either, where git prints it; names of refs are git's.
func TestPushersWhoReadASCII(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	h.ascii = true
	h.gate.script = says(gate.Progress{Kind: gate.Refused, Reason: "build: “žluť” failed…", Hint: "say → it"})
	c.commit("žluť", map[string]string{"f": "2"})
	p := h.push(c, "ada", "origin", "main")
	p.refused(t,
		"remote: change 2, revision 1: <U+017E>lu<U+0165>",
		`remote: error: 2 refused: build: "<U+017E>lu<U+0165>" failed...`,
		"remote: hint: say -> it",
		`[remote rejected] main -> main (refused: build: "<U+017E>lu<U+0165>" failed..., change 2)`)
	if i := strings.IndexFunc(p.out, func(r rune) bool { return r > 0x7f }); i >= 0 {
		t.Errorf("%q is not ASCII", p.out[i:])
	}

	h.ascii = false
	h.push(c, "ada", "origin", "main").refused(t, "error: 2 refused: build: “žluť” failed…")
}

func TestFirstPushToGatedRepository(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.r)
	c.commit("first", map[string]string{"f": "1"})
	h.push(c, "ada", "origin", "main").refused(t,
		"remote: error: no buildspec.yml: nothing says how to test this tree",
		"[remote rejected] main -> main (no buildspec.yml)",
		"remote:   `headgate init` in the project writes one that fits it",
		"remote:   paste this into buildspec.yml, then push again:",
		`remote:         commands: ["make test"]`,
		"remote: hint: an administrator can ungate it")
	// its own headgate.yaml says which branch is gated, and by which buildspec
	c.commit("settings", map[string]string{"headgate.yaml": "build: {buildspec: ci/spec.yml}\nland: {branches: [trunk]}\n",
		"ci/spec.yml": buildspec["buildspec.yml"]})
	h.push(c, "ada", "origin", "main:trunk").ok(t, "success: 1 landed on trunk", "[new branch]      main -> trunk")
	if p := h.gate.proposals[0]; p.Branch != "trunk" || p.By.User != "ada" || p.Key != "SHA256:key-of-ada" ||
		p.Decision == repo.Zero {
		t.Fatalf("%+v", p)
	}
}

// The door for proposals opens no branch of an empty repository that the pushed
// headgate.yaml does not gate, least of all the server's.
func TestFirstPushByRefsFor(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.r)
	c.commit("first", buildspec)
	h.push(c, "ada", "origin", "main:refs/for/env/staging").refused(t, "refs/heads/env/staging belongs to the server")
	h.push(c, "ada", "origin", "main:refs/for/promote/staging").refused(t,
		"refs/heads/promote/staging belongs to the server")
	h.push(c, "ada", "origin", "main:refs/for/topic").refused(t, "topic is not gated")
	if n := len(h.gate.proposals); n != 0 {
		t.Fatalf("%d proposals", n)
	}
	h.push(c, "ada", "origin", "main:refs/for/main").ok(t, "success: 1 landed on main")
}

func TestGatedPushLandsAsPushed(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	second := c.commit("second", map[string]string{"f": "2"})
	p := h.push(c, "ada", "origin", "main")
	p.ok(t, "remote: change 2, revision 1: second", "remote: success: 2 landed on main as "+second.String()[:7],
		"main -> main")
	if strings.Contains(p.out, "refs/landed") || c.git("rev-parse", "origin/main") != second.String() {
		t.Fatalf("origin/main is at %s\n%s", c.git("rev-parse", "origin/main"), p.out)
	}
	if len(h.gate.proposals) != 2 {
		t.Fatalf("%d proposals", len(h.gate.proposals))
	}
}

func TestGatedPushShowsBuild(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	second := c.commit("second", map[string]string{"f": "2"})
	h.gate.script = says(
		gate.Progress{Kind: gate.Queued, At: at("14:03:41"), Place: 1},
		gate.Progress{Kind: gate.Building, At: at("14:03:44"), With: "main + 2", Tree: hash("71d0c3e"), Log: "b7"},
		gate.Progress{Kind: gate.Queued, At: at("14:03:50"), Reason: "red; running 1 failed test again"},
		gate.Progress{Kind: gate.Refused, At: at("14:03:51"), Reason: "1 test fails with it and passes without it",
			Short: "1 test failed", Tip: hash("9f1c2ab")},
	)
	h.push(c, "ada", "origin", "main").refused(t,
		"remote: queued at 1", "remote: 14:03:44 building main + 2, tree 71d0c3e", "remote:   > build: make test",
		"remote:   | ok all  of b7",
		"remote:   + build: make test", "0:09", "remote: error: 2 refused: 1 test fails", "remote:   main stays at 9f1c2ab",
		"[remote rejected] main -> main (refused: 1 test failed, change 2)")
	if got := h.ref(h.r, "refs/heads/main"); got == second {
		t.Fatal("main moved")
	}
}

func TestGatedPushLandsAsMerge(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	before := c.git("rev-parse", "origin/main")
	c.commit("second", map[string]string{"f": "2"})
	h.gate.script = says(gate.Progress{Kind: gate.Landed, At: at("14:03:51"), Old: hash("9f1c2ab"),
		Landed: hash("45f8aed"), Took: 1e9,
		Hint: "main had moved, so a merge landed; git pull fast-forwards"})
	p := h.push(c, "ada", "origin", "main")
	p.ok(t, "main -> refs/landed/main", "9f1c2ab..45f8aed",
		"remote: hint: main had moved, so a merge landed; git pull fast-forwards")
	if strings.Contains(p.out, "update_ref failed") || c.git("rev-parse", "origin/main") != before {
		t.Fatal(p.out)
	}
}

func TestRefsForLandsFromAnyBase(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	second := c.commit("second", map[string]string{"f": "2"})
	p := h.push(c, "ada", "origin", "HEAD:refs/for/main")
	p.ok(t, "remote: success: 2 landed on main")
	if h.ref(h.r, "refs/heads/main") != second || c.git("rev-parse", "origin/main") != second.String() {
		t.Fatal(p.out)
	}
	h.push(c, "ada", "origin", "HEAD:refs/for/topic").refused(t, "topic is not gated")
}

func TestNowaitReattachAndCancel(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	second := c.commit("second", map[string]string{"f": "2"})
	queued := gate.Progress{Kind: gate.Queued, At: at("14:03:41"), Place: 2,
		Estimate: show.Estimate{LandsAt: at("14:08:00")}}
	h.gate.script = says(queued)
	p := h.push(c, "ada", "-o", "nowait", "-o", "title=a; b=c", "origin", "main")
	p.ok(t, "[new reference]   main -> refs/changes/2/head", "remote: queued at 2 as change 2, lands ~14:08 UTC",
		"change log -f hello 2")
	if got := fmt.Sprint(h.gate.proposals[1].Options); got != "[nowait title=a; b=c]" {
		t.Fatal(got)
	}
	h.gate.script = says(gate.Progress{Kind: gate.Landed, At: at("14:05:00"), Landed: second,
		FastForward: true, Took: 1e9})
	h.push(c, "ada", "origin", "main").ok(t, "remote: change 2, revision 1, pushed 2:10 ago: attached again",
		"success: 2 landed")

	third := c.commit("third", map[string]string{"f": "3"})
	h.push(c, "ada", "-o", "cancel=2", "origin", "main").ok(t, "success: change 2 was withdrawn; nothing was proposed",
		"refs/changes/2/head")
	if len(h.gate.withdrawn) != 1 || len(h.gate.proposals) != 2 || h.ref(h.r, "refs/heads/main") == third {
		t.Fatalf("%v %v", h.gate.withdrawn, h.gate.proposals)
	}
	// From a clone that has nothing to push, by the door for proposals.
	c.git("reset", "--quiet", "--hard", "origin/main")
	if p := h.push(c, "ada", "-o", "cancel=2", "origin", "main"); !strings.Contains(p.out, "Everything up-to-date") {
		t.Fatalf("git has something to push:\n%s", p.out)
	}
	h.push(c, "ada", "-o", "cancel=2", "origin", "HEAD:refs/for/main").ok(t, "success: change 2 was withdrawn")
	if len(h.gate.withdrawn) != 2 || len(h.gate.proposals) != 2 {
		t.Fatalf("%v %v", h.gate.withdrawn, h.gate.proposals)
	}
	c.git("reset", "--quiet", "--hard", third.String())
	h.push(c, "ada", "-o", "cancel=9", "origin", "main").refused(t, "error: there is no change 9", "hint: list them")
	h.push(c, "ada", "-o", "cancel=x", "origin", "main").refused(t, "names no change")
	h.push(c, "ada", "-o", "cancel=2", "origin", "main:topic").refused(t, "works on a push to one gated branch only",
		"git push -o cancel=2 origin HEAD:refs/for/<gated branch>")
}

func TestPushToEnvironmentApproves(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	base := c.head()
	proposed := c.commit("promote 3", map[string]string{"release.json": "{}"})
	if err := h.r.Move(t.Context(), "refs/heads/env/production", repo.Zero, base); err != nil {
		t.Fatal(err)
	}
	other := c.commit("by hand", map[string]string{"release.json": "{3}"})
	h.push(c, "ada", "origin", "HEAD:env/production").refused(t, "belongs to the server, and no promotion to it is open",
		"hint: to approve what is proposed")
	h.push(c, "ada", "origin", proposed.String()+":refs/heads/topic").ok(t)
	if err := h.r.Move(t.Context(), "refs/heads/promote/production", repo.Zero, proposed); err != nil {
		t.Fatal(err)
	}
	h.envs.open = []repo.Hash{proposed}
	h.push(c, "ada", "origin", "HEAD:env/production").refused(t,
		"the open promotion is "+proposed.String()[:7]+"; you pushed "+other.String()[:7])
	c.git("fetch", "--quiet", "origin")
	h.envs.waits = true
	h.push(c, "ada", "origin", "origin/promote/production:env/production").ok(t,
		"remote: now waits for soak until 15:00 UTC", "refs/approved/env/production")
	h.envs.waits = false
	signed := hash("abc1234")
	h.envs.move = func(repo.Hash) repo.Hash { return signed }
	p := h.push(c, "ada", "origin", "origin/promote/production:env/production")
	p.ok(t, "refs/landed/env/production", base.String()[:7]+"..abc1234")
	if strings.Contains(p.out, "update_ref failed") || len(h.envs.by) != 2 || h.envs.by[0].User != "ada" ||
		h.envs.by[0].Via != "push" {
		t.Fatalf("%v %s", h.envs.by, p.out)
	}
	// Somebody else's approval has replaced the proposal since it was fetched.
	h.envs.open = append(h.envs.open, other)
	h.push(c, "ada", "origin", other.String()+":env/production").ok(t, "refs/landed/env/production")
	h.push(c, "ada", "origin", ":env/production").refused(t, "cannot be deleted")
	h.push(c, "ada", "origin", "HEAD:promote/production").refused(t, "belongs to the server")
	// To delete it there rejects it, as it was seen; nothing else can be deleted.
	h.push(c, "ada", "-o", "reason=too slow", "origin", ":promote/production").ok(t,
		"remote: success: rejected release 186 for production, as ada: too slow")
	h.push(c, "ada", "origin", ":promote/staging").refused(t, "promote/staging")
	h.envs.open = nil
	h.push(c, "ada", "origin", ":promote/production").refused(t, "not what is proposed for production any more")
	h.envs.open = []repo.Hash{proposed, other}
	// Whether the yes of somebody who only reads counts is for the promotion to say.
	h.push(c, "jun", "origin", proposed.String()+":env/production").ok(t, "refs/landed/env/production")
	h.envs.err = &show.Error{Kind: show.Forbidden, What: "jun may not approve", Hint: "ask one of: sam"}
	h.push(c, "jun", "origin", proposed.String()+":env/production").refused(t, "jun may not approve", "ask one of: sam")
}
