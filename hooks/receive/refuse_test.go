package receive

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// Refused pushes change no ref, and leave none of their objects.
func TestRefusals(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	base := c.head()
	if err := h.r.Move(t.Context(), "refs/heads/topic/one", repo.Zero, base); err != nil {
		t.Fatal(err)
	}
	files := func(kv ...string) map[string]string {
		m := map[string]string{"unique": t.Name()}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	none := ""
	for _, test := range []struct {
		name  string
		user  string
		files map[string]string
		push  []string
		says  []string
	}{
		{"stranger", "jun", files(), []string{"HEAD:refs/heads/x"},
			[]string{"jun may not write hello", "name the decision: d-"}},
		{"stranger to gated", "jun", files(), []string{"HEAD:main"}, []string{"jun may not write hello"}},
		{"delete gated", "ada", files(), []string{":main"}, []string{"main is gated and cannot be deleted"}},
		{"delete by refs/for", "ada", files(), []string{":refs/for/main"}, nil},
		{"below a branch", "ada", files(), []string{"HEAD:refs/heads/main/sub"},
			[]string{"refs/heads/main/sub cannot be made: refs/heads/main exists"}},
		{"above a branch", "ada", files(), []string{"HEAD:refs/heads/topic"},
			[]string{"refs/heads/topic cannot be made: refs/heads/topic/one exists"}},
		{"a tree as a branch", "ada", files(), []string{"HEAD^{tree}:refs/heads/tree"}, nil},
		{"a blob as a tag", "ada", files(), []string{"HEAD:buildspec.yml:refs/tags/blob"}, nil},
		{"option for a program", "ada", files(), []string{"HEAD:refs/heads/--exec=touch"},
			[]string{"is not a valid ref name"}},
		{"dash", "ada", files(), []string{"HEAD:refs/heads/-x"}, []string{"is not a valid ref name"}},
		{"right to left", "ada", files(), []string{"HEAD:refs/heads/\u202egpj"},
			[]string{`"refs/heads/<U+202E>gpj" is not a valid ref name`}},
		{"HEAD", "ada", files(), []string{"HEAD:refs/heads/HEAD"}, nil},
		{"long", "ada", files(), []string{"HEAD:refs/heads/" + strings.Repeat("x/y", 90)}, []string{"is too long"}},
		{"other namespace", "ada", files(), []string{"HEAD:refs/ci/x"}, []string{`"refs/ci/x" belongs to the server`}},
		{"replace", "ada", files(), []string{"HEAD:refs/replace/" + base.String()}, []string{"belongs to the server"}},
		{"meta", "ada", files(), []string{"HEAD:refs/meta/config"}, []string{"belongs to the server"}},
		{"changes", "ada", files(), []string{"HEAD:refs/changes/1/head"}, nil},
		{"notes", "ada", files(), []string{"HEAD:refs/notes/verdicts"}, nil},
		{"releases", "ada", files(), []string{"HEAD:refs/releases/1"}, nil},
		{"decisions", "ada", files(), []string{"HEAD:refs/decisions/log"}, nil},
		{"environment", "ada", files(), []string{"HEAD:refs/heads/env/staging"},
			[]string{"refs/heads/env/staging belongs to the server"}},
		{"promotion", "ada", files(), []string{"HEAD:refs/heads/promote/staging"},
			[]string{"refs/heads/promote/staging belongs to the server"}},
		{"two gated", "ada", files(), []string{"HEAD:main", "HEAD:refs/for/main"}, []string{`cannot hold`, "none was moved"}},
		{"all of two forbidden", "ada", files(), []string{"HEAD:refs/ci/x", "HEAD:refs/heads/-y"},
			[]string{"belongs to the server", "is not a valid ref name"}},
		{"a misspelt option", "ada", files(), []string{"-o", "cancle=18", "HEAD:main"},
			[]string{`unknown push option "cancle=18"; nothing was done`, "did you mean -o cancel=<change>?"}},
		{"nowait with a value", "ada", files(), []string{"-o", "nowait=1", "HEAD:main"}, []string{"did you mean -o nowait?"}},
		{"no buildspec", "ada", files("buildspec.yml", none), []string{"HEAD:main"},
			[]string{"no buildspec.yml: nothing says how to test this tree"}},
		{"broken buildspec", "ada", files("buildspec.yml", "version: 0.2\nphases:\n  biuld: # broken\n"),
			[]string{"HEAD:main"},
			[]string{"error: buildspec.yml is not right", "remote:   buildspec.yml:3:3: Invalid buildspec phase name: biuld",
				`remote:     fix: did you mean "build"?`, "hint: fix it, look with: headgate check, then push again"}},
		{"misspelt key", "ada", files("headgate.yaml", "land: {branches: [main]}\nenviroments: {}\n"), []string{"HEAD:main"},
			[]string{"headgate.yaml:2:", "enviroments"}},
		{"another buildspec that is not there", "ada", files("headgate.yaml", "build: {buildspec: ci.yml}\n"),
			[]string{"HEAD:main"}, []string{"no ci.yml"}},
		{"broken policy", "ada", files("policies/push.rego", "package headgate.push\n\ndeny contains x if http.send({})\n"),
			[]string{"HEAD:main"}, []string{"policies/push.rego:3:"}},
		{"broken compose file", "ada",
			files("headgate.yaml", "environments: {staging: {target: services, path: deploy/staging}}\n",
				"deploy/staging/compose.yaml", "broken\n"), []string{"HEAD:refs/for/main"},
			[]string{"deploy/staging/compose.yaml:1: is broken"}},
		{"no compose file", "ada", files("headgate.yaml",
			"environments: {staging: {target: services, path: deploy/staging}}\n", "deploy/staging/other",
			"1"), []string{"HEAD:main"},
			[]string{"deploy/staging/compose.yaml: is not there"}},
		{"no directory of an environment", "ada",
			files("headgate.yaml", "environments: {staging: {target: services, path: deploy/staging}}\n"), []string{"HEAD:main"},
			[]string{"headgate.yaml:1: environment \"staging\" is declared in deploy/staging, which is not there"}},
		{"broken buildspec under another name", "ada", files("headgate.yaml", "build: {buildspec: ci.yml}\n", "ci.yml",
			"version: 0.2\nphases:\n  biuld: {}\n"), []string{"HEAD:main"},
			[]string{"ci.yml:3:3: Invalid buildspec phase name"}},
		{"two faults", "ada", files("policies/push.rego", "package headgate.push\n\ndeny contains x if http.send({})\n",
			"buildspec.yml", "broken"), []string{"HEAD:main"}, []string{"error: 2 things are not right in what you pushed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.git("checkout", "--quiet", "--detach", base.String())
			test.files["unique"] = test.name // an object that only this push has
			for name, content := range test.files {
				if content == none {
					c.git("rm", "--quiet", name)
					delete(test.files, name)
				}
			}
			commit := c.commit(test.name, test.files)
			before := refs(t, h.r)
			answer := h.push(c, test.user, append([]string{"origin"}, test.push...)...)
			answer.refused(t, test.says...)
			if strings.Contains(answer.out, "hook declined") {
				t.Errorf("behind the ref stands git's reason, not ours:\n%s", answer.out)
			}
			if after := refs(t, h.r); after != before {
				t.Errorf("refs changed from\n%s\nto\n%s", before, after)
			}
			if h.has(h.r, commit) {
				t.Error("the refused commit is in the repository")
			}
			c.git("clean", "-qfdx")
		})
	}
	left, err := filepath.Glob(filepath.Join(h.r.Dir(), "objects", "tmp_objdir-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	if len(h.gate.proposals) != 1 {
		t.Errorf("%d proposals", len(h.gate.proposals))
	}
}

// refs lists all refs but the record of decisions, which refusals are part of.
func refs(t *testing.T, r *repo.Repository) string {
	t.Helper()
	all, err := r.Refs("refs/")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, ref := range all {
		if ref.Name != "refs/decisions/log" {
			fmt.Fprintln(&b, ref.Name, ref.Hash)
		}
	}
	return b.String()
}

func TestForcedPushToGatedIsRefusedAndRecorded(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	c.commit("second", map[string]string{"f": "2"})
	h.push(c, "ada", "origin", "main").ok(t)
	c.git("reset", "--quiet", "--hard", "HEAD^")
	forced := c.commit("instead", map[string]string{"f": "3"})
	before := h.decisions(h.r)
	h.push(c, "ada", "--force", "origin", "main").refused(t, "main is gated and cannot be forced", "HEAD:refs/for/main")
	if h.has(h.r, forced) || h.decisions(h.r) != before+1 {
		t.Fatalf("%d decisions, before %d", h.decisions(h.r), before)
	}
	out, err := h.r.Git(t.Context(), "log", "-1", "--format=%s", "refs/decisions/log")
	if err != nil || strings.TrimSpace(string(out)) != "push: refs/heads/main by ada: deny" {
		t.Fatalf("%q, %v", out, err)
	}
}

// What has landed judges, not what is pushed.
func TestPolicyOfTheTargetJudges(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.r)
	quiet := "package headgate.push\n\ndeny contains {\"rule\": \"quiet\", \"msg\": \"nothing on tags today\"} if startswith(input.ref, \"refs/tags/\")\n"
	c.commit("first", map[string]string{"buildspec.yml": buildspec["buildspec.yml"], "policies/push.rego": quiet})
	h.push(c, "ada", "origin", "main").ok(t)
	c.git("rm", "--quiet", "policies/push.rego")
	c.commit("without it", map[string]string{"f": "2"})
	c.git("tag", "v1")
	h.push(c, "ada", "origin", "v1").refused(t, "nothing on tags today", "policy quiet")
	h.push(c, "ada", "origin", "main").ok(t)
	h.push(c, "ada", "origin", "v1").ok(t)
}

// A gated branch cannot be freed by a push to another one, nor by its own.
func TestGatedBranchesAreThoseThatLanded(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.r)
	c.commit("first", map[string]string{"buildspec.yml": buildspec["buildspec.yml"],
		"headgate.yaml": "land: {branches: [main, stable]}\n"})
	h.push(c, "ada", "origin", "main").ok(t)
	h.push(c, "ada", "origin", "main:stable").ok(t, "success: 2 landed on stable")
	c.commit("free", map[string]string{"headgate.yaml": "land: {branches: [main]}\n"})
	h.push(c, "ada", "origin", "main").ok(t, "landed on main")
	c.git("reset", "--quiet", "--hard", "HEAD^")
	c.commit("hurry", map[string]string{"f": "x"})
	h.push(c, "ada", "origin", "main:stable").ok(t, "landed on stable") // still gated: its own headgate.yaml says so
	h.push(c, "ada", "origin", "main:other").ok(t, "main -> other")
	for _, p := range h.gate.proposals {
		if p.Branch == "other" {
			t.Fatal("other went to the gate")
		}
	}
	if len(h.gate.proposals) != 4 {
		t.Fatalf("%d proposals", len(h.gate.proposals))
	}
}

// A push is told what it would stop, and refused what belongs to somebody else.
func TestEnvironmentsOfAPush(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	h.envs.named = []string{"staging", "production"}
	const staging = "environments: {staging: {target: services}}\n"
	c.commit("taken", map[string]string{"headgate.yaml": staging, "deploy/staging/compose.yaml": "127.0.0.1:8000"})
	h.push(c, "ada", "origin", "main").refused(t,
		`deploy/staging/compose.yaml:1: 127.0.0.1:8000 of environment "staging" is held by live of another repository, as ada may know`,
		"fix: declare another port")
	c.commit("free", map[string]string{"deploy/staging/compose.yaml": "127.0.0.1:8001"})
	h.push(c, "ada", "origin", "main").ok(t,
		"remote: headgate.yaml no longer names the environment production: what runs there goes on until its removal is approved",
		"approve hello production", "success: 2 landed")
	c.commit(
		"nobody", map[string]string{"headgate.yaml": "environments: {staging: {target: services, approvals: {from: releese}}}\n"})
	h.push(c, "ada", "origin", "main").refused(t,
		`headgate.yaml:1: approvals of environment "staging" are asked of "releese"`)
}

func TestServerConfigurationIsChecked(t *testing.T) {
	h := newHarness(t)
	r, err := h.store.Create(t.Context(), "headgate")
	if err != nil {
		t.Fatal(err)
	}
	c := h.clone(r)
	c.commit("first", map[string]string{"server.yaml": strings.Replace(serverYAML, "administrators: [ada]",
		"administrators: [adda]", 1)})
	h.push(c, "ada", "origin", "main").refused(t, "server.yaml:7:", `did you mean "ada"?`)
	c.commit("right", map[string]string{"server.yaml": serverYAML})
	h.push(c, "jun", "origin", "main").refused(t, "no such repository") // administrators only
	h.push(c, "ada", "origin", "main").ok(t, "success: 1 landed on main")
	c.commit(
		"narrower", map[string]string{"server.yaml": strings.Replace(serverYAML, "loose: {", "loose: {read: [jun], ", 1)})
	h.push(c, "ada", "origin", "main").ok(t,
		"remote: rights of loose: read: jun; write: jun (was read: everyone; write: everyone)", "success: 2 landed")
	c.git("rm", "--quiet", "server.yaml")
	c.commit("gone", map[string]string{"f": "1"})
	h.push(c, "ada", "origin", "main").refused(t, "server.yaml: is not there")
}

func TestPushOptionsAreBounded(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	commit := c.commit("first", map[string]string{"f": "1"})
	var many []string
	for i := range 33 {
		many = append(many, "-o", fmt.Sprint("o", i))
	}
	h.push(c, "ada", append(many, "origin", "main")...).refused(t, "at most 32 push options of 1024 bytes")
	h.push(c, "ada", "-o", strings.Repeat("x", 1025), "origin", "main").refused(t, "at most 32 push options of 1024 bytes")
	if h.has(h.loose, commit) {
		t.Fatal("the refused commit is in the repository")
	}
	h.push(c, "ada", "-o", "a;b=c\x1b[31m'$(id)'", "-o", "\xff\xfe", "-o", strings.Repeat("x", 1024),
		"origin", "main").ok(t)
}

func TestManyRefs(t *testing.T) {
	h := newHarness(t)
	c := h.clone(h.loose)
	c.commit("first", map[string]string{"f": "1"})
	var specs []string
	for i := range 60 {
		specs = append(specs, fmt.Sprintf("HEAD:refs/tags/t%d", i))
	}
	h.push(c, "ada", append([]string{"origin"}, specs...)...).ok(t)
	if n := h.decisions(h.loose); n != 60 {
		t.Fatalf("%d decisions", n)
	}
	stdin := c.command(t.Context(), "update-ref", "--stdin")
	var b strings.Builder
	head := c.head()
	for i := range maxCommands + 1 {
		fmt.Fprintf(&b, "create refs/tags/n%d %s\n", i, head)
	}
	stdin.Stdin = strings.NewReader(b.String())
	if out, err := stdin.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	h.push(c, "ada", "origin", "--tags").refused(t, "at most 4000 refs")
}

func TestFilesInHooksFolderAreNeverRun(t *testing.T) {
	h := newHarness(t)
	mark := filepath.Join(t.TempDir(), "ran")
	script := "#!/bin/sh\ntouch " + mark + "\n"
	for _, name := range []string{"pre-receive", "update", "post-receive", "post-update", "reference-transaction"} {
		dir := filepath.Join(h.loose.Dir(), "hooks")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := h.clone(h.loose)
	c.commit("first", map[string]string{"hooks/post-receive": script, ".githooks/update": script})
	h.push(c, "ada", "origin", "main").ok(t)
	if _, err := os.Stat(mark); err == nil {
		t.Fatal("a hook of the repository ran")
	}
}

// A few objects can stand for more files than any disk holds. Whoever pushes
// them is refused while they are in quarantine, and others are not held up.
func TestTreeBombIsRefused(t *testing.T) {
	h := newHarness(t)
	c := h.landed()

	for _, where := range []string{"deep", "policies", "."} {
		tree := c.pipe("", "hash-object", "-w", "--stdin") // an empty file
		entry := "100644 blob " + tree + "\tf\n"
		for range 12 {
			var level strings.Builder
			for i := range 16 {
				fmt.Fprintf(&level, "%s", strings.ReplaceAll(entry, "\t", fmt.Sprintf("\t%02d", i)))
			}
			entry = "040000 tree " + c.pipe(level.String(), "mktree") + "\td\n"
		}
		top := strings.Fields(entry)[2]
		if where != "." {
			blob := c.pipe(buildspec["buildspec.yml"], "hash-object", "-w", "--stdin")
			top = c.pipe("100644 blob "+blob+"\tbuildspec.yml\n040000 tree "+top+"\t"+where+"\n", "mktree")
		}
		commit := c.git("commit-tree", "-p", "HEAD", "-m", "bomb", top)
		h.push(c, "ada", "origin", commit+":refs/for/main").refused(t, "the tree is larger than this server takes",
			"holds more than 1000000 entries")
		if h, ok := repo.ParseHash(commit); !ok || c.r.Has(h) {
			t.Errorf("%s: the commit %s of a refused push is kept", where, commit)
		}
	}
}

// A tree of a legal number of files whose paths are longer than anybody lists is
// refused where it can still be mended.
func TestLongPathsAreRefused(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	entry := "100644 blob " + c.pipe("", "hash-object", "-w", "--stdin") + "\t%s\n"
	for _, width := range []int{1000, 400, 1} {
		var level strings.Builder
		for i := range width {
			fmt.Fprintf(&level, entry, strings.Repeat("n", 80)+strconv.Itoa(i))
		}
		entry = "040000 tree " + c.pipe(level.String(), "mktree") + "\t%s\n"
	}
	blob := c.pipe(buildspec["buildspec.yml"], "hash-object", "-w", "--stdin")
	top := c.pipe("100644 blob "+blob+"\tbuildspec.yml\n"+fmt.Sprintf(entry, "long"), "mktree")
	commit := c.git("commit-tree", "-p", "HEAD", "-m", "long", top)
	h.push(c, "ada", "origin", commit+":refs/for/main").refused(t, "the tree is larger than this server takes",
		"long holds more than 67108864 bytes of paths")
}

// What is odd and no reason to refuse is told to the pusher, whose change lands.
// A push that makes a repository larger than it may be is refused, with the bound,
// and leaves nothing; one that brings nothing is not.
func TestQuota(t *testing.T) {
	h := newHarness(t)
	small, err := h.store.Create(t.Context(), "small")
	if err != nil {
		t.Fatal(err)
	}
	c := h.clone(small)
	c.commit("fits", map[string]string{"a": "1"})
	h.push(c, "ada", "origin", "HEAD:refs/heads/x", "HEAD:refs/heads/y").ok(t)
	noise := make([]byte, 80<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	large := c.commit("does not fit", map[string]string{"b": string(noise)})
	p := h.push(c, "ada", "origin", "HEAD:refs/heads/x")
	p.refused(t, "small would hold 8", "its quota is 64.0 KiB",
		"ask an administrator for another quota of small in server.yaml")
	if h.has(small, large) {
		t.Error("it left objects")
	}
	h.push(c, "ada", "origin", ":refs/heads/y").ok(t)
}

func TestWarningsAreTold(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	c.commit("odd", map[string]string{
		"headgate.yaml":               "environments: {staging: {target: services, path: deploy/staging}}\n",
		"deploy/staging/compose.yaml": "odd\n",
	})
	h.push(c, "ada", "origin", "HEAD:main").ok(t, "warning: deploy/staging/compose.yaml:1: is odd", "success:")
}

// Names that git takes are taken, and tags may come with the branch they are on.
func TestPlainNames(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	for _, name := range []string{"@acme/ui@1.2.0", "v1.0.0+build.5", "release#3", "žluť", "fix(x)=y", "a/b.c/d"} {
		for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
			h.push(c, "ada", "origin", "HEAD:"+prefix+name).ok(t)
			if got := h.ref(h.r, prefix+name); got != c.head() {
				t.Errorf("%s%s is at %s", prefix, name, got)
			}
		}
	}
	h.push(c, "ada", "-o", "ci.skip", "origin", "HEAD:refs/heads/later").ok(t,
		`warning: push option "ci.skip" means nothing to headgate`)
}

func TestMixedPushes(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	must := func(name string, want repo.Hash) {
		t.Helper()
		if got := h.ref(h.r, name); got != want {
			t.Errorf("%s is at %s, want %s", name, got, want)
		}
	}
	before := c.head()

	// What release tools do: the branch and its tag, whole or not at all.
	released := c.commit("release", map[string]string{"version": "1"})
	c.git("tag", "--annotate", "-m", "v1", "v1")
	tag, _ := repo.ParseHash(c.git("rev-parse", "v1"))
	h.push(c, "ada", "--atomic", "origin", "HEAD:main", "v1").ok(t, "success:")
	must("refs/heads/main", released)
	must("refs/tags/v1", tag)

	// A branch that is refused takes its tag with it, and not an unrelated branch.
	h.gate.script = says(gate.Progress{Kind: gate.Refused, At: time.Now(), Reason: "1 test failed"})
	refused := c.commit("bad", map[string]string{"version": "2"})
	c.git("tag", "v2")
	h.push(c, "ada", "origin", "HEAD:main", "v2", before.String()+":refs/heads/elsewhere").refused(t,
		"main has not landed; push it again when it has")
	must("refs/heads/main", released)
	must("refs/tags/v2", repo.Zero)
	must("refs/heads/elsewhere", before)
	h.push(c, "ada", "--atomic", "origin", "HEAD:main", refused.String()+":refs/heads/other").refused(t,
		"main has not landed")
	must("refs/heads/other", repo.Zero)
	h.gate.script = nil

	// One ref that is refused by itself does not refuse the others, unless the push
	// is atomic.
	h.push(c, "ada", "origin", before.String()+":refs/heads/fine", before.String()+":refs/heads/-x").refused(t,
		"is not a valid ref name")
	must("refs/heads/fine", before)
	h.push(c, "ada", "--atomic", "origin", before.String()+":refs/heads/fine2",
		before.String()+":refs/heads/-x").refused(t, "atomic push:")
	must("refs/heads/fine2", repo.Zero)

	// A tag elsewhere has nothing to do with the branch.
	c.git("tag", "old", before.String())
	next := c.commit("next", map[string]string{"version": "3"})
	h.push(c, "ada", "origin", "HEAD:main", "HEAD:refs/heads/topic/two", "old").ok(t, "success:")
	must("refs/heads/main", next)
	must("refs/heads/topic/two", next)
	must("refs/tags/old", before)
}

// A client that comes back to an old push is not told that the branch is there.
func TestAttachingDoesNotGoBack(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	first := c.head()
	second := c.commit("second", map[string]string{"f": "2"})
	h.push(c, "ada", "origin", "HEAD:main").ok(t)
	c.git("fetch", "--quiet", "origin")
	c.git("update-ref", "refs/remotes/origin/main", second.String())

	h.gate.script = says(gate.Progress{Kind: gate.Landed, At: time.Now(), Landed: first, FastForward: true})
	h.push(c, "ada", "origin", first.String()+":refs/for/main").ok(t, "attached again")
	if got := c.git("rev-parse", "refs/remotes/origin/main"); got != second.String() {
		t.Errorf("origin/main went back to %s", got)
	}

	// A mirror's own main is what it has of the server's.
	c.git("checkout", "--quiet", "--detach")
	c.git("config", "remote.origin.fetch", "+refs/*:refs/*")
	c.git("update-ref", "refs/heads/main", second.String())
	h.push(c, "ada", "origin", first.String()+":refs/for/main").ok(t, "attached again")
	h.push(c, "ada", "-o", "cancel=2", "origin", first.String()+":refs/for/main").ok(t, "was withdrawn")
	if got := c.git("rev-parse", "refs/heads/main"); got != second.String() {
		t.Errorf("the mirror's main went back to %s", got)
	}
}

// Histories that tools of their time wrote come in; what is dangerous does not.
func TestOldHistories(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	tree, parent := c.git("rev-parse", "HEAD^{tree}"), c.git("rev-parse", "HEAD")
	for name, test := range map[string]struct {
		author string
		says   string
		ok     bool
	}{
		"a bad time zone":             {"A <a@b> 1200000000 -7", "badTimezone", true},
		"no space before the date":    {"A <a@b>1200000000 +0000", "missingSpaceBeforeDate", true},
		"an author of several lines":  {"A <a@b> <c@d> 1200000000 +0000", "badDate", false},
		"a commit without its author": {"", "missingAuthor", false},
	} {
		text := "tree " + tree + "\nparent " + parent + "\n"
		if test.author != "" {
			text += "author " + test.author + "\n"
		}
		text += "committer C <c@d> 1200000000 +0000\n\nold\n"
		commit := c.pipe(text, "hash-object", "-t", "commit", "-w", "--literally", "--stdin")
		result := h.push(c, "ada", "origin", commit+":refs/heads/old-"+strings.ReplaceAll(name, " ", "-"))
		if test.ok {
			result.ok(t, test.says)
		} else {
			if result.err == nil || !strings.Contains(result.out, test.says) { // in git's own words, of any width
				t.Errorf("%s: %v\n%s", name, result.err, result.out)
			}
		}
	}

	// A directory's mode as old tools wrote it, with a zero before it; with the gate off, too.
	for user, c := range map[string]*clone{"ada": c, "jun": h.clone(h.loose)} {
		id, err := hex.DecodeString(c.pipe("", "hash-object", "-t", "tree", "-w", "--stdin"))
		if err != nil {
			t.Fatal(err)
		}
		padded := c.pipe("040000 below\x00"+string(id), "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
		commit := c.git("commit-tree", "-m", "padded", padded)
		h.push(c, user, "origin", commit+":refs/heads/old-mode").ok(t, "zeroPaddedFilemode")
	}
}

// TestQuotaOfAUser: what somebody brings in a day is bounded, in all repositories
// together. What was refused does not count, and what is a day old.
func TestQuotaOfAUser(t *testing.T) {
	h := newHarness(t)
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	h.listener.Now = func() time.Time { return now }
	c := h.clone(h.loose)
	commit := func(size int) {
		t.Helper()
		noise := make([]byte, size)
		if _, err := rand.Read(noise); err != nil {
			t.Fatal(err)
		}
		c.commit("more", map[string]string{"noise": string(noise)})
	}
	commit(40 << 10)
	h.push(c, "sam", "origin", "HEAD:refs/heads/x").ok(t)
	now = now.Add(time.Hour)
	commit(40 << 10)
	for range 2 {
		h.push(c, "sam", "origin", "HEAD:refs/heads/x").refused(t, "sam has brought 4", "this push brings 4",
			"the quota of sam is 64.0 KiB a day",
			"push again after 2026-11-25 12:00 UTC, or ask an administrator for another quota of sam in server.yaml")
	}
	h.push(c, "jun", "origin", "HEAD:refs/heads/y").ok(t)
	h.push(c, "sam", "origin", ":refs/heads/x").ok(t)
	now = now.Add(23 * time.Hour)
	commit(40 << 10)
	h.push(c, "sam", "origin", "HEAD:refs/heads/x").ok(t)
	now = now.Add(24 * time.Hour)
	commit(80 << 10)
	h.push(c, "sam", "origin", "HEAD:refs/heads/x").refused(t, "sam has brought 0 B in the last 24 hours",
		"hint: push less, or ask")
}
