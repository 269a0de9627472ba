package terminal

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestUnsafe(t *testing.T) {
	for _, r := range "\x00\t\n\r\x1b\x7f\u0080\u009b\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\U000e0041" {
		if !Unsafe(r) {
			t.Errorf("%U is taken for safe", r)
		}
	}
	for _, r := range " a~žé한\u00a0\u200c\u200d\ufffd👩🏽" {
		if Unsafe(r) {
			t.Errorf("%U is taken for unsafe", r)
		}
	}
}

func TestOneLine(t *testing.T) {
	for _, c := range []struct{ name, in, line, text, message string }{
		{"plain", "fix the pump", "fix the pump", "fix the pump", "fix the pump"},
		{"letters", "žluť 👩‍🔬", "žluť 👩‍🔬", "žluť 👩‍🔬", "žluť 👩‍🔬"},
		{"tab", "a\tb", "a b", "a\tb", "a b"},
		{"escape", "\x1b[31mred", "^[[31mred", "^[[31mred", "[31mred"},
		{"newline", "a\nApproved-by: x", "a^JApproved-by: x", "a^JApproved-by: x", "a Approved-by: x"},
		{"delete", "a\x7fb", "a^?b", "a^?b", "a b"},
		{"c1", "a\u009b31m", "a<U+009B>31m", "a<U+009B>31m", "a 31m"},
		{"direction", "\u202etxt.exe", "<U+202E>txt.exe", "<U+202E>txt.exe", "txt.exe"},
		{"line separator", "a\u2028b", "a<U+2028>b", "a<U+2028>b", "a b"},
		{"not UTF-8", "a\xffb", "a\ufffdb", "a\ufffdb", "a\ufffdb"},
	} {
		if got := Line(c.in); got != c.line {
			t.Errorf("%s: Line: %q, want %q", c.name, got, c.line)
		}
		if got := Text(c.in); got != c.text {
			t.Errorf("%s: Text: %q, want %q", c.name, got, c.text)
		}
		if got := Message(c.in, 100); got != c.message {
			t.Errorf("%s: Message: %q, want %q", c.name, got, c.message)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc…"},
		{"žžžž", 7, "žž…"},
		{"žžžž", 6, "ž…"},
		{"abcdef", 3, ""},
		{"a\xff", 4, "a\ufffd"},
		{"", 0, ""},
	} {
		if got := Cut(c.in, c.max); got != c.want {
			t.Errorf("Cut(%q, %d) is %q, want %q", c.in, c.max, got, c.want)
		}
	}
}

func TestLog(t *testing.T) {
	for _, c := range []struct{ name, in, kept, plain string }{
		{"plain", "plain\ttext", "plain\ttext", "plain\ttext"},
		{"colour", "\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m", "red"},
		{"underline", "\x1b[4:3mu", "\x1b[4:3mu", "u"},
		{"title", "a\x1b]0;title\x07b", "ab", "ab"},
		{"link", "\x1b]8;;http://e.example\x1b\\l\x1b]8;;\x1b\\", "l", "l"},
		{"unended title", "a\x1b]0;title", "a^[]0;title", "a^[]0;title"},
		{"erase screen", "a\x1b[2Jb", "ab", "ab"},
		{"hide cursor", "a\x1b[?25lb", "ab", "ab"},
		{"private colour", "a\x1b[>4mb", "ab", "ab"},
		{"character set", "\x1b(Ba", "a", "a"},
		{"save cursor", "\x1b7a\x1b8", "a", "a"},
		{"unfinished", "a\x1b[31", "a^[[31", "a^[[31"},
		{"alone", "a\x1b", "a^[", "a^["},
		{"long colour", "\x1b[" + strings.Repeat("1", 80) + "m", "^[[" + strings.Repeat("1", 80) + "m",
			"^[[" + strings.Repeat("1", 80) + "m"},
		{"printed again", "10%\r20%\r30%", "30%", "30%"},
		{"erased and printed again", "10%\x1b[2K\x1b[1G20%", "20%", "20%"},
		{"dos", "dos\r", "dos", "dos"},
		{"backspace", "1%\b\b2%", "2%", "2%"},
		{"backspace at the beginning", "\b\ba", "a", "a"},
		{"backspace over two bytes", "é\be", "e", "e"},
		{"backspace keeps a colour", "\x1b[31m\bx", "\x1b[31mx", "x"},
		{"bell", "a\ab", "ab", "ab"},
		{"nul", "nul\x00", "nul^@", "nul^@"},
		{"direction", "\u202etxt.exe", "<U+202E>txt.exe", "<U+202E>txt.exe"},
		{"c1", "c1 \u009b31m", "c1 <U+009B>31m", "c1 <U+009B>31m"},
		{"not UTF-8", "bad \xff byte", "bad \uFFFD byte", "bad \uFFFD byte"},
	} {
		if got := Log(c.in); got != c.kept {
			t.Errorf("%s: Log: %q, want %q", c.name, got, c.kept)
		}
		if got := Plain(c.in); got != c.plain {
			t.Errorf("%s: Plain: %q, want %q", c.name, got, c.plain)
		}
	}
	if got := Coloured("\x1b[31mred"); got != "\x1b[31mred\x1b[0m" {
		t.Errorf("a colour goes on behind its line: %q", got)
	}
}

func TestSpans(t *testing.T) {
	var got []string
	var codes [][]int
	for c, text := range Spans("a\x1b[1m\x1b[31mb\x1b[mc\x1b[38;5;1md\x1b[0m") {
		codes, got = append(codes, c), append(got, text)
	}
	if want := []string{"a", "b", "c", "d", ""}; !slices.Equal(got, want) {
		t.Errorf("texts: %q, want %q", got, want)
	}
	want := [][]int{nil, {1, 31}, {0}, nil, {0}}
	if !slices.EqualFunc(codes, want, slices.Equal) {
		t.Errorf("codes: %v, want %v", codes, want)
	}
}

func TestWriter(t *testing.T) {
	const in = "remote: žluť\rremote: \x1b]0;x\x07 100%, done.\n"
	const want = "remote: žluť\rremote: ^[]0;x^G 100%, done.\n"
	for size := 1; size <= len(in); size++ {
		var out bytes.Buffer
		w := Writer(&out)
		for piece := range slices.Chunk([]byte(in), size) {
			if n, err := w.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("%d bytes were written, %v", n, err)
			}
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q", size, out.String())
		}
	}
}

func TestJSON(t *testing.T) {
	in := struct{ A string }{"\x1b[31m <b> \u202e \u2028 \U000e0041 ž"}
	var out bytes.Buffer
	if err := JSON(&out, in); err != nil {
		t.Fatal(err)
	}
	if want := `{"A":"\u001b[31m <b> \u202e \u2028 \udb40\udc41 ž"}` + "\n"; out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
	back := in
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != in {
		t.Errorf("it reads as %q, %v", back.A, err)
	}
}

func FuzzTerminal(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31mred\x1b[0m\r\n\xff\u202e", "a\x1b]8;;x\x07b\bc\x1b[2Kd",
		"\u009b\u2028\U000e0041\t"} {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, max int) {
		type way struct {
			name  string
			apply func(string) string
			keeps string // unsafe characters that may stay
		}
		for _, w := range []way{
			{"Line", Line, ""},
			{"Text", Text, "\t"},
			{"Message", func(s string) string { return Message(s, max) }, ""},
			{"Log", Log, "\t\x1b"},
			{"Coloured", Coloured, "\t\x1b"},
			{"Plain", Plain, "\t"},
			{"Page", func(s string) string { return string(Page([]byte(s))) }, "\t\r\n"},
		} {
			got := w.apply(s)
			if !utf8.ValidString(got) {
				t.Errorf("%s: %q is not UTF-8", w.name, got)
			}
			for i, r := range got {
				if Unsafe(r) && !strings.ContainsRune(w.keeps, r) {
					t.Errorf("%s: %q holds %U", w.name, got, r)
				}
				if r == 0x1b {
					if _, kind := sequence(got[i:]); kind != colour {
						t.Errorf("%s: %q holds an escape that is no colour", w.name, got)
					}
				}
			}
			if again := w.apply(got); again != got {
				t.Errorf("%s of its own result %q is %q", w.name, got, again)
			}
		}
		if got := Message(s, max); len(got) > 0 && len(got) > max {
			t.Errorf("Message has %d bytes, not %d", len(got), max)
		}
	})
}
