package services

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// TestContract holds the target to its contract, with processes in their sandbox.
func TestContract(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Fatal("bubblewrap is not installed: apt-get install bubblewrap")
	}
	compose := func(text string) target.Files { return target.Files{composeFile: []byte(text)} }
	targettest.RunParallel(t, func(t *testing.T) targettest.Subject {
		s := New(t.TempDir(), t.TempDir(), unpackSelf)
		t.Cleanup(func() {
			if err := unpacked.RemoveTree(s.Dir); err != nil {
				t.Error(err)
			}
		})
		return targettest.Subject{
			Target: s,
			Good:   compose(web),
			Broken: compose(strings.Replace(web, "SAYS", "BROKEN: yes, SAYS", 1)),
			Bad: map[string]target.Files{
				"compose.yaml":   {"other.yaml": nil},
				"compose.yaml:1": compose("services:\n"),
				"compose.yaml:3": compose("services:\n  web:\n    comand: ./server\n"),
			},
			Release: func(n int) target.Release {
				return target.Release{Number: n, Commit: "abc", Artifacts: map[string]string{"main": digest(n)}}
			},
		}
	})
}
