package host

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/hooks/build"
)

// Who enters a sandbox finds the environment and the directory of the last command,
// and nothing of the machine.
func TestEnter(t *testing.T) {
	s := sandboxOf(t, "cd /tmp; export PWD FOUND=it; export -p >"+build.StateDir+"/env.sh; exit 3")
	n, err := (&Host{}).Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if exit, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/script.sh"},
		&strings.Builder{}); exit != 3 || err != nil {
		t.Fatal(exit, err)
	}
	var out strings.Builder
	in := strings.NewReader("echo found $FOUND in $PWD; cat /etc/shadow; ls -d /codebuild; exit 5\n")
	if err := n.(build.Enterer).Enter(t.Context(), "sh", in, &out, &out); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "found it in /tmp") || !strings.Contains(s, "/codebuild") ||
		strings.Contains(s, "root:") {
		t.Errorf("%s", s)
	}
}
