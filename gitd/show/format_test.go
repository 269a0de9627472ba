package show

import (
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                         "0:00",
		0:                                    "0:00",
		9*time.Second + 900*time.Millisecond: "0:09",
		3*time.Minute + 12*time.Second:       "3:12",
		59*time.Minute + 59*time.Second:      "59:59",
		4*time.Hour + 2*time.Minute:          "4 h 02 m",
		76 * time.Hour:                       "3 d 4 h",
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for id, want := range map[string]string{
		"": "", "9f1c2ab": "9f1c2ab", "9f1c2abffff": "9f1c2ab", "not-a-hash": "not-a-hash",
		"sha256:0123456789abcdef0123": "sha256:012345…0123", "sha256:0123": "sha256:0123",
	} {
		if got := Short(id); got != want {
			t.Errorf("%q is %q, want %q", id, got, want)
		}
	}
	for want, got := range map[string]string{
		"1 release":      Plural(1, "release"),
		"0 releases":     Plural(0, "release"),
		"2 repositories": Plural(2, "repository"),
		"3 days":         Plural(3, "day"),
		"1,061 changes":  Plural(1061, "change"),
		"-1,234,567":     Thousands(-1234567),
		"-123":           Thousands(-123),
		"1,000":          Thousands(1000),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
