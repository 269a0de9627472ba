package build

import (
	"io"
	"testing"
)

// TestChangedInPlace: what programs say is known that may not change a file of the system.
func TestChangedInPlace(t *testing.T) {
	for said, path := range map[string]string{
		"unable to make backup link of './usr/bin/x' before installing new version: Operation not permitted\n": "/usr/bin/x",
		"chmod: changing permissions of '/usr/bin/x': Operation not permitted\n":                               "/usr/bin/x",
		"script.sh: 4: cannot create /etc/ssl/certs/y: Permission denied\n":                                    "/etc/ssl/certs/y",
		"mv: cannot move '/usr/bin/x' to '/usr/bin/z': Value too large for defined data type\n":                "/usr/bin/x",
		"cat: /codebuild/usr: Permission denied\n":                                                             "",
		"ssh: Permission denied (publickey)\n":                                                                 "",
		"/usr/bin/x: not found\n":                                                                              "",
	} {
		w := &symptoms{out: io.Discard}
		for _, b := range []byte(said) { // however it comes
			_, _ = w.Write([]byte{b})
		}
		if w.change != path {
			t.Errorf("%q: %q, not %q", said, w.change, path)
		}
	}
}
