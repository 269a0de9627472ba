package cron

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ expression, zone, wrong string }{
		{"0 3 * * *", "", ""},
		{"*/5 9-17 * * MON-FRI", "Europe/Prague", ""},
		{"@daily", "America/New_York", ""},
		{"@every 90m", "", ""},
		{"0 0 29 2 *", "", ""},
		{"0 3 * *", "", "invalid schedule"},
		{"0 3 * * * *", "", "invalid schedule"},
		{"61 * * * *", "", "invalid schedule"},
		{"", "", "invalid schedule"},
		{"@every 10s", "", "shortest interval"},
		{"@every -1h", "", "shortest interval"},
		{"@reboot", "", "invalid schedule"},
		{"0 0 30 2 *", "", "no such day"},
		{"TZ=UTC", "", "give it as zone"}, // robfig/cron v3.0.1 panics on it
		{"CRON_TZ=UTC 0 3 * * *", "", "give it as zone"},
		{"rate(5 minutes)", "", ""},
		{"rate(1 day)", "", ""},
		{"rate(1 minutes)", "", "has no s"},
		{"rate(5 minute)", "", "has no s"},
		{"rate(0 minutes)", "", "not a positive number"},
		{"rate(5 seconds)", "", "not minutes, hours or days"},
		{"rate(9999999999999 days)", "", "longest interval"},
		{"rate(5)", "", "a number and a unit"},
		{"cron(0 12 * * ? *)", "Europe/Prague", ""},
		{"cron(0/15 8-17 ? JAN,jul MON-FRI 2026-2030)", "", ""},
		{"cron(15 10 ? * 6L 2025)", "", ""}, // it was due
		{"cron(0 12 * * ?)", "", "six fields, not 5"},
		{"cron(0 12 * * * *)", "", "one of day of the month and day of the week is ?"},
		{"cron(0 12 ? * ? *)", "", "one of day of the month and day of the week is ?"},
		{"cron(60 12 * * ? *)", "", `minutes: "60" is not from 0 to 59`},
		{"cron(0 12 ? * 0 *)", "", `day of the week: "0" is not from 1 to 7`},
		{"cron(0 12 ? * 2#6 *)", "", `day of the week: "6" is not from 1 to 5`},
		{"cron(0 12 32W * ? *)", "", `day of the month: "32" is not from 1 to 31`},
		{"cron(9-3 12 * * ? *)", "", "ends before it begins"},
		{"cron(0/9223372036854775807 12 * * ? *)", "", "is not a step"},
		{"cron(0 0 30 2 ? *)", "", "no such day"},
		{"at(2026-11-20T13:00:00)", "", "comes once"},
		{"0 3 * * *", "Prague", "unknown time zone"},
		{"0 3 * * *", "Local", "unknown time zone"},
		{"0 3 * * *", "../../etc/passwd", "unknown time zone"},
	} {
		_, err := Parse(tt.expression, tt.zone)
		if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("Parse(%q, %q): %v, want %q", tt.expression, tt.zone, err, tt.wrong)
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, expression, zone, after, want string }{
		{"plain", "0 3 * * *", "", "2026-11-28T03:00:00Z", "2026-11-29T03:00:00Z"},
		{"a second before", "0 3 * * *", "", "2026-11-28T02:59:59Z", "2026-11-28T03:00:00Z"},
		{"in a zone", "0 3 * * *", "Europe/Prague", "2026-11-28T00:00:00Z", "2026-11-28T02:00:00Z"},

		// Prague skips 02:00 to 03:00 on 2026-03-29 (01:00 UTC) and shows it twice on
		// 2026-10-25 (from 00:00 UTC and from 01:00 UTC).
		{"skipped: after the jump", "30 2 * * *", "Europe/Prague", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		{"skipped: the day after as usual", "30 2 * * *", "Europe/Prague", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"},
		{"skipped, every ten minutes: once", "*/10 2 * * *", "Europe/Prague", "2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"},
		{"across the jump", "*/30 * * * *", "Europe/Prague", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"},
		{"behind the jump", "*/30 * * * *", "Europe/Prague", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"},
		{"twice: the first", "30 2 * * *", "Europe/Prague", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"twice: not the second", "30 2 * * *", "Europe/Prague", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"twice: not the second, asked in between", "30 2 * * *", "Europe/Prague", "2026-10-25T01:10:00Z",
			"2026-10-26T01:30:00Z"},
		{"hourly in autumn", "30 * * * *", "Europe/Prague", "2026-10-25T00:30:00Z", "2026-10-25T02:30:00Z"},

		// Lord Howe's clock moves by half an hour: 02:00 to 02:30 is skipped on 2026-10-04.
		{"half an hour skipped", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-03T15:30:00Z"},
		{"half an hour twice", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", "2026-04-04T14:45:00Z"},
		// Samoa had no 2011-12-30 at all.
		{"a day skipped", "0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-30T10:00:00Z"},
		{"a leap day", "0 0 29 2 *", "", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"rate", "rate(90 minutes)", "", "2026-11-28T03:00:00Z", "2026-11-28T04:30:00Z"},

		// Of the manual of EventBridge, with its own words for what they say.
		{"noon every day", "cron(0 12 * * ? *)", "", "2026-11-28T12:00:00Z", "2026-11-29T12:00:00Z"},
		{"10:15 every day", "cron(15 10 * * ? *)", "", "2026-11-28T12:00:00Z", "2026-11-29T10:15:00Z"},
		{"18:00 Monday to Friday", "cron(0 18 ? * MON-FRI *)", "", "2026-11-27T18:00:00Z", "2026-11-30T18:00:00Z"},
		{"08:00 on the first of the month", "cron(0 8 1 * ? *)", "", "2026-11-28T12:00:00Z", "2026-12-01T08:00:00Z"},
		{"every 15 minutes", "cron(0/15 * * * ? *)", "", "2026-11-28T23:45:00Z", "2026-11-29T00:00:00Z"},
		{"every 10 minutes Monday to Friday", "cron(0/10 * ? * MON-FRI *)", "", "2026-11-28T00:00:00Z",
			"2026-11-30T00:00:00Z"},
		{"every 5 minutes from 08:00 to 17:55 Monday to Friday", "cron(0/5 8-17 ? * MON-FRI *)", "",
			"2026-11-27T17:55:00Z", "2026-11-30T08:00:00Z"},
		{"the last Friday, 2026 to 2027", "cron(15 10 ? * 6L 2026-2027)", "", "2026-11-28T00:00:00Z", "2026-12-25T10:15:00Z"},
		{"and never again", "cron(15 10 ? * 6L 2026-2027)", "", "2027-12-31T10:15:00Z", ""},
		{"the third Friday", "cron(0 9 ? * FRI#3 *)", "", "2026-11-20T09:00:00Z", "2026-12-18T09:00:00Z"},
		{"a fifth Friday", "cron(0 9 ? * 6#5 *)", "", "2026-11-01T00:00:00Z", "2027-01-29T09:00:00Z"},
		{"the last day", "cron(0 0 L * ? *)", "", "2028-02-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"the weekday nearest to a Sunday", "cron(0 9 15W * ? *)", "", "2026-11-01T00:00:00Z", "2026-11-16T09:00:00Z"},
		{"the weekday nearest to a Saturday", "cron(0 9 14W * ? *)", "", "2026-11-01T00:00:00Z", "2026-11-13T09:00:00Z"},
		{"not of the month before", "cron(0 9 1W * ? *)", "", "2026-07-31T00:00:00Z", "2026-08-03T09:00:00Z"},
		{"not of the month after", "cron(0 9 31W * ? *)", "", "2026-05-02T00:00:00Z", "2026-05-29T09:00:00Z"},
		{"years away", "cron(0 0 1 1 ? 2100)", "", "2026-11-28T00:00:00Z", "2100-01-01T00:00:00Z"},
		{"in a zone", "cron(30 2 * * ? *)", "Europe/Prague", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},

		{"every", "@every 90m", "", "2026-11-28T03:00:00Z", "2026-11-28T04:30:00Z"},
	} {
		s, err := Parse(tt.expression, tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		want := time.Time{}
		if tt.want != "" {
			want = at(t, tt.want)
		}
		if got := s.Next(at(t, tt.after)); !got.Equal(want) {
			t.Errorf("%s: %q in %q after %s is %s, want %s", tt.name, tt.expression, tt.zone, tt.after,
				got.UTC().Format(time.RFC3339), tt.want)
		}
	}
}

func TestDue(t *testing.T) {
	t.Parallel()
	nightly, err := Parse("0 3 * * *", "")
	if err != nil {
		t.Fatal(err)
	}
	minutely, err := Parse("* * * * *", "")
	if err != nil {
		t.Fatal(err)
	}
	every, err := Parse("@every 1h", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		entries []Entry
		now     string
		runs    string // "name time[ late]", joined by ", "
		next    string // "" for never
	}{
		{"nothing declared", nil, "2026-11-28T03:00:00Z", "", ""},
		{"not yet", []Entry{{"n", nightly, at(t, "2026-11-27T12:00:00Z")}}, "2026-11-28T02:59:59Z", "",
			"2026-11-28T03:00:00Z"},
		{"now", []Entry{{"n", nightly, at(t, "2026-11-27T12:00:00Z")}}, "2026-11-28T03:00:00Z", "n 2026-11-28T03:00:00Z",
			"2026-11-29T03:00:00Z"},
		{"it ran", []Entry{{"n", nightly, at(t, "2026-11-28T03:00:00Z")}}, "2026-11-28T03:00:00Z", "",
			"2026-11-29T03:00:00Z"},
		{"missed once", []Entry{{"n", nightly, at(t, "2026-11-27T03:00:00Z")}}, "2026-11-28T09:12:00Z",
			"n 2026-11-28T03:00:00Z", "2026-11-29T03:00:00Z"},
		{"missed for a month: once", []Entry{{"n", nightly, at(t, "2026-10-27T03:00:00Z")}}, "2026-11-28T09:12:00Z",
			"n 2026-11-28T03:00:00Z late", "2026-11-29T03:00:00Z"},
		{"missed for years: once", []Entry{{"m", minutely, at(t, "2016-10-27T03:00:00Z")}}, "2026-11-28T09:12:30Z",
			"m 2026-11-28T09:12:00Z late", "2026-11-28T09:13:00Z"},
		{"an interval", []Entry{{"e", every, at(t, "2026-11-28T03:10:00Z")}}, "2026-11-28T06:20:00Z",
			"e 2026-11-28T06:10:00Z late", "2026-11-28T07:20:00Z"},
		{"the clock was set back", []Entry{{"n", nightly, at(t, "2026-11-28T03:00:00Z")}}, "2026-11-26T12:00:00Z", "",
			"2026-11-29T03:00:00Z"},
		{
			"in order of time",
			[]Entry{{"n", nightly, at(t, "2026-11-27T12:00:00Z")}, {"m", minutely, at(t, "2026-11-28T04:00:00Z")},
				{"a", nightly, at(t, "2026-11-27T12:00:00Z")}},
			"2026-11-28T04:01:00Z",
			"a 2026-11-28T03:00:00Z, n 2026-11-28T03:00:00Z, m 2026-11-28T04:01:00Z",
			"2026-11-28T04:02:00Z",
		},
	} {
		runs, next := Due(tt.entries, at(t, tt.now))
		var said []string
		for _, r := range runs {
			line := r.Name + " " + r.At.UTC().Format(time.RFC3339)
			if r.Late {
				line += " late"
			}
			said = append(said, line)
		}
		if got := strings.Join(said, ", "); got != tt.runs {
			t.Errorf("%s: runs %q, want %q", tt.name, got, tt.runs)
		}
		want := time.Time{}
		if tt.next != "" {
			want = at(t, tt.next)
		}
		if !next.Equal(want) {
			t.Errorf("%s: next %s, want %s", tt.name, next, tt.next)
		}
	}
}

// A wheel that looks at random moments runs each schedule at most once for each
// of its times, never late by more than a look, and the same times as one that
// looks all the time whenever it looks often enough.
// TestAhead: after a small correction of the clock no time comes twice; after a large one
// none is waited for that is years away.
func TestAhead(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-11-28T12:00:00Z")
	for since, want := range map[string]bool{
		"2026-11-28T03:00:00Z": false,
		"2026-11-28T13:00:00Z": false,
		"2026-11-28T13:00:01Z": true,
		"2036-11-28T12:00:00Z": true,
	} {
		if got := Ahead(at(t, since), now); got != want {
			t.Errorf("%s: %t", since, got)
		}
	}
}

func TestDueProperties(t *testing.T) {
	t.Parallel()
	zones := []string{"", "Europe/Prague", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"}
	expressions := []string{"30 2 * * *", "*/20 * * * *", "0 0 * * 0", "15 1-3 * * *", "@hourly", "@every 45m",
		"rate(3 hours)", "cron(0/20 1-3 ? * MON-FRI *)", "cron(30 2 L * ? *)"}
	rapid.Check(t, func(t *rapid.T) {
		spec, err := Parse(rapid.SampledFrom(expressions).Draw(t, "expression"), rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 31).Draw(t, "day"), 0,
			0, 0, 0, time.UTC)
		now, since := start, start
		var ran []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "minutes")) * time.Minute)
			runs, next := Due([]Entry{{"x", spec, since}}, now)
			if !next.After(now) {
				t.Fatalf("look again at %s, which is not after %s", next, now)
			}
			for _, r := range runs {
				if !r.At.After(since) || r.At.After(now) {
					t.Fatalf("due for %s at %s, since %s", r.At, now, since)
				}
				if later := spec.Next(r.At); !later.After(now) {
					t.Fatalf("due for %s although %s is the latest", r.At, later)
				}
				ran = append(ran, r.At)
				since = r.At
			}
			if again, _ := Due([]Entry{{"x", spec, since}}, now); len(again) > 0 {
				t.Fatalf("due again at once: %v", again)
			}
		}
		for i := 1; i < len(ran); i++ {
			if !ran[i].After(ran[i-1]) {
				t.Fatalf("ran for %s, then for %s", ran[i-1], ran[i])
			}
		}
	})
}

// TestEventBridgeIsCron: what can be said in both ways is due at the same times.
func TestEventBridgeIsCron(t *testing.T) {
	t.Parallel()
	for five, six := range map[string]string{
		"*/5 * * * *":          "cron(*/5 * * * ? *)",
		"7-50/9 3,4 * * *":     "cron(7-50/9 3,4 * * ? *)",
		"0 0 29 2 *":           "cron(0 0 29 2 ? *)",
		"30 2 * JUN-AUG 1-5":   "cron(30 2 ? JUN-AUG 2-6 *)",
		"0 12 1,15 * *":        "cron(0 12 1,15 * ? *)",
		"59 23 31 * *":         "cron(59 23 31 * ? *)",
		"0 6-22/4 * 1/3 SUN,3": "cron(0 6-22/4 ? 1/3 SUN,4 *)",
	} {
		for _, zone := range []string{"", "Europe/Prague", "Australia/Lord_Howe"} {
			a, err := Parse(five, zone)
			if err != nil {
				t.Fatal(err)
			}
			b, err := Parse(six, zone)
			if err != nil {
				t.Fatal(err)
			}
			for x, n := at(t, "2026-01-01T00:00:00Z"), 0; n < 300; n++ {
				next := a.Next(x)
				if other := b.Next(x); !next.Equal(other) {
					t.Fatalf("after %s %q is due at %s, and %q at %s", x, five, next, six, other)
				}
				if x = next; x.IsZero() || x.Year() > 2030 {
					break
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0 3 * * *", "Europe/Prague")
	f.Add("TZ=", "")
	f.Add("@every 1h", "")
	f.Add("rate(5 minutes)", "")
	f.Add("cron(0/5 8-17 ? * MON-FRI 2026-2027)", "Europe/Prague")
	f.Add("cron(0 9 15W,L * ? *)", "")
	f.Fuzz(func(t *testing.T, expression, zone string) {
		s, err := Parse(expression, zone)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 29, 0, 30, 0, 0, time.UTC)
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Errorf("%q in %q: %s is not after %s", expression, zone, next, now)
		}
	})
}
