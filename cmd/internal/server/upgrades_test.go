package server

import (
	"slices"
	"strings"
	"testing"
)

// Agents go on with this program one after the other, each once nothing is deployed there; the
// first that fails is the last, but for those that somebody asks for.
func TestNextUpgrade(t *testing.T) {
	parse := func(text string) (all []upgradable) {
		for word := range strings.FieldsSeq(text) {
			name, is, _ := strings.Cut(word, ":")
			has := func(what string) bool { return slices.Contains(strings.Split(is, ","), what) }
			all = append(all, upgradable{
				name:    name,
				able:    !has("away"),
				current: has("current"),
				busy:    has("busy"),
				failed:  has("failed"),
				asked:   has("asked"),
			})
		}
		return all
	}
	for agents, want := range map[string]string{
		"":                                "",
		"b a c":                           "a",
		"a:current b c:current":           "b",
		"a:away b:busy c":                 "c",
		"a:busy":                          "",
		"a:failed b c":                    "",
		"a:failed,current b":              "b",
		"a:failed b:asked c":              "b",
		"a:failed,asked b":                "a",
		"a b:asked":                       "b",
		"a:away,asked b:busy,asked c":     "c",
		"a:away,failed b":                 "",
		"a:current,asked b:current,asked": "",
	} {
		if got := nextUpgrade(parse(agents)); got != want {
			t.Errorf("of %q it is %q, and not %q", agents, got, want)
		}
	}
}
