package show

import (
	"context"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Events answers for the endpoints that are told what happens. They are for
// administrators: what an endpoint is told may be of any repository.
type Events interface {
	EventEndpoints(ctx context.Context, who access.Identity) ([]EventEndpoint, error)
	EventEndpoint(ctx context.Context, who access.Identity, name string) (EventEndpoint, error)
	// EventDeliveries are the newest events of an endpoint, newest first.
	EventDeliveries(ctx context.Context, who access.Identity, name string) ([]EventDelivery, error)
	// TestEvents delivers an event that says nothing, and waits for the answer.
	TestEvents(ctx context.Context, who access.Identity, name string) (Done, error)
	// ReplayEvents delivers an event again; 0: all that are parked.
	ReplayEvents(ctx context.Context, who access.Identity, name string, delivery int64) (Done, error)
}

// EventEndpoint is an address that is told what happens, and how it is.
type EventEndpoint struct {
	Name         string   `json:"endpoint"`
	URL          string   `json:"url"`
	Repositories []string `json:"repositories,omitempty"` // none: all
	Only         []string `json:"only,omitempty"`         // none: everything
	State        State    `json:"state"`                  // healthy, failed, or unknown before the first delivery
	// Unset is the secret that signs, when nobody has set it.
	Unset         string    `json:"unset_secret,omitempty"`
	LastDelivered time.Time `json:"last_delivered,omitzero"` // since the start of the server
	Pending       int       `json:"pending"`
	Parked        int       `json:"parked"` // given up
	Kept          int       `json:"kept"`
	Skipped       int64     `json:"skipped"` // that there was no room for, since the start
	Failing       string    `json:"failing,omitempty"`
	RetryAt       time.Time `json:"retry_at,omitzero"`
}

// EventDelivery is one event for one endpoint.
type EventDelivery struct {
	Endpoint string    `json:"endpoint"`
	Number   int64     `json:"delivery"`
	ID       string    `json:"id"` // of the event: webhook-id
	Type     string    `json:"type"`
	At       time.Time `json:"at"`
	Outcome  string    `json:"outcome"` // pending, delivered, parked
	Detail   string    `json:"detail,omitempty"`
}
