package reconciler

import (
	"time"
)

// Settings is one environment as headgate.yaml declares it.
type Settings struct {
	Name   string
	Target string
	Path   string
	After  string
	Soak   time.Duration

	Approvals int      // how many
	Approvers []string // users and groups whose approval counts; none: all who may write
	Own       bool     // authors may approve their own change
}
