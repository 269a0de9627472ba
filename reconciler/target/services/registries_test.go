package services

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// testPrivateRegistry: an image comes from a registry that wants a login, which is a
// secret. Without the right one the state says so, and with it there is another try.
func testPrivateRegistry(t *testing.T, d *enginetest.Daemon, h *harness) {
	host := d.Registry(t, "ada", "down the rabbit hole", "team/web:1")
	ref := host + "/team/web:1"

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
