package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// The tests are named for the behaviours a deployer compatible with CodeDeploy must
// show, by the numbers of the acceptance list. 1 to 11 are in package appspec, 28's
// unknown events too.

const os0 = "version: 0.0\nos: linux\n"

// needRoot is for what only root can do: give files away, become another user.
func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("as an ordinary user, only what that one can do is tested")
	}
}

func Test12Sources(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{
		"appspec.yml": os0 + `files:
  - source: /
    destination: DST/all
  - source: app
    destination: DST/dir
  - source: app/conf.d/a.conf
    destination: DST/single
`,
		"app/.hidden":        "h",
		"app/conf.d/a.conf":  "a",
		"app/empty/.gitkeep": "",
	})
	h.has(files{
		"all/app/.hidden":   "h",
		"dir/.hidden":       "h",
		"dir/conf.d/a.conf": "a",
		"single/a.conf":     "a",
		"dir/app":           "",
		"single/conf.d":     "",
	})
	if text := h.tree(h.dst); !strings.Contains(text, "all/appspec.yml") || !strings.Contains(text, "dir/empty/.gitkeep") {
		t.Error(text)
	}
}

func Test13Parents(t *testing.T) {
	h := newHarness(t)
	h.mkdirs(filepath.Join(h.dst, "there"))
	h.deploy(files{"appspec.yml": os0 + "files:\n  - source: app\n    destination: DST/there/a/b\n", "app/f": "1"})
	h.deploy(files{"appspec.yml": os0 + "files: []\n", "x": ""})
	// What was made goes; what was there stays.
	h.has(files{"there/a": ""})
	if !exists(filepath.Join(h.dst, "there")) {
		t.Error("an existing directory was removed")
	}
}

func Test14Likeness(t *testing.T) {
	needRoot(t)
	h := newHarness(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := h.request(files{
		"appspec.yml":  spec,
		"app/run.sh":   "exit 0",
		"app/link":     "-> run.sh",
		"app/current":  "-> v2",
		"app/v2/f":     "two",
		"app/nowhere":  "-> not-there",
		"app/v2/above": "-> ../run.sh",
	})
	lay := r.Unpack
	r.Unpack = func(ctx context.Context, dir string) error {
		if err := lay(ctx, dir); err != nil {
			return err
		}
		f := filepath.Join(dir, "app", "run.sh")
		err := os.Chtimes(f, at, at)
		if os.Getuid() == 0 {
			err = errors.Join(err, os.Chown(f, 1234, 1235))
		}
		return err
	}
	if result := h.run(r); result.Status != Succeeded {
		t.Fatal(result.Failure)
	}
	info, err := os.Stat(filepath.Join(h.dst, "app", "run.sh"))
	if err != nil || info.Mode() != 0o755 || !info.ModTime().Equal(at) {
		t.Errorf("%v %v, %v", info.Mode(), info.ModTime(), err)
	}
	if st := info.Sys().(*syscall.Stat_t); os.Getuid() == 0 && (st.Uid != 1234 || st.Gid != 1235) {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	h.has(files{"app/link": "-> run.sh", "app/current/f": "two", "app/nowhere": "-> not-there",
		"app/v2/above": "-> ../run.sh"})
	if info, err := os.Lstat(filepath.Join(h.dst, "app", "current")); err != nil || !info.IsDir() {
		t.Errorf("a link to a directory is not followed: %v, %v", info, err)
	}
}

func Test15Twice(t *testing.T) {
	for want, text := range map[string]string{
		"two sources, \"a/f\" and \"b/f\", have the same destination DST/f": os0 +
			"files:\n  - {source: a, destination: DST}\n  - {source: b, destination: DST}\n",
		`the file "b/f" is to be where a directory is made: DST/f`: os0 +
			"files:\n  - {source: a, destination: DST/f}\n  - {source: b, destination: DST}\n",
		"the permissions of DST/f are given twice": os0 + `files: [{source: a, destination: DST}]
permissions:
  - {object: DST, mode: 644}
  - {object: DST/f, mode: 600}
`,
	} {
		h := newHarness(t)
		h.refuse(h.request(files{"appspec.yml": text, "a/f": "1", "b/f": "2"}), want)
		if got := h.tree(h.dst); got != "" {
			t.Errorf("it left %s", got)
		}
	}
}

func Test16Cleanup(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec, "app/f": "1", "app/d/g": "1", "app/gone": "1", "app/l": "-> f"})
	_ = os.Remove(filepath.Join(h.dst, "app/gone"))
	record := h.host.instruction("group-cleanup")
	data, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(h.dst, "outside")
	h.lay(h.dst, files{"outside": "stays"})
	// A torn last line is dropped: it could be the beginning of another path.
	if err := os.WriteFile(record, append(data, outside...), 0o600); err != nil {
		t.Fatal(err)
	}
	h.deploy(files{"appspec.yml": spec, "app/h": "2"})
	h.has(files{"app/f": "", "app/d": "", "app/l": "", "app/h": "2", "outside": "stays"})

	// A record that others could have written is not followed.
	if err := os.Chmod(record, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := h.host.Run(t.Context(), h.request(files{"appspec.yml": spec}), nil); err == nil ||
		!strings.Contains(err.Error(), "so it is not followed") {
		t.Errorf("a record that anybody may write: %v", err)
	}
}

func Test17ScriptsFilesStay(t *testing.T) {
	h := newHarness(t)
	script := files{
		"appspec.yml": spec + "hooks:\n  AfterInstall:\n    - location: after.sh\n",
		"app/d/f":     "1",
		"after.sh":    "echo made >DST/app/d/made",
	}
	h.deploy(script)
	h.deploy(files{"appspec.yml": spec, "app/g": "2"})
	h.has(files{"app/d/f": "", "app/d/made": "made\n", "app/g": "2"})
	// The directory that stayed for it is still ours, and goes once it is empty.
	_ = os.Remove(filepath.Join(h.dst, "app/d/made"))
	h.deploy(files{"appspec.yml": spec, "app/g": "3"})
	h.has(files{"app/d": "", "app/g": "3"})
}

func Test18Disallow(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec, "app/f": "1"})
	h.deploy(files{"appspec.yml": spec, "app/f": "2"}) // its own is no conflict
	h.lay(h.dst, files{"app/q": "somebody's"})
	before := h.tree(h.dst)
	result := h.refuse(h.request(files{"appspec.yml": spec, "app/f": "3", "app/q": "3"}),
		"a specified file already exists at this location: DST/app/q")
	if got := h.tree(h.dst); got != before || result.Restored != NotTouched {
		t.Errorf("it is %s, and was touched:\n%s\n%s", result.Restored, before, got)
	}
	h.deploy(files{"appspec.yml": spec, "app/f": "4"}) // and the record is whole
	h.has(files{"app/f": "4", "app/q": "somebody's"})
}

func Test19OverwriteAndRetain(t *testing.T) {
	h := newHarness(t)
	h.lay(h.dst, files{"app/f": "theirs", "app/g": "theirs", "outside": "o", "app/link": "-> ../outside"})
	overwrite, retain := spec+"file_exists_behavior: OVERWRITE\n", spec+"file_exists_behavior: RETAIN\n"
	h.deploy(files{"appspec.yml": overwrite, "app/f": "1", "app/link": "1"})
	h.has(files{"app/f": "1", "app/link": "1", "outside": "o"}) // the link itself is replaced
	h.deploy(files{"appspec.yml": retain, "app/g": "2"})
	h.has(files{"app/f": "", "app/link": "", "app/g": "theirs"})
	h.deploy(files{"appspec.yml": spec, "app/h": "3"})
	h.has(files{"app/g": "theirs", "app/h": "3"})

	// The file says more than the deployment's option.
	r := h.request(files{"appspec.yml": retain, "app/g": "4"})
	r.FileExists = appspec.Overwrite
	h.run(r)
	h.has(files{"app/g": "theirs"})
	r = h.request(files{"appspec.yml": spec, "app/g": "5"})
	r.FileExists = appspec.Overwrite
	h.run(r)
	h.has(files{"app/g": "5"})
}

func Test21Permissions(t *testing.T) {
	h := newHarness(t)
	h.mkdirs(filepath.Join(h.dst, "app", "old"))
	h.lay(h.dst, files{"app/theirs.sh": "x"})
	grant := "permissions:\n  - {object: DST/app, pattern: '*.sh', mode: 700}\n" +
		"  - {object: DST/app/e, except: [h.txt], mode: 600, type: [file]}\n" +
		"  - {object: DST/app/, mode: 711, type: [directory]}\n" +
		"  - {object: DST/elsewhere, mode: 700}\n"
	h.deploy(files{
		"appspec.yml": spec + grant,
		"app/a.sh":    "1", "app/d/b.sh": "1", "app/e/h.txt": "1", "app/e/x/h.txt": "1", "app/old/f": "1",
	})
	for name, want := range map[string]fs.FileMode{
		"app/a.sh": 0o700, "app/d/b.sh": 0o755, "app/e/h.txt": 0o644, "app/e/x/h.txt": 0o600,
		"app/theirs.sh": 0o755, "app/old": 0o755, "app/d": 0o711, "app/e/x": 0o711,
	} {
		info, err := os.Stat(filepath.Join(h.dst, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s is %v, want %v (%v)", name, info.Mode().Perm(), want, err)
		}
	}
	h.says("nothing that this deployment installs is at DST/elsewhere")
}

// A change of owner clears setuid: the owner comes first.
func Test21OwnerBeforeMode(t *testing.T) {
	needRoot(t)
	h := newHarness(t)
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	owner, uid := self.Username, uint32(os.Getuid())
	if os.Getuid() == 0 {
		owner, uid = "nobody", 65534
	}
	h.deploy(files{
		"appspec.yml": spec + "permissions:\n  - {object: DST/app, owner: " + owner + ", mode: 4755, type: [file]}\n",
		"app/tool":    "1",
	})
	info, err := os.Stat(filepath.Join(h.dst, "app", "tool"))
	if err != nil || info.Mode() != fs.ModeSetuid|0o755 || info.Sys().(*syscall.Stat_t).Uid != uid {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	before := h.tree(h.dst)
	h.refuse(h.request(files{"appspec.yml": spec + "permissions:\n  - {object: DST/app, owner: nobody-there}\n",
		"app/tool": "2"}),
		`there is no user "nobody-there" on this host`)
	if h.tree(h.dst) != before {
		t.Error("it was touched")
	}
}

func Test22PermissionsOfOneFile(t *testing.T) {
	for text, want := range map[string]string{
		"{object: DST/app/f, pattern: '*.sh', mode: 600}":       "is a file, to which no pattern applies",
		"{object: DST/app/f, except: [a], mode: 600}":           "is a file, to which no pattern applies",
		"{object: DST/app/f, acls: ['d:u:root:r']}":             "a default acl is for a file",
		"{object: DST/app, acls: ['d:u:root:r'], type: [file]}": "a default acl is for a file",
		"{object: DST/app/f, acls: ['u:nobody-there:r']}":       `there is no user "nobody-there"`,
		"{object: DST/app/f, mode: 600, type: [directory]}":     "",
		"{object: DST/app/f, pattern: '**', mode: 600}":         "",
	} {
		h := newHarness(t)
		r := h.request(files{"appspec.yml": spec + "permissions:\n  - " + text + "\n", "app/f": "1"})
		if want == "" {
			if result := h.run(r); result.Status != Succeeded {
				t.Errorf("%s: %v", text, result.Failure)
			}
			continue
		}
		h.refuse(r, want)
	}
}

func Test22ACL(t *testing.T) {
	var acls []appspec.ACL
	for _, text := range []string{"u:root:rw", "g:0:r", "d:u:root:rwx", "m::rx"} {
		a, why := appspec.ParseACL(text)
		if why != "" {
			t.Fatal(why)
		}
		acls = append(acls, a)
	}
	access, err := entriesOf(acls, false, 0o754)
	want := []aclEntry{{aclUserObject, 7, aclNoID}, {aclUser, 6, 0}, {aclGroupObject, 5, aclNoID}, {aclGroup, 4, 0},
		{aclMask, 5, aclNoID}, {aclOther, 4, aclNoID}}
	if err != nil || !slices.Equal(access, want) {
		t.Errorf("access: %v, %v", access, err)
	}
	byDefault, err := entriesOf(acls, true, 0o754)
	want = []aclEntry{{aclUserObject, 7, aclNoID}, {aclUser, 7, 0}, {aclGroupObject, 5, aclNoID}, {aclMask, 7, aclNoID},
		{aclOther, 4, aclNoID}}
	if err != nil || !slices.Equal(byDefault, want) {
		t.Errorf("default: %v, %v", byDefault, err)
	}
	// The kernel takes what is encoded.
	dir := t.TempDir()
	if err := setACL(dir, acls); err != nil && !strings.Contains(err.Error(), "no access control lists") {
		t.Error(err)
	}
	if got := contextOf("system_u:object_r:tmp_t:s0",
		&appspec.Context{User: "user_u", Type: "web_t"}); got != "user_u:object_r:web_t:s0" {
		t.Error(got)
	}
}

const stopSpec = "hooks:\n  ApplicationStop:\n    - location: stop.sh\n"

func Test23PreviousStops(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec + stopSpec, "app/f": "1",
		"stop.sh": "echo one $DEPLOYMENT_ID >>DST/stopped; echo from one"})
	h.has(files{"stopped": ""})
	second := h.deploy(files{"appspec.yml": spec + stopSpec, "app/f": "2", "stop.sh": "echo two >>DST/stopped"})
	h.has(files{"stopped": "one d-2\n"})
	log, err := os.ReadFile(h.host.LogFile("group", second.ID))
	if err != nil || !strings.Contains(string(log), "[stdout]from one") {
		t.Errorf("%s, %v", log, err)
	}
}

func Test24Previous(t *testing.T) {
	h := newHarness(t)
	h.deploy(files{"appspec.yml": spec + stopSpec, "app/f": "1", "stop.sh": "echo one >>DST/stopped"})
	r := h.request(files{
		"appspec.yml": spec + stopSpec + "  ValidateService:\n    - location: bad.sh\n",
		"app/f":       "2", "stop.sh": "echo two >>DST/stopped", "bad.sh": "exit 1",
	})
	r.KeepFailed = true
	result := h.refuse(r, "failed with exit code 1")
	if result.Restored != Left || result.Installed != "d-2" || result.Verified != "d-1" {
		t.Errorf("%+v", result)
	}
	h.has(files{"app/f": "2"})
	h.deploy(files{"appspec.yml": spec, "app/f": "3"})
	h.has(files{"stopped": "one\ntwo\n"})
}

func Test25ScriptsInOrder(t *testing.T) {
	h := newHarness(t)
	hooks := "hooks:\n  AfterInstall: [{location: a.sh}, {location: plain}, {location: c.sh}, {location: d.sh}]\n"
	r := h.request(files{
		"appspec.yml": spec + hooks,
		"app/f":       "1", "a.sh": "echo a >>DST/ran", "plain": "echo b >>DST/ran\n",
		"c.sh": "echo c >>DST/ran; echo out; echo err >&2; exit 3", "d.sh": "echo d >>DST/ran",
	})
	result := h.refuse(r, "AfterInstall: script c.sh failed with exit code 3")
	if f := result.Failure; f.Code != CodeFailed || !strings.Contains(f.Output, "[stdout]out") ||
		!strings.Contains(f.Output, "[stderr]err") {
		t.Errorf("%+v", f)
	}
	h.has(files{"ran": "a\nb\nc\n"})

	// A missing one is found before anything is touched.
	before := h.tree(h.dst)
	result = h.refuse(
		h.request(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: not-there.sh}]\n", "app/f": "2"}),
		"script not-there.sh does not exist at the specified location")
	if result.Failure.Code != CodeMissing || result.Restored != NotTouched || h.tree(h.dst) != before {
		t.Errorf("%+v", result)
	}
	h.refuse(
		h.request(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh one}]\n", "app/f": "2", "a.sh": ""}),
		"script a.sh one does not exist") // no arguments can be given
	h.deploy(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: 'a b.sh'}]\n", "app/f": "2",
		"a b.sh": "echo ab >>DST/ran"})
	h.refuse(h.request(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh}]\n", "app/f": "2",
		"a.sh": "kill -9 $$"}),
		"was killed by signal 9 (killed)")
	h.refuse(h.request(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh}]\n", "app/f": "2",
		"a.sh": "#!/bin/sh\r\ntrue\r\n"}),
		"its first line ends with a carriage return")
	h.refuse(h.request(files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: l.sh}]\n", "app/f": "2",
		"l.sh": "-> /bin/true"}),
		"is a link that leads out of the revision")
}

func Test26Timeouts(t *testing.T) {
	h := newHarness(t)
	script := func(text string) files {
		return files{"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh, timeout: 1}]\n",
			"app/f": "1", "a.sh": text}
	}
	// Its children are ended with it, those in a session of their own too.
	result := h.refuse(h.request(script("setsid sleep 1000 & sleep 1000 & echo $! >DST/pid; echo waiting; sleep 1000")),
		"was still running after its timeout of 1s")
	if result.Failure.Code != CodeTimeout || !strings.Contains(result.Failure.Output, "waiting") {
		t.Errorf("%+v", result.Failure)
	}
	if left := marked(h.host.Root); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	result = h.refuse(h.request(script("trap '' TERM; while :; do sleep 0.1; done")),
		"was still running after its timeout")
	if left := marked(h.host.Root); len(left) > 0 {
		t.Errorf("one that ignores SIGTERM is left: %v", left)
	}
	result = h.refuse(h.request(script("sleep 1000 & exit 0")), "left its output open for longer than its timeout of 1s")
	if result.Failure.Code != CodeOutputsOpen {
		t.Errorf("%+v", result.Failure)
	}
	h.says("redirect that")
	h.refuse(h.request(script("sleep 1000 & exit 9")), "failed with exit code 9") // its own code is told
	// One that lets go of its output goes on.
	h.deploy(script("sleep 1000 >/dev/null 2>&1 </dev/null &"))
	if left := marked(h.host.Root); len(left) != 1 {
		t.Errorf("what a good script started: %v", left)
	}
	endMarked(h.host.Root)
}

func Test26Flood(t *testing.T) {
	h := newHarness(t)
	result := h.deploy(files{
		"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh}]\n", "app/f": "1",
		"a.sh": "yes 'a line of some length, again and again' | head -c 20000000; printf '\\033[31mred'; head -c 30000 /dev/zero",
	})
	h.says("lines were dropped")
	info, err := os.Stat(h.host.LogFile("group", result.ID))
	if err != nil || info.Size() > 16<<20 {
		t.Errorf("the log has %d bytes, %v", info.Size(), err)
	}
}

func Test27Users(t *testing.T) {
	needRoot(t)
	h := newHarness(t)
	if err := os.Chmod(filepath.Dir(h.dst), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	script := func(options string) files {
		return files{
			"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh, " + options + "}]\n", "app/f": "1",
			"a.sh": "echo $(id -un) $USER $HOME $#; cat; echo read",
		}
	}
	h.deploy(script("runas: " + self.Username))
	h.says(fmt.Sprintf("%s %s %s 0", self.Username, self.Username, self.HomeDir))
	h.says("read") // from a standard input that is closed
	if os.Getuid() != 0 {
		h.refuse(h.request(script("runas: root")), "only root can run scripts as another user")
		return
	}
	if err := os.Chmod(h.host.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	h.refuse(h.request(script("runas: nobody")), "that user may not enter ")
	for _, dir := range []string{filepath.Dir(filepath.Dir(h.dst)), filepath.Dir(h.dst), h.host.Root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.deploy(script("runas: nobody"))
	h.says("nobody nobody")
	h.deploy(script("sudo: true"))
	h.says("root root")
	h.refuse(h.request(script("runas: nobody-there")), `there is no user "nobody-there" on this host`)
	h.refuse(h.request(files{
		"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh, runas: nobody}]\n", "app/f": "1", "a.sh": "exit 4",
	}), "script a.sh run as user nobody failed with exit code 4")
}

func Test28Log(t *testing.T) {
	h := newHarness(t)
	r := h.request(files{
		"appspec.yml": spec + "hooks:\n  AfterInstall: [{location: a.sh}]\n", "app/f": "1",
		"a.sh": "echo $LIFECYCLE_EVENT $DEPLOYMENT_ID $APPLICATION_NAME $DEPLOYMENT_GROUP_NAME $DEPLOYMENT_GROUP_ID $BUNDLE_COMMIT; echo oops >&2; env | grep -c GOFLAGS",
	})
	r.Application, r.GroupName, r.Env = "shop", "blue", map[string]string{"BUNDLE_COMMIT": "abc"}
	t.Setenv("GOFLAGS", "-x=secret") // what the agent has of its own is none of a script's business
	if result := h.run(r); result.Status != Failed {
		t.Error("grep found what is not to be there")
	}
	data, err := os.ReadFile(h.host.LogFile("group", r.ID))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(data)) {
		if at, err := time.Parse("2006-01-02 15:04:05", line[:19]); err != nil || at.IsZero() {
			t.Errorf("%q: %v", line, err)
		}
		if text := strings.TrimSpace(line[20:]); !strings.HasPrefix(text, "[headgate]") &&
			!strings.HasPrefix(text, "LifecycleEvent - A") || text == "LifecycleEvent - AfterInstall" {
			got = append(got, text)
		}
	}
	slices.Sort(got[min(2, len(got)):]) // two streams
	want := []string{
		"LifecycleEvent - DownloadBundle", "LifecycleEvent - BeforeInstall",
		"LifecycleEvent - AfterInstall", "LifecycleEvent - Install", "Script - a.sh",
		"[stderr]oops", "[stdout]0", "[stdout]AfterInstall d-1 shop blue group abc",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func Test28Lookup(t *testing.T) {
	h := newHarness(t)
	one, two := strings.Replace(spec, "source: /app", "source: one", 1), strings.Replace(spec, "source: /app",
		"source: two", 1)
	all := files{"appspec.yaml": one, "other.yml": two, "one/f": "1", "two/f": "2"}
	h.deploy(all)
	h.has(files{"app/f": "1"})
	r := h.request(all)
	r.Spec = "other.yml"
	h.run(r)
	h.has(files{"app/f": "2"})
	h.refuse(h.request(files{"x": ""}), "the revision has no appspec.yml, appspec.yaml, appspec.json")
	// An archive of a repository has one directory at its top.
	h.deploy(files{"shop-main/appspec.yml": spec, "shop-main/app/f": "3"})
	h.has(files{"app/f": "3"})
}
