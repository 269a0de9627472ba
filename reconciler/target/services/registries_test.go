package services

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"golang.org/x/crypto/bcrypt"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// startRegistry runs Docker's registry for one user, and says where.
func startRegistry(t *testing.T, user, password string) (host string) {
	t.Helper()
	host = "127.0.0.1:5000" // of the test's own network, and none that is given to who asks for any
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: %s}
auth: {htpasswd: {realm: test, path: %s}}
`, filepath.Join(dir, "registry"), host, filepath.Join(dir, "users"))
	for name, text := range map[string]string{"users": user + ":" + string(hash) + "\n", "config.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // how is of no account
	})
	eventually(t, "the registry answers", func() (string, bool) {
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return err.Error(), false
		}
		resp.Body.Close()
		return resp.Status, resp.StatusCode == http.StatusUnauthorized
	})
	return host
}

// testPrivateRegistry: an image comes from a registry that wants a login, which is a
// secret. Without the right one the state says so, and with it there is another try.
func testPrivateRegistry(t *testing.T, d *enginetest.Daemon, h *harness) {
	host := startRegistry(t, "ada", "down the rabbit hole")
	ref := host + "/team/web:1"
	auth, err := json.Marshal(registry.AuthConfig{Username: "ada", Password: "down the rabbit hole"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.API.ImageTag(t.Context(), client.ImageTagOptions{Source: enginetest.Image, Target: ref}); err != nil {
		t.Fatal(err)
	}
	pushed, err := d.API.ImagePush(t.Context(), ref,
		client.ImagePushOptions{RegistryAuth: base64.URLEncoding.EncodeToString(auth)})
	if err != nil {
		t.Fatal(err)
	}
	if err := pushed.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.API.ImageRemove(t.Context(), ref, client.ImageRemoveOptions{}); err != nil {
		t.Fatal(err)
	}

	private := strings.Replace(page, "headgate.test/busybox:1", ref, 1) +
		"x-headgate: {registries: {'" + host + "': registry/team}, deployment: {breaker: {count: 1}}}\n"
	declare := func(s target.Secrets) {
		declared := h.declared(1, 1, private)
		declared.Secrets = s
		h.Converge(declared)
	}
	h.seq = 1
	declare(nil)
	if o := h.await(target.Failed); o.Reason != target.ReasonSecretMissing ||
		!strings.Contains(o.Message, "secret set hello:registry/team") {
		t.Errorf("without a login: %s %s", o.Reason, o.Message)
	}
	for _, c := range []struct {
		value string
		want  target.Reason
	}{
		{"only-a-password", target.ReasonSecretInvalid},
		{"ada:curiouser", target.Reason(engine.ReasonImageDenied)},
	} {
		declare(secretsOf("registry/team", c.value))
		eventually(t, "it says what is wrong with the login", func() (string, bool) {
			o := h.Observe(h.key())
			return fmt.Sprintf("%s: %s %s", o.State, o.Reason, o.Message), o.State == target.Failed && o.Reason == c.want
		})
	}
	declare(secretsOf("registry/team", `{"username": "ada", "password": "down the rabbit hole"}`))
	before := h.await(target.Healthy)
	h.get("/", "release 1 of web-")

	// Another login replaces nothing: instances are not made of it.
	other := secretsOf("registry/team", "ada:down the rabbit hole")
	declare(other)
	eventually(t, "another login is taken", func() (string, bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		now := h.apps[h.key()].grants.Load().current["registry/team"]
		return now, now == other["registry/team"].Revision
	})
	if after := h.await(target.Healthy); fmt.Sprint(instances(after)) != fmt.Sprint(instances(before)) {
		t.Errorf("another login replaced %v by %v", instances(before), instances(after))
	}
}
