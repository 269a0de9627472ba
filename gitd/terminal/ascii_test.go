package terminal

import "testing"

func TestASCII(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"build: make test\t1": "build: make test\t1",
		"žluť":                "<U+017E>lu<U+0165>",
		"cut here…":           "cut here...",
		"“it’s” 2 × 3 → 6\u00a0m – ok": `"it's" 2 x 3 -> 6 m - ok`,
		"👩‍🔬":     "<U+1F469><U+200D><U+1F52C>",
		"a\xffb":  "a<U+FFFD>b",
		"\x1b[1m": "\x1b[1m",
	} {
		got := ASCII(in)
		if got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
		if again := ASCII(got); again != got {
			t.Errorf("%q again is %q", got, again)
		}
	}
}
