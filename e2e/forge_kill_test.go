package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/forges"
)

// TestForgeKill: a request at a forge comes to the same end, proven, when the server
// is killed by SIGKILL between each two steps of seeing it and landing it.
func TestForgeKill(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		"push.proposed", "push.accepted", "build.ended", "candidate.merged",
		"land.tested", "land.forwarded", "land.moved", "land.noted",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			killLanding(t, point)
		})
	}
}

// TestForgeKillsPromotion: what waits for people is proposed at a forge once, and promoted
// by one merge there, when the server is killed between any two steps of that.
func TestForgeKillsPromotion(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"forge.promotion-opened", "promote.approved", "forge.promotion-approved"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			killPromotion(t, point)
		})
	}
}

// TestForgeKillsPublication: what is here comes to be at the forge, by force where this
// server has put it there, and is known for its own, when the server is killed while it
// puts it there. Nobody who pushes waits for the forge.
func TestForgeKillsPublication(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"publish.noted:2", "publish.pushed:2"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			killPublication(t, point)
		})
	}
}

func killPublication(t *testing.T, point string) {
	h, f, sh := forgeHarness(t)
	j := &journey{harness: h, t: t}
	j.must(h.start([]string{"HEADGATE_CRASH_AT=" + point}))
	j.must(j.configure(func(yaml string) string {
		return strings.Replace(yaml, "repositories: {}\n", "", 1) +
			"\nrepositories:\n  pub: {read: [everyone], gate: off}\n" +
			"publish:\n  away: {forge: github, repository: pub, url: " + f.URL + ", token: away-token}\n"
	}))
	sh(`git init -q -b main ours; cd ours; git commit -q --allow-empty -m first; git push -q $SERVER/pub main`)
	out, err := h.ask("ada", "forge", "show", "away")
	j.must(err)
	if !strings.Contains(out, "not set: ssh ") {
		t.Errorf("it does not say what is missing:\n%s", out)
	}
	j.must(j.tell("fetch-with-this", "secret", "set", "away-token"))
	same := func() bool {
		return sh(`git ls-remote $FORGE_DIR 'refs/heads/*' 'refs/tags/*'`) == sh(`cd ours; git show-ref | sed 's/ /\t/'`)
	}
	j.until("the first is there", same)
	sh(`cd ours; git commit -q --amend --allow-empty -m other; git tag v1; git push -q -f $SERVER/pub main v1`)
	j.until("the kill", func() bool { return j.killed > 0 })
	j.until("the rest is there", same)
	j.until("it is in step", func() bool {
		out, _ := h.ask("ada", "forge", "show", "away")
		return strings.Contains(out, "pushed to github: healthy") && strings.Contains(out, "2 refs")
	})
	if out, err = h.ask("ada", "forge", "list"); err != nil || !strings.Contains(out, "away") || j.killed != 1 {
		t.Errorf("killed %d times; %v\n%s", j.killed, err, out)
	}

	// Nobody waits for a forge that is away.
	f.Close()
	sh(`cd ours; git commit -q --allow-empty -m more; git push -q $SERVER/pub main`)
	j.until("it says so", func() bool {
		out, _ := h.ask("ada", "forge", "show", "away")
		return strings.Contains(out, "failing: ") && strings.Contains(out, "next try ")
	})
	if text := sh(`cat server.log; grep -rl fetch-with-this "$DATA" || true`); strings.Contains(text, "fetch-with-this") {
		t.Errorf("the token is where it can be read:\n%s", text)
	}
}

// forgeHarness is a server that is not started, a forge, and how to run scripts beside it.
func forgeHarness(t *testing.T) (h *harness, f *forges.Forge, sh func(script string) string) {
	h, err := newHarness(t.TempDir(), plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.abandon)
	if f, err = forges.New("github", filepath.Join(h.dir, "forge"), "fetch-with-this"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Permit("ann", "write"); err != nil {
		t.Fatal(err)
	}
	return h, f, func(script string) string {
		t.Helper()
		out, errs, err := within(waitTimeout, h.dir, append(h.env(), "FORGE_DIR="+f.Dir), "sh", "-ec", script)
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, errs)
		}
		return strings.TrimSpace(out)
	}
}

// forgeConnected is a started server that follows a forge with one green commit on its main.
func forgeConnected(t *testing.T) (j *journey, f *forges.Forge, sh func(script string) string) {
	t.Helper()
	h, f, sh := forgeHarness(t)
	sh(`git init -q -b main there; cd there
		printf 'version: 0.2\nphases: {build: {commands: ["true"]}}\n' >buildspec.yml
		git add .; git commit -qm first; git push -q $FORGE_DIR main`)
	j = &journey{harness: h, t: t}
	j.must(h.start(nil))
	j.connect(f, "")
	return j, f, sh
}

// connect connects the server to a forge, and says what else its connection does.
func (j *journey) connect(f *forges.Forge, more string) {
	j.t.Helper()
	j.must(j.configure(func(yaml string) string {
		yaml = strings.Replace(yaml, "  jun:\n", "  jun:\n    forge: {hub: jun-gh}\n", 1)
		return strings.Replace(yaml, "repositories: {}\n", "", 1) +
			"\nrepositories:\n  copy: {read: [everyone]}\nconnections:\n  hub: {forge: github, repository: owner/name, url: " +
			f.URL + ", mirror: copy, secrets: [hub-hook], token: hub-token, requests: true" + more + "}\n"
	}))
	j.must(j.tell("sign-with-this", "secret", "set", "hub-hook"))
	j.must(j.tell("fetch-with-this", "secret", "set", "hub-token"))
}

func killPromotion(t *testing.T, point string) {
	h, f, sh := forgeHarness(t)
	j := &journey{harness: h, t: t}
	j.must(h.start([]string{"HEADGATE_CRASH_AT=" + point}))
	j.must(h.addUser("jun", "approvers"))
	j.connect(f, ", promotions: true")
	j.must(h.sample(filepath.Join(h.dir, "there"), "there"))
	sh(`cd there; printf 'environments:\n  production: {target: services, path: deploy/production, approvals: {count: 1, from: approvers}}\n' >headgate.yaml
		git commit -qam production; git push -q $FORGE_DIR main`)
	_, _, _ = f.Hook(h.HTTP+"/webhooks/hub", "first", "sign-with-this", 0, 0)
	j.until("it is proposed", func() bool {
		r, err := f.Request(1)
		return err == nil && r.Title == "Promote release 1 of copy to production"
	})
	j.must(f.Merge("jun-gh", 1, false))
	_, _, _ = f.Hook(h.HTTP+"/webhooks/hub", "merged", "sign-with-this", 1, 0) // which may be lost with the server
	j.until("it is promoted", func() bool {
		out, _ := h.ask("ada", "env", "show", "copy", "production")
		return strings.Contains(out, "release 1, healthy")
	})
	j.until("the kill", func() bool { return j.killed > 0 })
	j.until("the forge has it", func() bool {
		out, _, err := within(waitTimeout, h.dir, h.env(), "git", "--git-dir="+f.Dir, "for-each-ref", "--format=%(refname)",
			"refs/heads/promote", "refs/heads/env")
		return err == nil && out == "refs/heads/env/production\n"
	})
	if _, err := f.Request(2); err == nil || j.killed != 1 {
		t.Errorf("a second request was opened, or the server was killed %d times", j.killed)
	}
	if n := len(f.Comments(1)); n > 1 {
		t.Errorf("%d comments", n)
	}
}

func killLanding(t *testing.T, point string) {
	j, f, sh := forgeConnected(t)
	h := j.harness
	j.until("the mirror", func() bool {
		out, _ := h.ask("ada", "forge", "list")
		return strings.Contains(out, "healthy")
	})
	if err := h.stop(false); err != nil {
		t.Fatal(err)
	}

	// main moves, so that landing takes a merge.
	head := sh(
		`cd there; git switch -qc feature; echo 1 >one; git add .; git commit -qm feature; git push -q $FORGE_DIR HEAD:refs/heads/feature; git rev-parse HEAD`)
	sh(`cd there; git switch -q main; echo 2 >two; git add .; git commit -qm other; git push -q $FORGE_DIR main`)
	if _, err := f.Propose("ann", "feature", false); err != nil {
		t.Fatal(err)
	}
	if err := h.start([]string{"HEADGATE_CRASH_AT=" + point}); err != nil && h.cmd != nil {
		t.Fatal(err)
	}
	status := func(want string) func() bool {
		return func() bool {
			all := f.Statuses(head)
			return len(all) > 0 && all[len(all)-1].State == "success" && strings.Contains(all[len(all)-1].Description, want)
		}
	}
	j.until("it is green", status("green"))
	comment, err := f.Say("ann", 1, "/land")
	j.must(err)
	// The webhook may be lost with the server: the next start finds the comment.
	_, _, _ = f.Hook(h.HTTP+"/webhooks/hub", "land", "sign-with-this", 1, comment)
	j.until("it has landed", status("landed on main"))
	j.until("the request is merged", func() bool {
		r, err := f.Request(1)
		return err == nil && r.State == "merged"
	})
	j.until("the kill", func() bool { return j.killed > 0 }) // which may come after what others see
	if j.killed != 1 {
		t.Errorf("the server was killed %d times", j.killed)
	}
	if n := sh(`git --git-dir=$FORGE_DIR rev-list --count --merges main`); n != "1" {
		t.Errorf("it was merged %s times", n)
	}
	ours := 0
	for _, c := range f.Comments(1) {
		if strings.Contains(c.Body, "<!-- headgate -->") {
			ours++
		}
	}
	if ours != 1 {
		t.Errorf("%d comments are ours: %+v", ours, f.Comments(1))
	}
	signers, err := h.ask("ada", "signers")
	j.must(err)
	j.must(os.WriteFile(filepath.Join(h.dir, "signers"), []byte(signers), 0o600))
	sh(fmt.Sprintf(`git clone -q --mirror ssh://%s/copy proof; headgate verify --signers signers proof`, h.SSH))
}

// until waits for something, and starts the server again when it was killed.
func (j *journey) until(what string, is func() bool) {
	j.t.Helper()
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		if is() {
			return
		}
		if j.cmd == nil || j.ended(0) {
			j.killed++
			j.hangUp()
			if err := j.start(nil); err != nil {
				j.t.Fatalf("%s: start again: %v", what, err)
			}
		}
	}
	j.t.Fatalf("never: %s\n%s", what, j.tail())
}
