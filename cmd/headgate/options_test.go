package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPlainHTTP: what people send to the server goes over the network unencrypted
// only when somebody has said so.
func TestPlainHTTP(t *testing.T) {
	for line, want := range map[string]string{
		"--http 127.0.0.1:80":                               "",
		"--http 127.8.0.1:80":                               "",
		"--http [::1]:80":                                   "",
		"--http [::ffff:127.0.0.1]:80":                      "",
		"--http localhost:80":                               "",
		"--http :80":                                        "unencrypted",
		"--http 0.0.0.0:80":                                 "unencrypted",
		"--http [::]:80":                                    "unencrypted",
		"--http 10.0.0.5:80":                                "unencrypted",
		"--http localhost.example.org:80":                   "unencrypted",
		"--http 10.0.0.5:80 --plain-http":                   "",
		"--metrics 9464":                                    "write host:port",
		"--metrics 127.0.0.1:9464":                          "",
		"--http 10.0.0.5:443 --tls-cert c --tls-key k":      "",
		"--http 127.0.0.1:443 --tls-cert c":                 "go together",
		"--http 127.0.0.1:443 --tls-key k":                  "go together",
		"--http 10.0.0.5:443 --tls-key k --plain-http=true": "go together",
	} {
		flags := flag.NewFlagSet("serve", flag.ContinueOnError)
		o := serveFlags(flags)
		if err := flags.Parse(append(strings.Fields(line), "--data", t.TempDir())); err != nil {
			t.Fatal(err)
		}
		err := o.prepare()
		if got := err == nil; got != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// TestDemoAsksForBubblewrapFirst: what a demo cannot do without is told before there is a
// key, or a server to push to.
func TestDemoAsksForBubblewrapFirst(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	data := filepath.Join(t.TempDir(), "data")
	code, said := headgate(t, "demo", "--data", data, "--ssh", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if code == 0 || !strings.Contains(said, "apt-get install bubblewrap") {
		t.Errorf("exit %d:\n%s", code, said)
	}
	if keys, err := os.ReadDir(filepath.Join(data, "keys")); err != nil || len(keys) > 0 {
		t.Errorf("it has made %v, %v", keys, err)
	}
}
