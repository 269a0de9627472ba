package show

import (
	"context"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Schedules answers for builds that time starts.
type Schedules interface {
	// Schedules lists them in the order of headgate.yaml, without their Runs.
	Schedules(ctx context.Context, who access.Identity, repository string) ([]Schedule, error)
	Schedule(ctx context.Context, who access.Identity, repository, name string) (Schedule, error)
	// ScheduleLog yields the log of a run, the newest for 0; with follow it ends when
	// the run has.
	ScheduleLog(ctx context.Context, who access.Identity, repository, name string, run int,
		follow bool) iter.Seq2[LogEvent, error]
}

// Schedule is one schedule.
type Schedule struct {
	Repository string    `json:"repository"`
	Name       string    `json:"schedule"`
	Cron       string    `json:"cron"`
	Zone       string    `json:"zone,omitempty"` // empty: UTC
	Branch     string    `json:"on"`
	Buildspec  string    `json:"buildspec"`
	Notify     string    `json:"notify,omitempty"` // user or group that is told of failures
	State      State     `json:"state"`            // queued, running; green, failed, withdrawn as the last run; empty
	Next       time.Time `json:"next,omitzero"`
	Running    *Run      `json:"running,omitempty"` // or queued
	Last       *Run      `json:"last,omitempty"`    // that ended
	Runs       []Run     `json:"runs,omitempty"`    // newest first; its own page only
	NotifyYou  bool      `json:"notify_you,omitempty"`
	MayRun     bool      `json:"may_run,omitempty"`
}

// Run is one scheduled build. It is no verdict on its tree.
type Run struct {
	Number int       `json:"run"`            // from 1
	At     time.Time `json:"at"`             // for which it was due, or asked for
	Late   bool      `json:"late,omitempty"` // earlier times were missed, and came together in this run
	By     string    `json:"by,omitempty"`   // who asked for it; empty for the schedule
	Commit string    `json:"commit,omitempty"`
	Build
}
