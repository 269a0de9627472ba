package show

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// LogSearch is what Changes.SearchLogs looks for.
type LogSearch struct {
	Repository string // "" for all that may be read
	Text       string // as it is written, whatever the case
	Lines      int    // as many at most; 0: as many as may be at once
}

// FoundLine is a line of a build's log that has what was looked for.
type FoundLine struct {
	Repository string    `json:"repository"`
	Change     int       `json:"change,omitempty"`   // 0: a scheduled build
	Schedule   string    `json:"schedule,omitempty"` // that started it
	Run        int       `json:"run,omitempty"`      // of the schedule
	Build      string    `json:"build"`              // what BuildLog takes
	Newest     bool      `json:"newest"`             // of the change's builds
	Task       bool      `json:"task,omitempty"`     // of a batch: the log is its own
	BuiltAt    time.Time `json:"built_at"`
	Step       int       `json:"step,omitempty"` // 0: before, between or after them
	Phase      string    `json:"phase,omitempty"`
	Command    string    `json:"command,omitempty"`
	Line       int       `json:"line"`
	At         Duration  `json:"at_ms"` // since the build started
	Text       string    `json:"text"`  // as LogEvent's
	URL        string    `json:"url,omitempty"`
}

// Path is the line's address in the console.
func (l FoundLine) Path() string {
	if l.Schedule != "" {
		return fmt.Sprintf("/%s/schedules/%s/%d/log.txt", l.Repository, url.PathEscape(l.Schedule), l.Run)
	}
	return fmt.Sprintf("/%s/changes/%d?build=%s&line=%d#L%d", l.Repository, l.Change,
		url.QueryEscape(ShortLog(l.Build)), l.Line, l.Line)
}

// shownOfLog is how much of a digest names the log of a build.
const shownOfLog = 12

// ShortLog is the name of a log as people are given it: the first digits of a digest.
func ShortLog(log string) string {
	if digest, ok := strings.CutPrefix(log, "sha256:"); ok && len(digest) > shownOfLog {
		return digest[:shownOfLog]
	}
	return log
}

// IsLog says whether a name that somebody gave, whole or as ShortLog, is that of a log.
func IsLog(log, given string) bool {
	log, given = strings.TrimPrefix(log, "sha256:"), strings.TrimPrefix(given, "sha256:")
	return given != "" && (log == given || len(given) >= shownOfLog && strings.HasPrefix(log, given))
}

// Of names the build that the line is of: "change 12 of hello".
func (l FoundLine) Of() string {
	if l.Schedule != "" {
		return fmt.Sprintf("run %d of %s in %s", l.Run, l.Schedule, l.Repository)
	}
	text := fmt.Sprintf("change %d of %s", l.Change, l.Repository)
	switch {
	case l.Task:
		text += ", a task of its batch"
	case !l.Newest:
		text += ", an earlier build"
	}
	return text
}

// SearchCut is how a search ends that did not look through all there is.
type SearchCut struct {
	Why   string    // "time was up"
	Until time.Time // logs of older builds were not looked through; zero: not known
}

func (e *SearchCut) Error() string {
	if e.Until.IsZero() {
		return e.Why
	}
	return fmt.Sprintf("%s: builds before %s were not looked through", e.Why, e.Until.UTC().Format("2006-01-02 15:04 UTC"))
}
