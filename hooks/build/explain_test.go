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

// TestLoneUser: what programs say is known that find no other user than root.
func TestLoneUser(t *testing.T) {
	for said, lone := range map[string]bool{
		"chown: changing ownership of 'f': Invalid argument\n":                      true,
		"chgrp: changing group of 'f': Invalid argument\n":                          true,
		"tar: f: Cannot change ownership to uid 1000, gid 1000: Invalid argument\n": true,
		"install: cannot change ownership of 'g': Invalid argument\n":               true,
		"cp: failed to preserve ownership for '/tmp/h': Invalid argument\n":         true,
		"su: cannot set groups: Operation not permitted\n":                          true,
		"setpriv: setresuid failed: Invalid argument\n":                             true,
		"Error: EINVAL: invalid argument, chown 'out'\n":                            false, // it says too little
		"chown: invalid user: 'shop'\n":                                             false,
		"sort: invalid argument 'x' for '--sort'\n":                                 false,
		"chown is run\nmkdir: cannot create directory 'x': Permission denied\n":     false,
		"head: invalid number of bytes: 'x': Invalid argument\n":                    false,
	} {
		w := &symptoms{out: io.Discard}
		for _, b := range []byte(said) {
			_, _ = w.Write([]byte{b})
		}
		if w.users != lone {
			t.Errorf("%q: %t", said, w.users)
		}
	}
}
