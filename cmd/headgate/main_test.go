package main

import (
	"flag"
	"io"
	"slices"
	"testing"
)

func TestParseFlagsAnywhere(t *testing.T) {
	for _, c := range []struct {
		args, words []string
		json        bool
		fails       bool
	}{
		{args: nil},
		{args: []string{"--json", "a"}, words: []string{"a"}, json: true},
		{args: []string{"a", "--json", "b"}, words: []string{"a", "b"}, json: true},
		{args: []string{"a", "--", "--json"}, words: []string{"a", "--json"}},
		{args: []string{"--", "a", "--json"}, words: []string{"a", "--json"}},
		{args: []string{"a", "--jason"}, fails: true},
	} {
		flags := flag.NewFlagSet("x", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		json := flags.Bool("json", false, "")
		words, err := parse(flags, c.args)
		if (err != nil) != c.fails || !slices.Equal(words, c.words) || *json != c.json {
			t.Errorf("%q: %q, json %v, %v", c.args, words, *json, err)
		}
	}
}
