package main

import (
	"flag"
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
