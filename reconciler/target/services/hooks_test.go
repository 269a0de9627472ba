package services

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// testHooks holds commands of hooks to have their say: what runs is an instance of the
// release, and one that fails or takes too long has the deployment go back.
func testHooks(t *testing.T, r runsAs, h *harness) {
	with := func(script, more string) string {
		return r.compose("touch /tmp/ready; trap 'exit 0' TERM; while :; do sleep 0.05; done", ready,
			`environment: {DATABASE: "of $HEADGATE_RELEASE"}`) +
			"x-headgate: {deployment: {hooks: [{stage: post-scale-up, command: [/bin/sh, -c, \"" + script + "\"]" + more + "}]}}\n"
	}
	h.converge(1, with("test -e /tmp/ready && echo asked $$DATABASE as $HEADGATE_INSTANCE", ""))
	h.await(target.Healthy)
	h.logged(t, "job-1", "! headgate: hook post-scale-up runs in job-1: /bin/sh -c test -e /tmp/ready",
		"! headgate: hook post-scale-up in job-1 exited 0: asked of 1 as job-1")

	h.converge(2, with("echo one; echo 3 tests failed; exit 4", ""))
	o := h.await(target.Failed)
	if !o.RollBack || !strings.Contains(o.Message, "hook post-scale-up failed: exited 4: 3 tests failed") ||
		!strings.Contains(o.Message, "release 1 goes on serving") {
		t.Errorf("%t %s", o.RollBack, o.Message)
	}

	h.converge(3, with("echo never ends; sleep 1000", ", timeout: 2s"))
	if o := h.await(target.Failed); !o.RollBack || !strings.Contains(o.Message, "hook post-scale-up took longer than 2s") {
		t.Errorf("%t %s", o.RollBack, o.Message)
	}
}
