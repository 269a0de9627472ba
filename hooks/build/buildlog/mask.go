package buildlog

import (
	"encoding/base64"
	"net/url"
	"slices"
	"sort"
	"strings"
)

// mask replaces secret values by ***: as they are, and in the encodings in
// which they slip out most often. Values of under four bytes are not masked: a
// log in which every "a" is a star tells the secret too.
type mask struct {
	replacer *strings.Replacer
	forms    []string
	longest  int // bytes of the longest form
}

const minSecret = 4

func newMask(secrets []string) *mask {
	var forms []string
	add := func(s string) {
		if len(s) >= minSecret && !slices.Contains(forms, s) {
			forms = append(forms, s)
		}
	}
	for _, s := range secrets {
		for _, line := range strings.Split(s, "\n") { // output comes in lines
			line = strings.TrimRight(line, "\r")
			add(line)
			if len(line) >= minSecret {
				add(url.QueryEscape(line))
				add(strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(line)), "="))
				add(strings.TrimRight(base64.URLEncoding.EncodeToString([]byte(line)), "="))
			}
		}
	}
	// The longest first, so that a secret within another leaves no rest.
	sort.Slice(forms, func(i, j int) bool { return len(forms[i]) > len(forms[j]) })
	m := &mask{forms: forms}
	var pairs []string
	for _, f := range forms {
		m.longest = max(m.longest, len(f))
		pairs = append(pairs, f, "***")
	}
	if len(pairs) > 0 {
		m.replacer = strings.NewReplacer(pairs...)
	}
	return m
}

func (m *mask) apply(s string) string {
	if m.replacer == nil {
		return s
	}
	return m.replacer.Replace(s)
}

// incomplete is how many bytes at the end of a text may be the beginning of a secret.
func (m *mask) incomplete(text string) int {
	for n := min(m.longest-1, len(text)); n > 0; n-- {
		for _, f := range m.forms {
			if strings.HasPrefix(f, text[len(text)-n:]) {
				return n
			}
		}
	}
	return 0
}
