package forge

import (
	"slices"
	"strings"
	"testing"
)

func TestCommandsOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want []command
	}{
		{"/land", []command{{name: "land"}}},
		{"good\r\n/land  \r\n/priority high\r\n", []command{{name: "land"}, {name: "priority", arg: "high"}}},
		{"/ok-to-test " + strings.Repeat("ab", 20), []command{{name: "ok-to-test", arg: strings.Repeat("ab", 20)}}},
		{" /land\n> /land\n\t/land\n/ land\nsay /land", nil},
		{"```\n/land\n```\n/hold", []command{{name: "hold"}}},
		{"````\n```\n/land\n````\n/hold", []command{{name: "hold"}}},
		{"~~~ sh\n/land\n```\n/land\n~~~\n/why", []command{{name: "why"}}},
		{"```\n/land", nil},
		{"/land it now please\n/landed\n/LAND\n/deploy\n/\n//land", nil},
		{strings.Repeat("/why\n", 50), slices.Repeat([]command{{name: "why"}}, maxCommands)},
	} {
		if got := commandsOf(c.text); !slices.Equal(got, c.want) {
			t.Errorf("%q: %v", c.text, got)
		}
	}
}

// FuzzCommands: whatever a comment holds, what is read from it stands in it at the
// beginning of a line, and there is not much of it.
func FuzzCommands(f *testing.F) {
	for _, s := range []string{"/land", "```\n/land\n```", "> /land", "/ok-to-test a\n/priority low", "~~~~\n/hold\n~~~"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list := commandsOf(text)
		if len(list) > maxCommands {
			t.Fatalf("%d commands", len(list))
		}
		for _, c := range list {
			if !strings.HasPrefix(text, "/"+c.name) && !strings.Contains(text, "\n/"+c.name) || !strings.Contains(text, c.arg) {
				t.Fatalf("%q is not in %q", c, text)
			}
		}
	})
}
