package enginetest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"golang.org/x/crypto/bcrypt"
)

// Registry runs Docker's registry for one user, with Image as each of the names in it, which
// the engine does not have under them. It says where it is.
func (d *Daemon) Registry(t testing.TB, user, password string, names ...string) (host string) {
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
	for late := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusUnauthorized {
				break
			}
		}
		if time.Now().After(late) {
			t.Fatalf("the registry does not answer: %v", err)
		}
	}

	auth, err := json.Marshal(registry.AuthConfig{Username: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		ref := host + "/" + name
		if _, err := d.API.ImageTag(t.Context(), client.ImageTagOptions{Source: Image, Target: ref}); err != nil {
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
	}
	return host
}
