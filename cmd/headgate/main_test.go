package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain keeps what builds here leave for the next one away from the user's own. The go
// command's cache stays where it is.
func TestMain(m *testing.M) { os.Exit(apart(m)) }

func apart(m *testing.M) int {
	dir, err := os.MkdirTemp("", "headgate-cache-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if home, err := os.UserCacheDir(); err == nil && os.Getenv("GOCACHE") == "" {
		os.Setenv("GOCACHE", filepath.Join(home, "go-build"))
	}
	os.Setenv("XDG_CACHE_HOME", dir)
	return m.Run()
}

func TestParseFlagsAnywhere(t *testing.T) {
	for _, c := range []struct {
		args, operands []string
		json           bool
		fails          bool
	}{
		{args: nil},
		{args: []string{"--json", "a"}, operands: []string{"a"}, json: true},
		{args: []string{"a", "--json", "b"}, operands: []string{"a", "b"}, json: true},
		{args: []string{"a", "--", "--json"}, operands: []string{"a", "--json"}},
		{args: []string{"--", "a", "--json"}, operands: []string{"a", "--json"}},
		{args: []string{"a", "--jason"}, fails: true},
	} {
		flags := flag.NewFlagSet("x", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		json := flags.Bool("json", false, "")
		operands, err := parse(flags, c.args)
		if (err != nil) != c.fails || !slices.Equal(operands, c.operands) || *json != c.json {
			t.Errorf("%q: %q, json %v, %v", c.args, operands, *json, err)
		}
	}
}

// TestHelpOfHelp: help about help is the overview, and ends.
func TestHelpOfHelp(t *testing.T) {
	for _, args := range [][]string{{"help", "help"}, {"help", "-h"}, {"-h", "-h"}, {"--help", "help", "help"}} {
		if code, said := headgate(t, args...); code != 0 || !strings.Contains(said, "Commands:") {
			t.Errorf("%q: exit %d\n%s", args, code, said)
		}
	}
	if code, said := headgate(t, "--version"); code != 0 || !strings.HasPrefix(said, "headgate ") {
		t.Errorf("exit %d, %q", code, said)
	}
}

// TestHelpPrintsFlagsAsTheyAreWritten: with two dashes, their values named, and no
// line longer than the texts above them.
func TestHelpPrintsFlagsAsTheyAreWritten(t *testing.T) {
	for _, c := range commands() {
		_, said := headgate(t, c.name, "-h")
		for line := range strings.Lines(said) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(strings.TrimLeft(line, " "), "-") && !strings.HasPrefix(strings.TrimLeft(line, " "), "--") {
				t.Errorf("%s -h prints %q", c.name, line)
			}
			if len(line) > 110 {
				t.Errorf("%s -h has a line of %d characters: %q", c.name, len(line), line)
			}
		}
	}
	_, said := headgate(t, "serve", "-h")
	for _, want := range []string{"\n  --data <directory>\n", "(default 127.0.0.1:2222)"} {
		if !strings.Contains(said, want) {
			t.Errorf("serve -h does not say %q:\n%s", want, said)
		}
	}
	if _, said := headgate(t, "check", "--jason"); !strings.Contains(said,
		"error: flag provided but not defined: --jason\n") {
		t.Errorf("said %q", said)
	}
}
