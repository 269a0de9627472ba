package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// allHooks has a script for every event; say.sh tells which ran, for whom.
const allHooks = `hooks:
  BeforeBlockTraffic: [{location: say.sh}]
  AfterBlockTraffic: [{location: say.sh}]
  ApplicationStop: [{location: say.sh}]
  BeforeInstall: [{location: say.sh}]
  AfterInstall: [{location: say.sh}]
  ApplicationStart: [{location: say.sh}]
  ValidateService: [{location: say.sh}]
  BeforeAllowTraffic: [{location: say.sh}]
  AfterAllowTraffic: [{location: say.sh}]
`

// version is a revision whose scripts tell that they run, and which fails at an event.
func version(n int, failAt appspec.Event) files {
	say := fmt.Sprintf("echo v%d $LIFECYCLE_EVENT $DEPLOYMENT_ID >>DST/ran\n", n)
	if failAt != "" {
		say += fmt.Sprintf("[ $LIFECYCLE_EVENT = %s ] && exit 3\n", failAt)
	}
	all := files{
		"appspec.yml": spec + "file_exists_behavior: OVERWRITE\npermissions:\n  - {object: DST/app, mode: 640, type: [file]}\n" + allHooks,
		"say.sh":      say + "exit 0\n",
		"app/both":    fmt.Sprintf("version %d", n),
		"app/link":    fmt.Sprintf("-> v%d/f", n),
	}
	all[fmt.Sprintf("app/v%d/f", n)] = fmt.Sprint(n)
	if n == 1 { // where the second has a directory, and a directory where that has a file
		all["app/swap"], all["app/paws/f"] = "file", "1"
	} else {
		all["app/swap/f"], all["app/paws"] = "2", "file"
	}
	return all
}

// after is what has run since the first n lines.
func (h *harness) after(n int) string { return strings.Join(h.lines("ran")[n:], "\n") }

// whole is what was deployed, without the scripts' own notes.
func (h *harness) whole() string {
	var kept []string
	for line := range strings.Lines(h.tree(h.dst)) {
		if !strings.HasPrefix(line, "ran ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// TestRestore: wherever a deployment fails, the files of the previous revision come
// back as they were and it is started again, by the events that the new one had begun.
func TestRestore(t *testing.T) {
	const started = "v1 ApplicationStart d-2\nv1 ValidateService d-2"
	for _, c := range []struct {
		at   appspec.Event
		want string
	}{
		{appspec.BeforeInstall, "v1 ApplicationStop d-2\nv2 BeforeInstall d-2\nv1 BeforeInstall d-2\nv1 AfterInstall d-2\n" +
			started},
		{appspec.AfterInstall, "v1 ApplicationStop d-2\nv2 BeforeInstall d-2\nv2 AfterInstall d-2\nv1 BeforeInstall d-2\nv1 AfterInstall d-2\n" + started},
		{appspec.ApplicationStart, "v1 ApplicationStop d-2\nv2 BeforeInstall d-2\nv2 AfterInstall d-2\nv2 ApplicationStart d-2\n" +
			"v2 ApplicationStop d-2\nv1 BeforeInstall d-2\nv1 AfterInstall d-2\n" + started},
		{appspec.ValidateService, "v1 ApplicationStop d-2\nv2 BeforeInstall d-2\nv2 AfterInstall d-2\nv2 ApplicationStart d-2\nv2 ValidateService d-2\n" +
			"v2 ApplicationStop d-2\nv1 BeforeInstall d-2\nv1 AfterInstall d-2\n" + started},
	} {
		t.Run(string(c.at), func(t *testing.T) {
			h := newHarness(t)
			h.lay(h.dst, files{"app/theirs": "theirs", "app/taken": "theirs"})
			h.deploy(version(1, ""))
			h.lay(h.dst, files{"app/made": "by hand"})
			before, n := h.whole(), len(h.lines("ran"))
			second := version(2, c.at)
			second["app/taken"] = "ours"
			result := h.refuse(h.request(second), fmt.Sprintf("%s: script say.sh failed with exit code 3", c.at))
			if result.Restored != PutBack || result.Installed != "d-1" || result.Verified != "d-1" {
				t.Errorf("%+v", result)
			}
			if got := h.whole(); got != before {
				t.Errorf("files are\n%s\nwere\n%s", got, before)
			}
			if got := h.after(n); got != c.want {
				t.Errorf("ran\n%s\nwant\n%s", got, c.want)
			}
			h.deploy(version(3, "")) // and it goes on from there
			h.has(files{"app/both": "version 3", "app/v1": "", "app/v2": "", "app/theirs": "theirs"})
		})
	}
}

// TestRestoreWhatScriptsBreak: what a script removes or writes into is put back too,
// as far as it was installed.
func TestRestoreWhatScriptsBreak(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec, "app/f": "1", "app/d/g": "1"})
	before := h.tree(h.dst)
	h.refuse(h.request(files{
		"appspec.yml": spec + "hooks:\n  BeforeInstall: [{location: a.sh}]\n", "app/f": "2",
		"a.sh": "echo more >>DST/app/f; rm -rf DST/app/d; chmod 700 DST/app; exit 1",
	}), "failed with exit code 1")
	if got := h.tree(h.dst); got != before {
		t.Errorf("files are\n%s\nwere\n%s", got, before)
	}
}

// TestFirstFails: without a previous revision nothing stays of the new one.
func TestFirstFails(t *testing.T) {
	h := newHarness(t)
	h.lay(h.dst, files{"app/taken": "theirs"})
	before := h.whole()
	first := version(1, appspec.ValidateService)
	first["app/taken"] = "ours"
	result := h.refuse(h.request(first), "failed with exit code 3")
	if got := h.whole(); got != before || result.Restored != Emptied || result.Installed != "" {
		t.Errorf("%+v\n%s", result, got)
	}
	// What a script of it had started is ended.
	h.refuse(h.request(files{
		"appspec.yml": spec + "hooks:\n  ApplicationStart: [{location: a.sh}]\n  ValidateService: [{location: b.sh}]\n",
		"app/f":       "2",
		"a.sh":        "setsid sleep 1000 >/dev/null 2>&1 </dev/null &", "b.sh": "exit 1",
	}), "failed with exit code 1")
	if left := marked(h.host.Root); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// TestStuckStop: the previous revision cannot be stopped; with the flag it is passed
// over.
func TestStuckStop(t *testing.T) {
	h := newHarness(t)
	stuck := files{"appspec.yml": spec + stopSpec + "  ApplicationStart: [{location: start.sh}]\n", "app/f": "1",
		"stop.sh": "exit 5", "start.sh": "echo start >>DST/ran"}
	h.deploy(stuck)
	result := h.refuse(h.request(files{"appspec.yml": spec, "app/f": "2"}),
		"ApplicationStop: script stop.sh failed with exit code 5")
	if result.Restored != PutBack || len(h.lines("ran")) != 2 {
		t.Errorf("%+v, %q", result, h.lines("ran"))
	}
	h.has(files{"app/f": "1"})
	r := h.request(files{"appspec.yml": spec, "app/f": "2"})
	r.IgnoreStopFailures = true
	if result := h.run(r); result.Status != Succeeded {
		t.Fatal(result.Failure)
	}
	h.has(files{"app/f": "2"})

	// The previous archive is gone.
	h.deploy(stuck)
	if err := os.RemoveAll(archiveIn(h.host.deploymentDir("group", fmt.Sprintf("d-%d", h.n)))); err != nil {
		t.Fatal(err)
	}
	h.refuse(h.request(files{"appspec.yml": spec, "app/f": "3"}), "its revision is not there any more")
}

// TestTraffic: the events of all kinds, whose scripts run, and what moves the traffic.
func TestTraffic(t *testing.T) {
	h := newHarness(t)
	var moves []string
	request := func(n int, failAt appspec.Event, kind Kind) Request {
		r := h.request(version(n, failAt))
		r.Kind = kind
		r.Traffic = func(_ context.Context, allow bool) error {
			moves = append(moves, fmt.Sprintf("allow=%t after %d", allow, len(h.lines("ran"))))
			return nil
		}
		return r
	}
	expect := func(n int, want, wantMoves string) {
		t.Helper()
		if got := h.after(n); got != want {
			t.Errorf("ran\n%s\nwant\n%s", got, want)
		}
		if got := strings.Join(moves, ", "); got != wantMoves {
			t.Errorf("traffic moved: %s, want %s", got, wantMoves)
		}
		moves = nil
	}
	h.run(request(1, "", InPlace))
	// The first has no previous revision, whose scripts would run.
	expect(
		0, "v1 BeforeInstall d-1\nv1 AfterInstall d-1\nv1 ApplicationStart d-1\nv1 ValidateService d-1\nv1 BeforeAllowTraffic d-1\nv1 AfterAllowTraffic d-1",
		"allow=false after 0, allow=true after 5")
	n := len(h.lines("ran"))
	h.run(request(2, "", InPlace))
	expect(
		n, "v1 BeforeBlockTraffic d-2\nv1 AfterBlockTraffic d-2\nv1 ApplicationStop d-2\nv2 BeforeInstall d-2\nv2 AfterInstall d-2\nv2 ApplicationStart d-2\n"+
			"v2 ValidateService d-2\nv2 BeforeAllowTraffic d-2\nv2 AfterAllowTraffic d-2", "allow=false after 7, allow=true after 14")
	n = len(h.lines("ran"))
	h.run(request(1, appspec.AfterInstall, InPlace))
	expect(
		n, "v2 BeforeBlockTraffic d-3\nv2 AfterBlockTraffic d-3\nv2 ApplicationStop d-3\nv1 BeforeInstall d-3\nv1 AfterInstall d-3\n"+
			"v2 BeforeInstall d-3\nv2 AfterInstall d-3\nv2 ApplicationStart d-3\nv2 ValidateService d-3\nv2 BeforeAllowTraffic d-3\nv2 AfterAllowTraffic d-3",
		"allow=false after 16, allow=true after 25")
	n = len(h.lines("ran"))
	h.run(request(3, "", Original))
	expect(n, "v2 BeforeBlockTraffic d-4\nv2 AfterBlockTraffic d-4", "allow=false after 27")
	n = len(h.lines("ran"))
	h.run(request(3, "", RollbackOriginal))
	expect(n, "v2 BeforeAllowTraffic d-5\nv2 AfterAllowTraffic d-5", "allow=true after 29")
}

// TestChecksFirst: the golden table's cases in which an agent finds out half way.
func TestChecksFirst(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec, "app/f": "1"})
	h.mkdirs(filepath.Join(h.dst, "real"), filepath.Join(h.dst, "full", "f"))
	h.lay(h.dst, files{"file": "x", "app/in": "-> ../real", "dangling": "-> nowhere", "full/f/x": "1",
		"linked": "-> real"})
	before := h.tree(h.dst)
	for want, text := range map[string]files{
		`source "not-there" is not in the revision`: {"appspec.yml": os0 +
			"files: [{source: not-there, destination: DST/x}]\n"},
		"DST/file is a file, where a directory is needed": {"appspec.yml": os0 +
			"files: [{source: app, destination: DST/file}]\n", "app/f": "2"},
		"DST/dangling is a link to nothing": {"appspec.yml": os0 +
			"files: [{source: app, destination: DST/dangling}]\n", "app/f": "2"},
		"DST/app/in is a link, where the revision has a directory": {"appspec.yml": spec, "app/in/f": "2"},
		`DST/full/f is a directory, where the file "app/f" is to be`: {"appspec.yml": os0 +
			"files: [{source: app, destination: DST/full}]\n", "app/f": "2"},
		`"app/out" is a link that leads out of the revision`: {"appspec.yml": spec,
			"app/out": "-> ../../../out"},
		`"app/etc" is a link that leads out of the revision`: {"appspec.yml": spec,
			"app/etc": "-> /etc/hostname"},
		`leads out of the revision, to "/not/there"`: {"appspec.yml": spec,
			"app/gone": "-> /not/there"},
		`nests deeper than 100 directories`:                                 {"appspec.yml": spec, "app/loop": "-> ."},
		"unsupported operating system":                                      {"appspec.yml": "version: 0.0\nos: beos\n"},
		"the revision is for windows, and this host runs linux":             {"appspec.yml": "version: 0.0\nos: windows\n"},
		"appspec.yml:1:10: version is the text \"0.0\", not the number 0.0": {"appspec.yml": "version: '0.0'\nos: linux\n"},
		"appspec.yml: application specification file was empty":             {"appspec.yml": "\n"},
	} {
		result := h.refuse(h.request(text), want)
		if got := h.tree(h.dst); got != before || result.Restored != NotTouched {
			t.Errorf("%s: %s, and the host is\n%s\nwas\n%s", want, result.Restored, got, before)
		}
	}
	// A link that somebody names as a destination is followed.
	h.deploy(files{"appspec.yml": os0 + "files: [{source: app, destination: DST/linked}]\n", "app/f": "2"})
	h.has(files{"real/f": "2"})
	// What BeforeInstall may mend is asked again only then.
	h.deploy(files{
		"appspec.yml": os0 + "files: [{source: app, destination: DST/file}]\nhooks:\n  BeforeInstall: [{location: a.sh}]\n",
		"app/f":       "3", "a.sh": "rm DST/file",
	})
	h.has(files{"file/f": "3"})
	h.says("a script may mend that before Install")
}

// TestGroups: two groups of one host do not fight over a directory.
func TestGroups(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec, "app/f": "1"})
	r := h.request(files{"appspec.yml": spec + "file_exists_behavior: OVERWRITE\n", "app/f": "2"})
	r.Group = "other"
	h.refuse(r, `DST/app/f was installed by the deployment group "group" of this host`)
	r = h.request(files{"appspec.yml": spec, "app/g": "2"})
	r.Group = "other"
	if result := h.run(r); result.Status != Succeeded {
		t.Fatal(result.Failure)
	}
	h.deploy(files{"appspec.yml": os0})
	h.has(files{"app/f": "", "app/g": "2"})
}

// TestFence: what is older than the newest is refused for ever; the same is not done
// twice.
func TestFence(t *testing.T) {
	h := newHarness(t)
	request := func(sequence int) Request {
		r := h.request(version(1, ""))
		r.Sequence = sequence
		return r
	}
	newest := request(7)
	first := h.run(newest)
	ran := len(h.lines("ran"))
	if again := h.run(newest); again != first && again.Finished.Equal(first.Finished) == false ||
		len(h.lines("ran")) != ran {
		t.Errorf("it was done twice: %+v, %+v", first, again)
	}
	if _, err := h.host.Run(t.Context(), request(6), nil); !errors.Is(err, ErrFenced) {
		t.Errorf("an older one: %v", err)
	}
	if len(h.lines("ran")) != ran {
		t.Error("an older one ran scripts")
	}
	h.run(request(7))
	h.run(request(0))
	if _, err := h.host.Run(t.Context(), request(6), nil); !errors.Is(err, ErrFenced) {
		t.Errorf("an older one, later: %v", err)
	}
	if unlock, err := h.host.lock("group"); err != nil {
		t.Fatal(err)
	} else {
		if _, err := h.host.Run(t.Context(), request(9), nil); !errors.Is(err, ErrBusy) {
			t.Errorf("beside another: %v", err)
		}
		unlock()
	}
	for _, bad := range []Request{{ID: "../x", Group: "g"}, {ID: "x", Group: "a/b"}, {ID: "x", Group: instructions},
		{ID: "x", Group: "g", FileExists: "MERGE"}, {ID: "", Group: "group"}} {
		if _, err := h.host.Run(t.Context(), bad, nil); err == nil {
			t.Errorf("taken: %+v", bad)
		}
	}
}

// TestKeptRevisions: the oldest archives go, never the one that runs.
func TestKeptRevisions(t *testing.T) {
	h := newHarness(t)
	h.host.MaxRevisions = 2
	h.deploy(files{"appspec.yml": spec, "app/f": "1"})
	for range 4 {
		r := h.request(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh}]\n", "app/f": "2",
			"a.sh": "exit 1"})
		if result := h.run(r); result.Restored != PutBack {
			t.Fatalf("%+v", result)
		}
	}
	entries, err := os.ReadDir(filepath.Join(h.host.Root, "group"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"d-1", "d-5"}) {
		t.Errorf("kept: %q", names)
	}
	h.host.MaxRevisions = -1
	if _, err := h.host.Run(t.Context(), h.request(files{}), nil); err == nil {
		t.Error("fewer than one is kept")
	}
}

// TestStopped: whoever stops a deployment gets the previous revision; a process that is
// to end leaves the deployment for the next one.
func TestStopped(t *testing.T) {
	h := newHarness(t)
	h.deploy(version(1, ""))
	before := h.whole()
	waits := version(2, "")
	waits["say.sh"] = "[ $LIFECYCLE_EVENT = AfterInstall ] || exit 0; echo v2 waits $DEPLOYMENT_ID >>DST/ran; sleep 1000"
	ctx, stop := context.WithCancelCause(t.Context())
	r := h.request(waits)
	r.Progress = func(p Progress) {
		if p.Kind == ScriptBegun && p.Event == appspec.AfterInstall {
			stop(errors.New("mary said so"))
		}
	}
	result, err := h.host.Run(ctx, r, nil)
	if err != nil || result.Restored != PutBack || !strings.Contains(result.Failure.What, "was ended: mary said so") {
		t.Errorf("%+v, %v", result, err)
	}
	if got := h.whole(); got != before {
		t.Errorf("it is\n%s\nwas\n%s", got, before)
	}

	suspend := make(chan struct{})
	r = h.request(waits)
	r.Progress = func(p Progress) {
		if p.Kind == ScriptBegun && p.Event == appspec.AfterInstall && !p.Restoring {
			close(suspend)
		}
	}
	if _, err := h.host.Run(t.Context(), r, suspend); !errors.Is(err, ErrSuspended) {
		t.Fatalf("suspended: %v", err)
	}
	r.Progress = nil
	result, err = h.host.Run(t.Context(), r, nil)
	if err != nil || result.Failure.Code != CodeInterrupted || result.Restored != PutBack {
		t.Errorf("%+v, %v", result, err)
	}
	if got := h.whole(); got != before {
		t.Errorf("it is\n%s\nwas\n%s", got, before)
	}
}

// TestDiskFull: whatever cannot be written, the previous revision is whole and runs, or
// is as soon as there is room again.
func TestDiskFull(t *testing.T) {
	version := func(n int) files { // with few scripts, for it is deployed often
		all := version(n, "")
		all["appspec.yml"], _, _ = strings.Cut(all["appspec.yml"], "hooks:")
		all["appspec.yml"] += "hooks:\n  ApplicationStop: [{location: say.sh}]\n  ApplicationStart: [{location: say.sh}]\n"
		return all
	}
	deployed := func(t *testing.T) (*harness, string) {
		h := newHarness(t)
		h.deploy(version(1))
		return h, h.whole()
	}
	h, _ := deployed(t)
	calls := 0
	h.host.fault = func(string, string) error { calls++; return nil }
	h.deploy(version(2))
	after := h.whole()
	if calls < 30 {
		t.Fatalf("only %d changes of the disk", calls)
	}
	for n := 1; n <= calls; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			forGood := n%3 > 0
			h, before := deployed(t)
			count := 0
			what := ""
			h.host.fault = func(op, path string) error {
				if count++; count == n || forGood && count > n && op != "remove" {
					what = cmp.Or(what, op+" "+path)
					return &os.PathError{Op: op, Path: path, Err: syscall.ENOSPC}
				}
				return nil
			}
			r := h.request(version(2))
			result, err := h.host.Run(t.Context(), r, nil)
			h.host.fault = nil
			if err != nil { // its records could not be written: it goes on now
				if result, err = h.host.Run(t.Context(), r, nil); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			got, want := strings.ReplaceAll(h.whole(), h.dst, "DST"), before
			if result.Status == Succeeded {
				want = after
			}
			if got != want {
				t.Errorf("%d, %s, for good %t: %+v %v\nis\n%s\nwant\n%s", n, what, forGood, result, result.Failure, got, want)
			}
			running := h.lines("ran")
			slices.Reverse(running)
			wanted := map[Status]string{Succeeded: "v2", Failed: "v1"}[result.Status]
			if last := running[slices.IndexFunc(running,
				func(s string) bool {
					return strings.Contains(s,
						"ApplicationSt")
				})]; !strings.HasPrefix(last, wanted+" ApplicationStart") {
				t.Errorf("%d, %s, for good %t: %s, and last there was %s", n, what, forGood, result.Status, last)
			}
		})
	}
}
