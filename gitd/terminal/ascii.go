package terminal

import (
	"fmt"
	"strings"
)

// plainer are signs that have an equal in ASCII.
var plainer = strings.NewReplacer(
	"…", "...", "–", "-", "—", "-", "‘", "'", "’", "'", "“", `"`, "”", `"`, "→", "->", "×", "x", "\u00a0", " ",
)

// ASCII is s for whoever can show no more: signs that have an equal are replaced by
// it, letters are spelled by their number, "<U+017E>", so that nothing is lost. What
// is unsafe in ASCII stays.
func ASCII(s string) string {
	beyond := func(r rune) bool { return r > 0x7f }
	if strings.IndexFunc(s, beyond) < 0 {
		return s
	}

	var b strings.Builder
	for _, r := range plainer.Replace(s) { // invalid bytes come as U+FFFD
		if beyond(r) {
			fmt.Fprintf(&b, "<%U>", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
