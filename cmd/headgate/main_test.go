package main

import (
	"flag"
	"io"
	"slices"
	"testing"
)

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
