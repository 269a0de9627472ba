package rollout

import (
	"fmt"
	"strings"
	"testing"
)

// TestHappened: what happened to a service is remembered in its order, each thing once and
// how often, and no more than the bound.
func TestHappened(t *testing.T) {
	o, d, now := &Observed{}, Declared{}, epoch
	declaredCheck, declaredRestart, declaredDeployment = testCheck, Restart{}, Deployment{}
	declaredPercent, declaredNeeds, declaredCron = [2]int{100, 200}, map[string][]Need{}, nil
	do := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			if err := tell(o, &d, &now, line); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				actions, _ := Plan(d, o, now)
				for _, a := range actions {
					o.Did(a, now)
				}
			}
		}
	}
	said := func() string {
		var out strings.Builder
		for _, h := range o.Services["web"].Happened {
			fmt.Fprintf(&out, "%s %s x%d\n", h.At.Format("15:04:05"), h.What, h.Times)
		}
		return out.String()
	}
	do("declare 1 web=v1@127.0.0.1:80", "listened web ! port 80 is taken", "wait 1s", "listened web ! port 80 is taken",
		"listened web 127.0.0.1:80", "ok web-1", "wait 20s", "ok web-1", "declare 2 web=v2@127.0.0.1:80")
	want := `03:04:06 port 80 is taken x2
`
	if got := said(); !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant in it\n%s", got, want)
	}
	for range 3 {
		do("exit web-2 exited 1: no database", "wait 30s", "ok web-1")
	}
	want = `03:04:26 web-2 exited 1: no database x1
03:04:56 web-2 starts again x1
03:04:56 web-2 exited 1: no database x1
03:05:26 web-2 starts again x1
03:05:26 web-2 exited 1: no database x1
03:05:26 release 2 is given up after 3 failures x1
`
	if got := said(); !strings.HasSuffix(got, want) || strings.Count(got, "\n") != maxHappenings {
		t.Errorf("got\n%s\nwant at its end\n%s", got, want)
	}
	if c := o.Clone(); &c.Services["web"].Happened[0] == &o.Services["web"].Happened[0] {
		t.Error("a copy shares what happened")
	}
}
