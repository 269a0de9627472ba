package main

import (
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

func TestReferenceTransaction(t *testing.T) {
	const move = "0000000000000000000000000000000000000000 1111111111111111111111111111111111111111 refs/heads/main\n"
	for _, test := range []struct {
		args   []string
		stdin  string
		status int
	}{
		{[]string{"prepared"}, move, 1},
		{[]string{"preparing"}, move, 1},
		{[]string{"prepared"}, "", 0}, // what receive-pack asks after an atomic push
		{[]string{"committed"}, move, 0},
		{[]string{"aborted"}, move, 0},
		{nil, move, 1},
	} {
		var said strings.Builder
		messages := newDropWriter(&said)
		status := run(append([]string{"/hooks/reference-transaction"}, test.args...), nil, strings.NewReader(test.stdin),
			io.Discard, messages)
		messages.drain()
		if status != test.status || (status == 1) != strings.Contains(said.String(), "error: only headgate moves the refs") {
			t.Errorf("%v %q: %d %q", test.args, test.stdin, status, said.String())
		}
	}
}

func TestUnknownHook(t *testing.T) {
	var said strings.Builder
	messages := newDropWriter(&said)
	status := run([]string{"/hooks/update"}, nil, strings.NewReader(""), io.Discard, messages)
	messages.drain()
	if status == 0 || !strings.Contains(said.String(), "update is not a hook of headgate") {
		t.Fatalf("%d %q", status, said.String())
	}
}

func TestOptions(t *testing.T) {
	env := func(options ...string) func(string) string {
		m := map[string]string{"GIT_PUSH_OPTION_COUNT": strconv.Itoa(len(options))}
		for i, o := range options {
			m["GIT_PUSH_OPTION_"+strconv.Itoa(i)] = o
		}
		return func(key string) string { return m[key] }
	}
	if o, over := options(env("a;b=c", "\xff")); over || fmt.Sprintf("%q", o) != `["a;b=c" "�"]` {
		t.Errorf("%q, %v", o, over)
	}
	if o, over := options(env(make([]string, wire.MaxOptions+1)...)); !over || o != nil {
		t.Errorf("%q, %v", o, over)
	}
	if o, over := options(env(strings.Repeat("x", wire.MaxOptionBytes+1))); !over || o != nil {
		t.Errorf("%q, %v", o, over)
	}
	if o, over := options(func(string) string { return "" }); over || o != nil {
		t.Errorf("%q, %v", o, over)
	}
}

// The hook starts several times in a push: it carries nothing it does not need.
func TestImportsAreFew(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}",
		".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	want := "github.com/headgate-cd/headgate/hooks/receive/wire\ngithub.com/headgate-cd/headgate/cmd/headgate-hook"
	if got := strings.TrimSpace(string(out)); got != want {
		t.Fatalf("imports:\n%s", got)
	}
}
