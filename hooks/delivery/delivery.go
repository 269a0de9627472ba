// Package delivery keeps deliveries on disk until something has come of them:
// webhooks that came in (hooks/forge), and events that are to go out
// (hooks/event).
package delivery

import (
	"errors"
	"time"
)

// ErrFull is why a delivery was not taken: what is waiting to be processed
// has reached its bounds. The sender should come again later.
var ErrFull = errors.New("too many deliveries wait to be processed")

// Delivery is a webhook as it came, its signature proven, or an event that is to
// go out.
type Delivery struct {
	ID     string    `json:"id"`    // its sender's; equal IDs are one delivery
	Event  string    `json:"event"` // its sender's name for it: "push", "Merge Request Hook"
	At     time.Time `json:"at"`
	Secret int       `json:"secret"` // index of the secret that proved what came in, or FromLog
	// SecretName is that secret's name: which index it has changes when secrets are rotated.
	SecretName string `json:"secret_name,omitempty"`
	Body       []byte `json:"-"`
}

// FromLog is the Secret of what did not come by itself: it was read in its sender's log.
const FromLog = -1

// Outcome is what a delivery led to.
type Outcome string

const (
	Pending Outcome = "" // nothing has come of it yet

	// Of what came in.
	Applied Outcome = "applied" // its keys were put on the queue
	Ignored Outcome = "ignored" // nothing in it concerns Headgate; Detail says why
	Failed  Outcome = "failed"  // it could not be read; Detail says why

	// Of what is to go out.
	Delivered Outcome = "delivered"
	Parked    Outcome = "parked" // given up; Detail says why
)

// Entry is what a Log says of a delivery.
type Entry struct {
	Sequence   int64     `json:"sequence"` // from 1, of this Log
	ID         string    `json:"id"`
	Event      string    `json:"event"`
	At         time.Time `json:"at"`
	Secret     int       `json:"secret"`
	SecretName string    `json:"secret_name,omitempty"` // "" as well of what earlier versions have kept
	Size       int       `json:"size"`                  // bytes of the body
	Outcome    Outcome   `json:"outcome"`
	Detail     string    `json:"detail,omitempty"`
	Duplicates int       `json:"duplicates,omitempty"` // how often it came again since the start
}

// Receipt is what Put says of a delivery.
type Receipt struct {
	Sequence  int64
	Duplicate bool // it was there already
}

// Stats are a Log's counts.
type Stats struct {
	Kept    int   `json:"kept"`
	Pending int   `json:"pending"`
	Dropped int64 `json:"dropped"`       // processed ones, since the start
	Damaged int64 `json:"damaged_bytes"` // that could not be read at the start
}
