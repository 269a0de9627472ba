package terminal

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"sort"
	"strings"
)

// Mask replaces secret values by ***: as they are, and in the encodings in
// which they slip out most often. Values of under four bytes are not masked: a
// log in which every "a" is a star tells the secret too.
type Mask struct {
	values   []string
	replacer *strings.Replacer
	forms    []string
	longest  int // bytes of the longest form
}

const minSecret = 4

// NewMask makes one of values.
func NewMask(values []string) *Mask {
	var forms []string
	add := func(more ...string) {
		for _, s := range more {
			if len(s) >= minSecret && !slices.Contains(forms, s) {
				forms = append(forms, s)
			}
		}
	}
	for _, s := range values {
		for _, line := range strings.Split(s, "\n") { // output comes in lines
			line = strings.TrimRight(line, "\r")
			add(line)
			if len(line) >= minSecret {
				add(url.QueryEscape(line))
				add(url.PathEscape(line))
				add(hex.EncodeToString([]byte(line)))
				add(strings.ToUpper(hex.EncodeToString([]byte(line))))
				add(within(base64.StdEncoding, line)...)
				add(within(base64.URLEncoding, line)...)
			}
		}
	}
	// The longest first, so that a secret within another leaves no rest.
	sort.Slice(forms, func(i, j int) bool { return len(forms[i]) > len(forms[j]) })
	m := &Mask{values: values, forms: forms}
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

// within are the characters of an encoding that are a secret's alone, wherever in a
// longer text it stands: each holds six bits, so that there are three ways.
func within(enc *base64.Encoding, secret string) (forms []string) {
	for before := range 3 {
		text := enc.WithPadding(base64.NoPadding).EncodeToString(append(make([]byte, before), secret...))
		first := (8*before + 5) / 6
		last := 8 * (before + len(secret)) / 6
		forms = append(forms, text[first:last])
	}
	// As it is when nothing follows.
	return append(forms, enc.WithPadding(base64.NoPadding).EncodeToString([]byte(secret)))
}

// Values are what is masked.
func (m *Mask) Values() []string { return m.values }

// Longest is how many bytes the longest text has that is masked.
func (m *Mask) Longest() int { return m.longest }

// Apply masks a text. A nil Mask masks nothing.
func (m *Mask) Apply(s string) string {
	if m == nil || m.replacer == nil {
		return s
	}
	return m.replacer.Replace(s)
}

// Incomplete is how many bytes at the end of a text may be the beginning of a secret.
func (m *Mask) Incomplete(text string) int {
	for n := min(m.longest-1, len(text)); n > 0; n-- {
		for _, f := range m.forms {
			if strings.HasPrefix(f, text[len(text)-n:]) {
				return n
			}
		}
	}
	return 0
}
