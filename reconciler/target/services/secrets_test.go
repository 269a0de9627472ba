package services

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// secretsOf are secrets with these values, each its own revision.
func secretsOf(pairs ...string) target.Secrets {
	all := target.Secrets{}
	for i := 0; i < len(pairs); i += 2 {
		sum := sha256.Sum256([]byte(pairs[i+1]))
		all[pairs[i]] = target.Secret{Revision: hex.EncodeToString(sum[:4]), Value: secret.NewValue([]byte(pairs[i+1]))}
	}
	return all
}

func summed(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// testSecrets holds a runner to what is promised of secrets.
func testSecrets(t *testing.T, r runsAs) {
	const (
		token    = "it's a 'token'\nof $HOME `two` lines"
		password = "correct horse battery staple"
		other    = "another pass phrase altogether"
	)
	compose := r.compose(`sum() { printf %s "$$1" | sha256sum; }; echo leaked $$PASSWORD
		sum "$$TOKEN"; sum "$$PASSWORD"; sum "$$(cat /run/secrets/config)"
		stat -c 'mode %a' /run/secrets/config; touch /tmp/ready; while :; do sleep 0.05; done`,
		"stop_grace_period: 100ms",
		`healthcheck: {test: [CMD-SHELL, "test -e /tmp/ready && test \"$$PASSWORD\" && test -s /run/secrets/config"], interval: 100ms, timeout: 5m, start_period: 10m}`,
		"secrets: [{source: config, mode: '0440'}]",
		"x-headgate: {secrets: {TOKEN: team/token, PASSWORD: 'login:password'}}") +
		"secrets: {config: {external: true, name: app-config}}\n"
	secrets := func(password string) target.Secrets {
		return secretsOf("team/token", token, "login", `{"user": "app", "password": "`+password+`"}`, "app-config", token)
	}

	dir, logs := t.TempDir(), t.TempDir()
	h := r.open(t, dir, logs)
	h.seq = 1
	declare := func(h *harness, s target.Secrets) {
		d := h.declared(1, 1, compose)
		d.Secrets = s
		h.Converge(d)
	}
	printed := func(h *harness, instance string, wants ...string) {
		t.Helper()
		eventually(t, "it prints what it was given", func() (string, bool) {
			lines, err := h.InstanceLog(h.key(), instance, 1000)
			text := fmt.Sprint(strings.Join(lines, "\n"), err)
			for _, want := range wants {
				if !strings.Contains(text, want) {
					return text, false
				}
			}
			return text, true
		})
	}

	// What is not set stops what would be started, in a word and with what to do.
	declare(h, secretsOf("team/token", token, "app-config", token))
	o := h.await(target.Failed)
	if o.Reason != target.ReasonSecretMissing || !strings.Contains(o.Message, "secret set hello:login") {
		t.Errorf("without a secret: %s %q", o.Reason, o.Message)
	}

	declare(h, secrets(password))
	before := h.await(target.Healthy)
	first := before.Units[0].Instances[0].ID
	printed(h, first, "leaked ***", summed(token), summed(password), "mode 440")
	nowhere(t, []string{password, "of $HOME `two`"}, dir, logs)

	// The agent is started again, and the instance, without a word of the server.
	h.leave()
	h = r.open(t, dir, logs)
	h.seq = 1
	again := h.await(target.Healthy)
	if fmt.Sprint(instances(before)) != fmt.Sprint(instances(again)) {
		t.Errorf("it was found as %v, and had been %v", instances(again), instances(before))
	}
	if err := syscall.Kill(again.Units[0].Instances[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is started again", func() (string, bool) {
		o := h.Observe(h.key())
		return fmt.Sprintf("%+v", o), o.State == target.Healthy && o.Units[0].Instances[0].Restarts == 1
	})

	// Another value replaces the instance; the same one again does nothing.
	declare(h, secrets(other))
	eventually(t, "another one is given the other value", func() (string, bool) {
		o := h.Observe(h.key())
		return fmt.Sprintf("%+v", o), o.State == target.Healthy && len(o.Units[0].Instances) == 1 &&
			o.Units[0].Instances[0].ID != first
	})
	o = h.Observe(h.key())
	printed(h, o.Units[0].Instances[0].ID, summed(token), summed(other))
	declare(h, secrets(other))
	if now := h.await(target.Healthy); fmt.Sprint(instances(now)) != fmt.Sprint(instances(o)) {
		t.Errorf("the same value replaced %v by %v", instances(o), instances(now))
	}
	key, err := secret.OpenKey(filepath.Join(dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the former value is forgotten", func() (string, bool) {
		sealed, err := os.ReadFile(filepath.Join(dir, "apps", "hello", h.env, "hello", "secrets.age"))
		if err != nil {
			return err.Error(), false
		}
		text, err := key.Open(sealed, maxKeptSecrets)
		return string(text), err == nil && bytes.Count(text, []byte(`"login"`)) == 2 &&
			bytes.Count(text, []byte(":\"ey")) == 1
	})

	// A value that the service cannot live with leaves what was, and rolls nothing back.
	declare(h, secretsOf("team/token", token, "login", `{"user": "app"}`, "app-config", token))
	o = h.await(target.Failed)
	if o.RollBack || o.Reason != target.ReasonSecretInvalid || !strings.Contains(o.Message, `has no member "password"`) {
		t.Errorf("with what is no password: roll back %t, %s %q", o.RollBack, o.Reason, o.Message)
	}
	printed(h, o.Units[0].Instances[0].ID, summed(other))

	h.Remove(h.key(), 1)
	eventually(t, "nothing is left of them", func() (string, bool) {
		_, err := os.Stat(filepath.Join(dir, "apps", "hello", h.env, "hello", "secrets.age"))
		left, _ := filepath.Glob("/*/headgate-" + h.agentName() + "*")
		shm, _ := filepath.Glob("/dev/shm/headgate-" + h.agentName() + "*")
		return fmt.Sprint(err, left, shm), os.IsNotExist(err) && len(left)+len(shm) == 0
	})
}

// nowhere fails the test where one of texts is in a file below a directory, or in what
// everybody can see of a process.
func nowhere(t *testing.T, texts []string, dirs ...string) {
	t.Helper()
	look := func(name string) {
		data, _ := os.ReadFile(name) // one that is gone holds nothing
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) {
				t.Errorf("%s holds a secret", name)
			}
		}
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err == nil && d.IsDir() && d.Name() == "releases":
				return fs.SkipDir // the program under test is this one, constants and all
			case err == nil && d.Type().IsRegular() && filepath.Ext(path) != ".out": // what it printed itself
				look(path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		look(name)
	}
}

// TestKilledBesideSecrets: an agent that is killed when it has written secrets down, and not
// yet what is declared, goes on from what it has, and from what it is told again.
func TestKilledBesideSecrets(t *testing.T) {
	t.Parallel()
	compose := runsAs{}.compose(`printf %s "$$TOKEN" | sha256sum; touch /tmp/ready; while :; do sleep 0.05; done`,
		"stop_grace_period: 100ms", ready, "x-headgate: {secrets: {TOKEN: token}}")
	dir, logs := t.TempDir(), t.TempDir()
	h := openIn(t, dir, logs, func(*Target) {})
	env := h.env
	h.leave()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killed := func(value string) {
		t.Helper()
		cmd := exec.Command(self)
		cmd.Env = []string{
			"BE_TARGET=confined",
			"PATH=" + os.Getenv("PATH"),
			"WORK=" + dir,
			"LOGS=" + logs,
			"ENVIRONMENT=" + env,
			"COMPOSE=" + compose,
			"SECRET=" + value,
			"GORACE=atexit_sleep_ms=0",
			"HEADGATE_CRASH_AT=services.secrets-kept",
		}
		out, err := cmd.CombinedOutput()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("it was not killed: %v %s", err, out)
		}
	}
	tell := func(h *harness, value string) {
		d := h.declared(1, 1, compose)
		d.Secrets = secretsOf("token", value)
		h.Converge(d)
	}
	given := func(h *harness, value string) {
		t.Helper()
		eventually(t, "an instance was given "+value, func() (string, bool) {
			o := h.Observe(h.key())
			if o.State != target.Healthy || len(o.Units[0].Instances) != 1 {
				return fmt.Sprintf("%+v", o), false
			}
			lines, _ := h.InstanceLog(h.key(), o.Units[0].Instances[0].ID, 100)
			return strings.Join(lines, "\n"), strings.Contains(strings.Join(lines, "\n"), summed(value))
		})
	}

	killed("first")
	app := filepath.Join(dir, "apps", "hello", env, "hello")
	if _, err := os.Stat(secretsFile(app)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(app, "declared.json")); !os.IsNotExist(err) {
		t.Errorf("what is declared was written down: %v", err)
	}
	h = openIn(t, dir, logs, func(*Target) {})
	h.seq = 1
	tell(h, "first")
	given(h, "first")
	h.leave()

	// What is declared is the same, and the secret another.
	killed("second")
	h = openIn(t, dir, logs, func(*Target) {})
	h.seq = 1
	h.await(target.Healthy)
	tell(h, "second")
	given(h, "second")
}

// TestRotatedByCanary: another value of a secret reaches a part of the traffic first, where
// that is how one version follows another.
func TestRotatedByCanary(t *testing.T) {
	t.Parallel()
	h := open(t, true)
	compose := strings.Replace(web, "x-headgate: {", "x-headgate: {secrets: {TOKEN: token}, ", 1) +
		"\nx-headgate: {deployment: {strategy: canary, percent: 20, interval: 1h}}\n"
	h.seq = 1
	declare := func(value string) {
		d := h.declared(1, 1, compose)
		d.Secrets = secretsOf("token", value)
		h.Converge(d)
	}
	declare("one")
	before := h.await(target.Healthy)
	declare("two")
	eventually(t, "a fifth of the traffic goes to instances with the other value", func() (string, bool) {
		o := h.Observe(h.key())
		return fmt.Sprintf("%+v", o), len(o.Units) == 1 && o.Units[0].Weight == 20 && o.State == target.Converging
	})
	asked := map[string]int{}
	for range 100 {
		_, body, err := get(before.Units[0].URL + "/env")
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range []string{"one", "two"} {
			if strings.Contains(body, "\nTOKEN="+value+"\n") {
				asked[value]++
			}
		}
	}
	if asked["one"] != 80 || asked["two"] != 20 {
		t.Errorf("of 100 requests went %v", asked)
	}
	for _, pid := range pids(before) {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("process %d, which serves: %v", pid, err)
		}
	}
	h.end()
}
