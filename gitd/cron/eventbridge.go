package cron

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Expressions of Amazon EventBridge, as its rules and ECS's scheduled tasks have them:
// "rate(5 minutes)" and "cron(0 12 * * ? *)" with six fields.

// maxRate is the longest interval of a rate. A year is more than anybody has asked for.
const maxRate = 366 * 24 * time.Hour

// inParentheses cuts name(inside) to inside.
func inParentheses(expression, name string) (inside string, ok bool) {
	inside, ok = strings.CutPrefix(strings.TrimSpace(expression), name+"(")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(inside, ")")
}

// parseRate reads what is between the parentheses of rate(…).
func parseRate(inside string) (time.Duration, error) {
	words := strings.Fields(inside)
	if len(words) != 2 {
		return 0, fmt.Errorf("rate takes a number and a unit, such as rate(5 minutes)")
	}
	n, err := strconv.Atoi(words[0])
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a positive number", words[0])
	}
	unit, plural := strings.CutSuffix(words[1], "s")
	of, ok := map[string]time.Duration{"minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour}[unit]
	switch {
	case !ok:
		return 0, fmt.Errorf("%q is not minutes, hours or days", words[1])
	case plural != (n != 1):
		return 0, fmt.Errorf("rate(1 minute) has no s, rate(2 minutes) has one")
	case n > int(maxRate/of):
		return 0, fmt.Errorf("the longest interval is %d days", maxRate/(24*time.Hour))
	}
	return time.Duration(n) * of, nil
}

// calendar is cron(…) of EventBridge: wall times, as if they were UTC.
type calendar struct {
	minutes, hours, months, years set
	days                          func(day time.Time) bool
}

// set is the numbers that a field names.
type set map[int]bool

// The years that a field may name.
const firstYear, lastYear = 1970, 2199

var (
	monthNames = strings.Fields("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC")
	dayNames   = strings.Fields("SUN MON TUE WED THU FRI SAT")
)

// parseCalendar reads what is between the parentheses of cron(…).
func parseCalendar(inside string) (c calendar, err error) {
	fields := strings.Fields(inside)
	if len(fields) != 6 {
		return c, fmt.Errorf("cron(…) has six fields, not %d: minutes, hours, day of the month, month, day of the week, year",
			len(fields))
	}
	for i, f := range []struct {
		into     *set
		name     string
		min, max int
		names    []string
	}{
		{&c.minutes, "minutes", 0, 59, nil},
		{&c.hours, "hours", 0, 23, nil},
		{nil, "", 0, 0, nil},
		{&c.months, "month", 1, 12, monthNames},
		{nil, "", 0, 0, nil},
		{&c.years, "year", firstYear, lastYear, nil},
	} {
		if f.into == nil {
			continue
		}
		if *f.into, err = parseSet(fields[i], f.min, f.max, f.names); err != nil {
			return c, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	switch ofMonth, ofWeek := fields[2], fields[4]; {
	case (ofMonth == "?") == (ofWeek == "?"):
		return c, fmt.Errorf("one of day of the month and day of the week is ?, and the other says when")
	case ofWeek == "?":
		if c.days, err = daysOfMonth(ofMonth); err != nil {
			err = fmt.Errorf("day of the month: %w", err)
		}
	default:
		if c.days, err = daysOfWeek(ofWeek); err != nil {
			err = fmt.Errorf("day of the week: %w", err)
		}
	}
	return c, err
}

// parseSet reads a list of numbers, ranges and steps.
func parseSet(field string, least, most int, names []string) (set, error) {
	s := set{}
	for item := range strings.SplitSeq(field, ",") {
		span, step, stepped := strings.Cut(item, "/")
		from, to, err := parseSpan(span, stepped, least, most, names)
		if err != nil {
			return nil, err
		}
		by := 1
		if stepped {
			if by, err = strconv.Atoi(step); err != nil || by < 1 || by > most {
				return nil, fmt.Errorf("%q is not a step from 1 to %d", step, most)
			}
		}
		for n := from; n <= to; n += by {
			s[n] = true
		}
	}
	return s, nil
}

// parseSpan reads "*", "7" or "3-7". A step goes on from a single number to the last one.
func parseSpan(span string, stepped bool, least, most int, names []string) (from, to int, err error) {
	if span == "*" {
		return least, most, nil
	}
	first, last, ranged := strings.Cut(span, "-")
	if from, err = parseNumber(first, least, most, names); err != nil {
		return 0, 0, err
	}
	switch {
	case ranged:
		to, err = parseNumber(last, least, most, names)
	case stepped:
		to = most
	default:
		to = from
	}
	if err == nil && to < from {
		err = fmt.Errorf("%q ends before it begins", span)
	}
	return from, to, err
}

func parseNumber(word string, least, most int, names []string) (int, error) {
	for i, name := range names {
		if strings.EqualFold(word, name) {
			return least + i, nil
		}
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not from %d to %d", word, least, most)
	}
	return n, nil
}

// daysOfMonth reads the day of the month: L is its last, 15W the weekday nearest to its 15th.
func daysOfMonth(field string) (func(time.Time) bool, error) {
	var any []func(time.Time) bool
	for item := range strings.SplitSeq(field, ",") {
		near, nearest := strings.CutSuffix(item, "W")
		switch {
		case item == "L":
			any = append(any, func(day time.Time) bool { return day.Day() == daysIn(day) })
		case nearest:
			n, err := parseNumber(near, 1, 31, nil)
			if err != nil {
				return nil, err
			}
			any = append(any, func(day time.Time) bool { return n <= daysIn(day) && day.Day() == weekdayNear(day, n) })
		default:
			s, err := parseSet(item, 1, 31, nil)
			if err != nil {
				return nil, err
			}
			any = append(any, func(day time.Time) bool { return s[day.Day()] })
		}
	}
	return oneOf(any), nil
}

// daysOfWeek reads the day of the week, where 1 is Sunday: 6L is the last Friday of a month,
// 6#3 its third one, and L alone Saturday.
func daysOfWeek(field string) (func(time.Time) bool, error) {
	var any []func(time.Time) bool
	for item := range strings.SplitSeq(field, ",") {
		which, last := strings.CutSuffix(item, "L")
		of, nth, numbered := strings.Cut(item, "#")
		switch {
		case item == "L":
			any = append(any, func(day time.Time) bool { return day.Weekday() == time.Saturday })
		case last:
			w, err := parseNumber(which, 1, 7, dayNames)
			if err != nil {
				return nil, err
			}
			any = append(any, func(day time.Time) bool { return int(day.Weekday())+1 == w && day.Day()+7 > daysIn(day) })
		case numbered:
			w, err := parseNumber(of, 1, 7, dayNames)
			if err != nil {
				return nil, err
			}
			n, err := parseNumber(nth, 1, 5, nil)
			if err != nil {
				return nil, err
			}
			any = append(any, func(day time.Time) bool { return int(day.Weekday())+1 == w && (day.Day()-1)/7+1 == n })
		default:
			s, err := parseSet(item, 1, 7, dayNames)
			if err != nil {
				return nil, err
			}
			any = append(any, func(day time.Time) bool { return s[int(day.Weekday())+1] })
		}
	}
	return oneOf(any), nil
}

func oneOf(any []func(time.Time) bool) func(time.Time) bool {
	return func(day time.Time) bool {
		for _, is := range any {
			if is(day) {
				return true
			}
		}
		return false
	}
}

// daysIn is how many days the month of a day has.
func daysIn(day time.Time) int {
	return time.Date(day.Year(), day.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// weekdayNear is the day from Monday to Friday that is nearest to the n-th of a day's month,
// in the same month.
func weekdayNear(day time.Time, n int) int {
	switch time.Date(day.Year(), day.Month(), n, 0, 0, 0, 0, time.UTC).Weekday() {
	case time.Saturday:
		if n == 1 {
			return n + 2
		}
		return n - 1
	case time.Sunday:
		if n == daysIn(day) {
			return n - 2
		}
		return n + 1
	}
	return n
}

// Next is the first time after t, the zero time when there is none.
func (c calendar) Next(t time.Time) time.Time {
	t = t.Truncate(time.Minute).Add(time.Minute)
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	if day.Year() < firstYear {
		day = time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	for day.Year() <= lastYear {
		switch {
		case !c.years[day.Year()]:
			day = time.Date(day.Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
			continue
		case !c.months[int(day.Month())]:
			day = time.Date(day.Year(), day.Month()+1, 1, 0, 0, 0, 0, time.UTC)
			continue
		case c.days(day):
			if at, ok := c.onDay(day, t); ok {
				return at
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}
}

// onDay is the first time of a day that is not before t.
func (c calendar) onDay(day, t time.Time) (at time.Time, ok bool) {
	for hour := range 24 {
		if !c.hours[hour] {
			continue
		}
		for minute := range 60 {
			at = day.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
			if c.minutes[minute] && !at.Before(t) {
				return at, true
			}
		}
	}
	return time.Time{}, false
}
