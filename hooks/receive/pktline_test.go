package receive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

var (
	one = strings.Repeat("1", 40)
	two = strings.Repeat("2", 40)
)

func pkts(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		if l == "" {
			b.WriteString(flushPacket)
			continue
		}
		fmt.Fprintf(&b, "%04x%s", len(l)+4, l)
	}
	return b.String()
}

func TestReadAsked(t *testing.T) {
	main := one + " " + two + " refs/heads/main"
	for _, test := range []struct {
		name, in, answer, err string
		atomic                bool
		commands              int
		options               string
	}{
		{name: "as git sends it", in: pkts("version=1\x00atomic push-options\n", "", main, "", "a=b c", "", ""),
			answer: pkts("version=1\x00push-options\n", ""), atomic: true, commands: 1, options: "[a=b c]"},
		{name: "no options", in: pkts("version=1\n", "", main, main, ""), answer: pkts("version=1\n", ""), commands: 2,
			options: "[]"},
		{name: "another version", in: pkts("version=2\n", "", main, ""), err: "not version=1"},
		{name: "no version", in: pkts(""), err: "not version=1"},
		{name: "no flush", in: pkts("version=1", main), err: "no flush"},
		{name: "cut short", in: pkts("version=1", "", main), answer: pkts("version=1\n", ""), err: "EOF"},
		{name: "cut inside", in: pkts("version=1", "") + "0044" + one, answer: pkts("version=1\n", ""),
			err: "unexpected EOF"},
		{name: "bad length", in: "00zz", err: "length"},
		{name: "signed length", in: "+004", err: "length"},
		{name: "reserved length", in: "0001", err: "length 1"},
		{name: "too long", in: "ffff" + strings.Repeat("x", 70000), err: "length 65535"},
		{name: "bad command", in: pkts("version=1", "", "refs/heads/main", ""),
			answer: pkts("version=1\n", ""), err: "words"},
		{name: "too many options", in: pkts(append([]string{"version=1\x00push-options", "", main, ""},
			strings.Split(strings.Repeat("o,", wire.MaxOptions)+"o", ",")...)...) + flushPacket,
			answer: pkts("version=1\x00push-options\n", ""), err: "at most 32 push options"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var answer bytes.Buffer
			a, err := readRequest(strings.NewReader(test.in), func(p []byte) error { answer.Write(p); return nil })
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("%v", err)
				}
			} else if err != nil || len(a.commands) != test.commands || fmt.Sprint(
				a.options) != test.options || a.atomic != test.atomic {
				t.Fatalf("%+v, %v", a, err)
			}
			if answer.String() != test.answer {
				t.Fatalf("%q", answer.String())
			}
		})
	}
}

func TestReport(t *testing.T) {
	h1, _ := repo.ParseHash(one)
	got := string(report([]result{
		accepted("refs/heads/a"),
		refused("refs/heads/b", "no\nok refs/heads/b"),
		{ref: "refs/heads/c", as: "refs/landed/c", old: h1, new: h1},
	}, (&hook{}).shown))
	want := pkts("ok refs/heads/a", "ng refs/heads/b no^Jok refs/heads/b", "ok refs/heads/c",
		"option refname refs/landed/c", "option old-oid "+one, "option new-oid "+one, "")
	if got != want {
		t.Fatalf("%q\n%q", got, want)
	}
}

func FuzzReadAsked(f *testing.F) {
	f.Add([]byte(pkts("version=1\x00atomic push-options\n", "", one+" "+two+" refs/heads/main", "", "a", "")))
	f.Add([]byte("0000"))
	f.Add([]byte("000eversion=1\n0000"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := readRequest(bytes.NewReader(in), func([]byte) error { return nil })
		if err != nil {
			return
		}
		if len(a.commands) > maxCommands || len(a.options) > wire.MaxOptions {
			t.Fatalf("%d commands, %d options", len(a.commands), len(a.options))
		}
		for _, c := range a.commands {
			if strings.ContainsAny(c.ref, "\n\x00") || c.ref == "" {
				t.Fatalf("%q", c.ref)
			}
		}
	})
}

func FuzzParseCommands(f *testing.F) {
	f.Add([]byte(one + " " + two + " refs/heads/main\n"))
	f.Add([]byte(one + " " + two + " refs/heads/a b\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		commands, err := parseCommands(in)
		if err != nil {
			return
		}
		var back strings.Builder
		for _, c := range commands {
			fmt.Fprintf(&back, "%s %s %s\n", c.old, c.new, c.ref)
			if rejection := checkName(c.ref); rejection == nil && strings.ContainsAny(c.ref, " \t\\~^:?*[;$`'\"(){}<>|&!@") {
				t.Fatalf("%q may be pushed", c.ref)
			}
		}
		if back.String() != string(in) {
			t.Fatalf("%q became %q", in, back.String())
		}
	})
}

func FuzzFrames(f *testing.F) {
	var b bytes.Buffer
	_ = wire.WriteHeader(&b, wire.Header{Hook: "pre-receive", Token: "x", Options: []string{"a"}})
	f.Add(b.Bytes())
	f.Add([]byte("i\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := wire.ReadHeader(r)
		if err == nil && len(h.Options) > wire.MaxOptions {
			t.Fatal(len(h.Options))
		}
		for {
			_, content, err := wire.Read(r)
			if err != nil {
				return
			}
			if len(content) > wire.MaxFrame {
				t.Fatal(len(content))
			}
		}
	})
}

func TestNames(t *testing.T) {
	for ref, ok := range map[string]bool{
		"refs/heads/main": true, "refs/heads/feature/x-1.2_3": true, "refs/tags/v1.0": true, "refs/for/main": true,
		"refs/heads/env/staging": true,
		"refs/heads/a.lock":      false, "refs/heads/a.lock/b": false, "refs/heads/a..b": false, "refs/heads/a/": false,
		"refs/heads/a//b": false,
		"refs/heads/.a":   false, "refs/heads/a/.b": false, "refs/heads/a.": false, "refs/heads/": false,
		"refs/heads": false, "HEAD": false,
		"refs/heads/@{u}": false, "refs/heads/env": false, "refs/heads/promote": false, "refs/heads/promote/x": false,
		"refs/heads/emoji\U0001f600": true, "refs/for/emoji\U0001f600": false, "refs/heads/a b": false,
		"refs/heads/a\x07": false, "refs/heads/\xff": false,
		"refs/changes/1/head": false, "refs/stash": false, "refs/landed/main": false, "refs/heads/HEAD": false,
		"refs/for/env/staging": false, "refs/for/promote/staging": false, "refs/for/env": false, "refs/for/environment": true,
		"refs/heads/" + strings.Repeat("x", 300): false,
	} {
		if rejection := checkName(ref); (rejection == nil) != ok {
			t.Errorf("%s: %v", ref, rejection)
		}
	}
}

func TestReadPacketEndsCleanly(t *testing.T) {
	if _, _, err := readPacket(strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}
