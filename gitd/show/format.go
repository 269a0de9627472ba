package show

import (
	"fmt"
	"strings"
	"time"
)

// Elapsed writes how long something took, or takes: 0:09, 3:12, 4 h 02 m, 3 d 4 h.
func Elapsed(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%d:%02d", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d m", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// Seconds writes a short span: 0.12 s. Of one that is not known it is "".
func Seconds(d Duration) string {
	switch t := time.Duration(d); {
	case t <= 0:
		return ""
	case t < time.Minute:
		return fmt.Sprintf("%.2f s", t.Seconds())
	default:
		return Elapsed(t)
	}
}

// Clock writes an instant for people who may be anywhere: Tue 24 Nov 12:00 UTC.
func Clock(t time.Time) string { return t.UTC().Format("Mon 2 Jan 15:04 UTC") }

// FullMinute is the first full minute at which an instant is past: what people are told
// who wait for it, in times that have no seconds.
func FullMinute(t time.Time) time.Time {
	if full := t.Truncate(time.Minute); full.Before(t) {
		return full.Add(time.Minute)
	}
	return t
}

// Short is a commit, tree or digest as people write it; what is none of them
// stays as it is.
func Short(id string) string {
	if algorithm, hash, ok := strings.Cut(id, ":"); ok {
		if len(hash) > 12 {
			return algorithm + ":" + hash[:6] + "…" + hash[len(hash)-4:]
		}
		return id
	}
	if len(id) > 7 && strings.Trim(id, "0123456789abcdef") == "" {
		return id[:7]
	}
	return id
}

// Plural writes "1 release", "3 releases", "2 repositories".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok && !strings.HasSuffix(noun, "ay") {
		noun = stem + "ie"
	}
	return Thousands(n) + " " + noun + "s"
}

// Thousands groups digits: 1,061.
func Thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Bytes writes a size for people.
func Bytes(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
