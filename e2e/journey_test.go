package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sameCommits has every run of the journey make the same commits, so that whole
// contents can be compared.
var sameCommits = []string{"GIT_AUTHOR_DATE=2026-11-24T12:00:00Z", "GIT_COMMITTER_DATE=2026-11-24T12:00:00Z"}

// chapters take a new server from its first start to a rollback in production.
// Each begins with a server that is not running, and ends when everything that
// it set off has come to rest.
var chapters = []chapter{
	{name: "first start", settingUp: true},
	{name: "make tokens", settingUp: true, do: (*journey).makeTokens},
	{name: "make a repository", settingUp: true, do: (*journey).makeRepository},
	{name: "keep a secret", settingUp: true, do: (*journey).keepSecret},
	{name: "follow a forge", settingUp: true, do: (*journey).followForge,
		byChance: []string{"event.read", "event.queued", "event.passed"}},
	{name: "push", do: (*journey).firstPush, staging: 1},
	{name: "pack", args: packAlways, do: (*journey).packed, staging: 1, byChance: []string{"pack.replaced"}},
	{name: "approve", do: (*journey).approve, staging: 1, production: 1},
	{name: "push what is red", do: (*journey).pushRed, staging: 1, production: 1},
	{name: "push the next", do: (*journey).pushNext, staging: 2, production: 1},
	{name: "push plain branches", do: (*journey).pushBranches, staging: 2, production: 1},
	{name: "pause by push", do: (*journey).pauseByPush, staging: 2, production: 1},
	{name: "reject by push", do: (*journey).rejectByPush, staging: 2, production: 1},
	{name: "approve by push", do: (*journey).approveByPush, staging: 2, production: 2},
	{name: "push from behind", do: (*journey).pushFromBehind, staging: 3, production: 3},
	{name: "withdraw", do: (*journey).withdraw, staging: 3, production: 3},
	{name: "roll back", do: (*journey).rollBack, staging: 3, production: 1},
	{name: "run a schedule", do: (*journey).runSchedule, staging: 3, production: 1},
	{name: "pack anew", args: packAlways, do: (*journey).packed, staging: 3, production: 1},
	{name: "rotate the signing key", do: (*journey).rotateKey, staging: 3, production: 1},
	{name: "remove a schedule", do: (*journey).removeSchedule, staging: 4, production: 1},
	{name: "rename an environment", do: (*journey).rename, staging: 5, production: 1, called: "live"},
}

// packAlways has a server pack its repositories whenever it starts.
var packAlways = []string{"--pack-after", "1"}

type chapter struct {
	name                string
	args                []string // of the server
	settingUp           bool     // nothing of it is about hello's changes
	do                  func(*journey)
	staging, production int      // the releases that run, healthy, at the end; 0 is none
	called              string   // what production is called then; "" is that
	byChance            []string // points that are passed when things happen to meet; another chapter has them for certain
}

// journey is one harness on its way through a chapter.
type journey struct {
	*harness
	t      *testing.T
	to     chapter
	work   string   // the clone of hello that ada works in
	crash  []string // environment of the server until it is killed
	killed int
}

// travel goes through a chapter with a server that has more variables in its
// environment, by which it, or its agent, may be killed once.
func travel(t *testing.T, h *harness, to chapter, variables ...string) *journey {
	t.Helper()
	j := &journey{harness: h, t: t, to: to, work: filepath.Join(h.dir, "hello"), crash: variables}
	h.args = to.args
	err := h.start(j.crash)
	if err != nil && h.cmd == nil { // killed on the way up
		j.killed, j.crash = 1, nil
		err = h.start(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(j.work); err == nil {
		j.must(j.git("remote", "set-url", "origin", "ssh://"+h.SSH+"/hello"))
	}
	if to.do != nil {
		to.do(j)
	}
	return j
}

// step tries until it succeeds, starting the server again when it has died:
// what a person does who is told that the connection was closed.
func (j *journey) step(name string, do func() error) {
	j.t.Helper()
	var err error
	for deadline := time.Now().Add(2 * waitTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = do(); err == nil {
			return
		}
		if j.cmd == nil || j.ended(0) {
			j.killed++
			j.crash = nil
			if err := j.start(nil); err != nil {
				j.t.Fatalf("%s: start again: %v", name, err)
			}
		}
	}
	j.t.Fatalf("%s: %s: %v\n%s", j.to.name, name, err, j.tail())
}

// arrive waits until what the chapter ends with runs, and until rest is so too.
func (j *journey) arrive(rest func() error) {
	j.t.Helper()
	production := cmp.Or(j.to.called, "production")
	j.step("the end", func() error {
		for _, repository := range []string{"headgate", "hello"} {
			if err := j.changesEnded(repository); err != nil {
				return err
			}
		}
		for _, e := range []struct {
			name    string
			release int
		}{{"staging", j.to.staging}, {production, j.to.production}} {
			if e.release == 0 {
				continue
			}
			if err := j.runs(e.name, e.release, "healthy"); err != nil {
				return err
			}
		}
		if j.to.staging > j.to.production && !strings.Contains(refs(j.t, j.harness), "refs/heads/promote/"+production+" ") {
			return errors.New("the newest release is not proposed yet")
		}
		if j.to.staging > 0 && !strings.Contains(refs(j.t, j.harness), "refs/schedules/rarely ") {
			return errors.New("the schedule is not on record yet")
		}
		if err := j.eventsDelivered(); err != nil {
			return err
		}
		if rest != nil {
			return rest()
		}
		return nil
	})
}

// eventsDelivered asks whether all that there is to tell was told.
func (j *journey) eventsDelivered() error {
	if j.to.staging == 0 {
		return nil
	}
	told, err := toldEvents(j.harness)
	if err != nil {
		return err
	}
	releases := strings.Count(refs(j.t, j.harness), " refs/releases/")
	if got := strings.Count(told, "headgate-release.created.0.1.0 delivered"); got != releases ||
		strings.Contains(told, " pending") {
		return fmt.Errorf("of %d releases it was told\n%s", releases, told)
	}
	return nil
}

// toldEvents lists the types of the events in the outbox, each with what became
// of it.
func toldEvents(h *harness) (string, error) {
	out, err := h.ask("ada", "events", "show", "ops", "--json")
	if err != nil {
		return "", err
	}
	var ops struct {
		Deliveries []struct{ ID, Type, Outcome string }
	}
	if err := json.Unmarshal([]byte(out), &ops); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	ids := map[string]bool{}
	var lines []string
	for _, d := range ops.Deliveries {
		if ids[d.ID] {
			return "", fmt.Errorf("the event %s is told of twice", d.ID)
		}
		ids[d.ID] = true
		lines = append(lines, d.Type+" "+d.Outcome)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// changesEnded asks whether every change of a repository, if there is one, has
// come to an end.
func (j *journey) changesEnded(repository string) error {
	if _, err := os.Stat(filepath.Join(j.data(), "repositories", repository+".git")); err != nil {
		return nil
	}
	out, err := j.hg("change", "list", repository, "--json")
	if err != nil {
		return err
	}
	for list := json.NewDecoder(strings.NewReader(out)); ; {
		var c struct {
			Change int
			State  string
		}
		switch err := list.Decode(&c); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %s", err, out)
		}
		if !slices.Contains([]string{"landed", "refused", "withdrawn"}, c.State) {
			return fmt.Errorf("change %d of %s is %s", c.Change, repository, c.State)
		}
	}
}

func (j *journey) must(err error) {
	j.t.Helper()
	if err != nil {
		j.t.Fatal(err)
	}
}

func (j *journey) hg(args ...string) (string, error) { return j.ask("ada", args...) }

// tell is hg with something on standard input.
func (j *journey) tell(input string, args ...string) error {
	ssh := append(append([]string{"-c", `printf %s "$0" | "$@"`, input, "ssh"}, append(j.sshArgs("ada"), "127.0.0.1")...),
		args...)
	_, errs, err := within(waitTimeout, j.dir, j.env(), "sh", ssh...)
	if err != nil {
		err = fmt.Errorf("%v: %w: %s", args, err, errs)
	}
	return err
}

func (j *journey) git(args ...string) error {
	_, errs, err := within(waitTimeout, j.work, j.env(), "git", args...)
	if err != nil {
		err = fmt.Errorf("git %v: %w: %s", args, err, errs)
	}
	return err
}

func (j *journey) write(name, content string) {
	j.t.Helper()
	j.must(os.WriteFile(filepath.Join(j.work, name), []byte(content), 0o644))
}

// runs asks whether an environment declares a release and is in a state, if one
// is named.
func (j *journey) runs(environment string, release int, state string) error {
	// Its exit code tells whether something waits; here the facts count.
	out, err := j.hg("env", "show", "hello", environment, "--json")
	if err != nil && out == "" {
		return err
	}
	var e struct {
		State   string `json:"state"`
		Release int    `json:"release"`
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if state != "" && e.State != state || e.Release != release {
		return fmt.Errorf("%s is %s with release %d", environment, e.State, e.Release)
	}
	return nil
}

// change waits until a change has come to a state. propose is done as long as the
// server does not have it; how that ends is read from the list.
func (j *journey) change(number int, state string, propose func() error) {
	j.t.Helper()
	j.step(fmt.Sprintf("change %d is %s", number, state), func() error {
		out, err := j.hg("change", "list", "hello")
		if err != nil {
			return err
		}
		line := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +(\w+)`, number)).FindStringSubmatch(out)
		switch {
		case line == nil:
			return fmt.Errorf("change %d was not there: %v", number, propose())
		case line[1] != state:
			return fmt.Errorf("change %d is %s", number, line[1])
		}
		return nil
	})
}

func (j *journey) push() error { return j.git("push", "-q", "origin", "main") }

func (j *journey) propose(options ...string) error {
	return j.git(append(append([]string{"push", "-q"}, options...), "origin", "HEAD:refs/for/main")...)
}

func (j *journey) makeRepository() {
	j.step("repo create", func() error {
		out, err := j.hg("repo", "list")
		if err == nil && strings.Contains(out, "hello") {
			return nil
		}
		_, err = j.hg("repo", "create", "hello")
		return err
	})
}

func (j *journey) keepSecret() {
	j.step("secret set", func() error {
		out, err := j.hg("secret", "list")
		if err == nil && strings.Contains(out, "hello:token") {
			return nil
		}
		return j.tell("wonderland", "secret", "set", "hello:token")
	})
}

// makeTokens makes two tokens and revokes the first. One that was made when the
// server was killed has been shown to nobody: it is revoked too.
func (j *journey) makeTokens() {
	made := map[string]bool{} // ids of those that were shown
	for _, name := range []string{"old", "new"} {
		j.step("token create "+name, func() error {
			if err := j.revokeTokens(func(id string) bool { return !made[id] }); err != nil {
				return err
			}
			out, err := j.hg("token", "create", name, "--json")
			if err != nil {
				return err
			}
			var t struct{ ID, Token string }
			if err := json.Unmarshal([]byte(out), &t); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			made[t.ID] = true
			return nil
		})
	}
	j.step("token revoke", func() error {
		ids, err := j.tokens()
		if err != nil {
			return err
		}
		for id, name := range ids {
			if !made[id] {
				return fmt.Errorf("the token %s (%s) was shown to nobody", id, name)
			}
		}
		return j.revokeTokens(func(id string) bool { return ids[id] == "old" })
	})
}

// tokens are the names of ada's tokens by id.
func (j *journey) tokens() (map[string]string, error) {
	out, err := j.hg("token", "list", "--json")
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for list := json.NewDecoder(strings.NewReader(out)); ; {
		var t struct{ ID, Name string }
		switch err := list.Decode(&t); {
		case errors.Is(err, io.EOF):
			return ids, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		ids[t.ID] = t.Name
	}
}

func (j *journey) revokeTokens(which func(id string) bool) error {
	ids, err := j.tokens()
	if err != nil {
		return err
	}
	for id := range ids {
		if !which(id) {
			continue
		}
		if _, err := j.hg("token", "revoke", id); err != nil {
			return err
		}
	}
	return nil
}

// followForge connects a forge and hears of a push there.
func (j *journey) followForge() {
	f, err := journeyForge()
	j.must(err)
	j.step("secret set", func() error {
		if out, err := j.hg("secret", "list"); err == nil && strings.Contains(out, "hub-hook") {
			return nil
		}
		return j.tell("sign-with-this", "secret", "set", "hub-hook")
	})
	endpoint, err := journeyReceiver()
	j.must(err)
	j.step("secret set for events", func() error {
		if out, err := j.hg("secret", "list"); err == nil && strings.Contains(out, "sign-events") {
			return nil
		}
		return j.tell(eventKey, "secret", "set", "sign-events")
	})
	j.step("connect", func() error {
		if out, err := j.hg("forge", "list"); err == nil && strings.Contains(out, "hub") {
			return nil
		}
		return j.configure(func(yaml string) string {
			return strings.Replace(yaml, "repositories:\n", "repositories:\n  copy: {read: [everyone]}\n", 1) +
				"connections:\n  hub: {forge: github, repository: owner/name, url: " + f.URL +
				", mirror: copy, secrets: [hub-hook]}\n" +
				"events:\n  ops: {url: \"" + endpoint.url +
				"\", secret: sign-events, repositories: [hello], only: [landing, release], allow: [127.0.0.0/8]}\n"
		})
	})
	j.step("webhook", func() error {
		status, body, err := f.Hook(j.HTTP+"/webhooks/hub", "one", "sign-with-this", 0, 0)
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	j.step("the mirror", func() error {
		out, err := j.hg("forge", "deliveries", "hub")
		switch {
		case err != nil:
			return err
		case len(regexp.MustCompile(`(?m)^\d+ .*applied`).FindAllString(out, -1)) != 1 || strings.Contains(out, "pending"):
			return errors.New(out)
		case !strings.Contains(refs(j.t, j.harness), "copy refs/tags/v1 "):
			return errors.New("the mirror is not complete")
		}
		return nil
	})
}

func (j *journey) firstPush() {
	j.must(j.sample(j.work, "hello"))
	j.write("headgate.yaml", strings.Replace(sampleFiles["headgate.yaml"], "approvals: 1",
		"approvals: {count: 1, own: true}", 1)+
		"schedules:\n  - {name: rarely, cron: \"0 0 29 2 *\"}\nimages:\n  web: {entrypoint: [/serve.pl]}\n")
	j.must(j.git("commit", "-qam", "Approve my own"))
	j.step("push", j.push)
}

// rotateKey replaces the signing key while the server is down. What is killed is the
// command.
func (j *journey) rotateKey() {
	j.must(j.stop(false))
	for {
		_, errs, err := within(waitTimeout, j.dir, append(j.env(), j.crash...), filepath.Join(j.bin, "headgate"), "key",
			"rotate", "--data", j.data(), "server")
		if err == nil {
			break
		}
		if j.killed > 0 || errs != "" {
			j.t.Fatalf("key rotate: %v: %s", err, errs)
		}
		j.killed, j.crash = 1, nil
	}
	j.must(j.start(nil))
	j.must(j.git("remote", "set-url", "origin", "ssh://"+j.SSH+"/hello"))
}

// packed waits until most objects of the repositories are in packs.
func (j *journey) packed() {
	j.step("packed", func() error {
		for _, name := range []string{"headgate", "hello"} {
			dir := filepath.Join(j.data(), "repositories", name+".git")
			out, errs, err := within(waitTimeout, j.dir, j.env(), "git", "--git-dir="+dir, "count-objects", "-v")
			if err != nil {
				return fmt.Errorf("count-objects: %w: %s", err, errs)
			}
			if _, err := os.Stat(filepath.Join(dir, "objects", "info", "commit-graphs", "commit-graph-chain")); err != nil {
				return err
			}
			at := map[string]int{}
			for _, m := range regexp.MustCompile(`(?m)^([a-z-]+): (\d+)$`).FindAllStringSubmatch(out, -1) {
				at[m[1]], _ = strconv.Atoi(m[2])
			}
			if at["in-pack"] < 4*at["count"] || at["garbage"] > 0 {
				return fmt.Errorf("%s is not packed yet: %s", name, out)
			}
		}
		return nil
	})
}

func (j *journey) approve() {
	j.step("approve", func() error {
		if j.runs("production", 1, "") == nil {
			return nil
		}
		_, err := j.hg("approve", "hello", "production")
		return err
	})
}

// pushRed pushes what must be refused, and stay so.
func (j *journey) pushRed() {
	j.write("words.txt", "goodbye\n")
	j.must(j.git("commit", "-qam", "Break it"))
	j.change(2, "refused", j.push)
}

func (j *journey) pushNext() {
	j.write("words.txt", "hello again\n")
	j.must(j.git("commit", "-q", "-a", "--amend", "-m", "Say it again"))
	j.change(3, "landed", j.push)
}

func (j *journey) pushBranches() {
	j.step("push", func() error { return j.git("push", "-q", "origin", "HEAD:refs/heads/side", "HEAD:refs/heads/other") })
}

// pauseByPush lets nothing land on main, and resumes.
func (j *journey) pauseByPush() {
	j.step("pause", func() error {
		if strings.Contains(refs(j.t, j.harness), " refs/decisions/landing/main ") {
			return nil
		}
		return j.git("push", "-q", "-o", "pause", "-o", "reason=not now", "origin", "HEAD:refs/for/main")
	})
	j.step("resume", func() error {
		_, err := j.hg("repo", "resume", "hello")
		return err
	})
}

// rejectByPush says no to release 2, and then chooses it all the same.
func (j *journey) rejectByPush() {
	j.step("reject", func() error {
		if strings.Contains(refs(j.t, j.harness), " refs/decisions/rejected/production ") {
			return nil
		}
		return j.git("push", "-q", "-o", "reason=not today", "origin", ":promote/production")
	})
	j.step("its end", func() error {
		if strings.Contains(refs(j.t, j.harness), " refs/heads/promote/production ") {
			return errors.New("what was rejected is proposed still")
		}
		return nil
	})
	j.step("choose", func() error {
		if strings.Contains(refs(j.t, j.harness), " refs/heads/promote/production ") {
			return nil
		}
		_, err := j.hg("promote", "hello", "production", "2")
		return err
	})
}

func (j *journey) approveByPush() {
	j.step("approve", func() error {
		if j.runs("production", 2, "") == nil {
			return nil
		}
		if err := j.git("fetch", "-q", "origin"); err != nil {
			return err
		}
		return j.git("push", "-q", "origin", "origin/promote/production:env/production")
	})
}

// pushFromBehind has a merge land with nothing in it that runs: its release is
// what runs already.
func (j *journey) pushFromBehind() {
	j.must(j.git("checkout", "-q", "--detach", "HEAD~1"))
	j.write("NOTES", "nothing that runs\n")
	j.must(j.git("add", "NOTES"))
	j.must(j.git("commit", "-q", "-m", "Take notes"))
	j.change(4, "landed", func() error { return j.propose() })
}

// withdraw takes a change back while it is built, and has started what wants to stay.
func (j *journey) withdraw() {
	j.write("test.sh", "setsid nohup sh -c 'trap \"\" TERM HUP INT; while :; do sleep 600; done; : "+j.dir+
		"/' >/dev/null 2>&1 &\nsleep 600\n")
	j.must(j.git("commit", "-q", "-a", "-m", "Take for ever"))
	j.change(5, "running", func() error { return j.propose("-o", "nowait") })
	j.step("withdraw", func() error {
		out, err := j.hg("change", "list", "hello")
		if err != nil || regexp.MustCompile(`(?m)^5 +withdrawn`).MatchString(out) {
			return err
		}
		return fmt.Errorf("not withdrawn yet: %v", j.propose("-o", "cancel=5"))
	})
}

func (j *journey) rollBack() {
	j.step("rollback", func() error {
		if j.runs("production", 1, "") == nil {
			return nil
		}
		_, err := j.hg("rollback", "hello", "production", "1", "--reason", "story")
		return err
	})
}

// rename gives production another name, and what was proposed there goes with it.
func (j *journey) rename() {
	j.change(7, "landed", func() error {
		_, err := j.hg("env", "rename", "hello", "production", "live")
		return err
	})
	j.step("its end", func() error {
		if strings.Contains(refs(j.t, j.harness), " refs/heads/promote/production ") {
			return errors.New("something is proposed under the old name still")
		}
		return nil
	})
}

// runSchedule starts a run by hand, once, and waits for its end.
func (j *journey) runSchedule() {
	j.step("schedule run", func() error {
		out, err := j.hg("schedule", "list", "hello", "--json")
		if err != nil {
			return err
		}
		var s struct{ State string }
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		switch s.State {
		case "green":
			return nil
		case "empty":
			_, err = j.hg("schedule", "run", "hello", "rarely")
		}
		return fmt.Errorf("the schedule is %s: %v", s.State, err)
	})
}

// removeSchedule lands a headgate.yaml without it, and waits until that is on record.
func (j *journey) removeSchedule() {
	j.step("fetch", func() error { return j.git("fetch", "-q", "origin") })
	j.must(j.git("reset", "-q", "--hard", "origin/main"))
	text, err := os.ReadFile(filepath.Join(j.work, "headgate.yaml"))
	j.must(err)
	without := regexp.MustCompile(`schedules:\n.*\n`).ReplaceAllString(string(text), "")
	j.write("headgate.yaml", without)
	j.must(j.git("commit", "-qam", "Run nothing at night"))
	j.change(6, "landed", func() error { return j.git("push", "-q", "origin", "HEAD:main") })
	j.step("its end", func() error {
		at, err := refsIn(filepath.Join(j.data(), "repositories", "hello.git"))
		if err != nil {
			return err
		}
		out, errs, err := within(waitTimeout, j.dir, j.env(), "git", "--git-dir",
			filepath.Join(j.data(), "repositories", "hello.git"), "log", "-1", "--format=%s", at["refs/schedules/rarely"])
		if err != nil || !strings.HasSuffix(strings.TrimSpace(out), " is removed") {
			return fmt.Errorf("%w: %s%s", err, out, errs)
		}
		return nil
	})
}
