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
}
