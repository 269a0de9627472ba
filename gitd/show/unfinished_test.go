package show

import (
	"strings"
	"testing"
)

func TestUnfinished(t *testing.T) {
	var u Unfinished
	var b strings.Builder
	for _, e := range []LogEvent{
		{Kind: LogOut, Text: "a"},
		{Kind: LogPart, Text: "sure? "},
		{Kind: LogPart, Text: "sure? y"},
		{Kind: LogOut, Text: "sure? yes"},
		{Kind: LogPart, Text: "10%"},
		{Kind: LogPart, Text: "20%"},
		{Kind: LogOut, Text: "done"},
		{Kind: LogPart, Text: "whole"},
		{Kind: LogOut, Text: "whole"},
		{Kind: LogPart, Text: "cut"},
		{Kind: LogNote, Text: "stopped"},
		{Kind: LogOut, Text: "b"},
	} {
		done, err := u.Write(&b, e, "| ", func(s string) string { return s })
		if err != nil {
			t.Fatal(err)
		}
		if !done {
			b.WriteString("| " + e.Text + "\n")
		}
	}
	const want = "| a\n| sure? yes\n| 10%\n| 20%\n| done\n| whole\n| cut\n| stopped\n| b\n"
	if b.String() != want {
		t.Errorf("%q", b.String())
	}
}
