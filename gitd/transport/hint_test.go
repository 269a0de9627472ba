package transport

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func packets(contents ...string) (all string) {
	for _, c := range contents {
		all += fmt.Sprintf("%04x%s", len(c)+4, c)
	}
	return all
}

// TestHinter: however what git says is cut into writes, all of it passes, and a hint
// stands where people read it.
func TestHinter(t *testing.T) {
	const refused = "\x02fatal: pack exceeds maximum allowed size (512.00 MiB)\n"
	report := "\x01" + packets("unpack ok\n", "ng refs/heads/main shallow update not allowed\n") + "0000"
	head := packets(strings.Repeat("1", 40)+" refs/heads/main\x00report-status side-band-64k\n") + "0000"
	cases := map[string]struct{ said, want string }{
		"nothing": {"", ""},
		"nothing of it": {
			head + packets("\x02Resolving deltas\r", "\x01000eunpack ok\n0000") + "0000",
			head + packets("\x02Resolving deltas\r", "\x01000eunpack ok\n0000") + "0000",
		},
		"said twice, one hint": {
			head + packets(refused, refused) + "0000",
			head + packets(refused) + sideband(gitRefusals[0].hint) + packets(refused) + "0000",
		},
		"cut by git": {
			packets("\x02fatal: pack exceeds maxi", "\x02mum allowed size\n"),
			packets("\x02fatal: pack exceeds maxi", "\x02mum allowed size\n") + sideband(gitRefusals[0].hint),
		},
		"in the report": {head + packets(report) + "0000",
			head + sideband(gitRefusals[1].hint) + packets(report) + "0000"},
		"no packets":           {"fatal: no git here, Out of memory", "fatal: no git here, Out of memory"},
		"a ref of such a name": {packets("1 refs/heads/Out of memory"), packets("1 refs/heads/Out of memory")},
	}
	for name, c := range cases {
		for _, step := range []int{1, 3, 1000} {
			var got bytes.Buffer
			h := &hinter{to: &got}
			for rest := []byte(c.said); len(rest) > 0; {
				n := min(step, len(rest))
				if _, err := h.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if got.String() != c.want {
				t.Errorf("%s, %d at once:\n%q, want\n%q", name, step, got.String(), c.want)
			}
		}
	}
}
