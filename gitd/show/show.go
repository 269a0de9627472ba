// Package show holds the facts that Headgate shows, to a terminal and to a
// browser alike: repositories, changes, environments, promotions. Each struct
// is also the JSON of its page and of its command's --json: snake_case words
// of the design, RFC 3339 UTC times, keys only ever added.
//
// Backend is whom SSH commands and the console ask for them, made of one
// interface a noun. What answers is cmd/internal/server; this package decides
// nothing and remembers nothing.
package show

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/access"
)

// State is the state of anything that has one; people read it as it is.
type State string

const (
	Queued     State = "queued"
	Running    State = "running"
	Green      State = "green"
	Healthy    State = "healthy"
	Landed     State = "landed"
	Refused    State = "refused"
	Failed     State = "failed"
	Conflict   State = "conflict"
	Withdrawn  State = "withdrawn"
	Skipped    State = "skipped" // a test
	NotGated   State = "not-gated"
	Waits      State = "waits"
	Open       State = "open"
	Drift      State = "drift"
	Hold       State = "hold"
	Unknown    State = "unknown"
	Converging State = "converging"
	Damaged    State = "damaged" // what was there cannot be read
	Empty      State = "empty"   // nothing has landed or been promoted yet
)

// Backend answers SSH commands and the console. All methods are safe for
// concurrent use. What an actor may not read is not found. Errors for people
// are *Error; any other error is the server's own fault.
type Backend interface {
	Repositories
	Changes
	Environments
	Execs
	Schedules
	Tests
	Source
	Secrets
	Members
	Agents
	Forges
	Events
	Acts
	Tokens
	Watcher

	// Why answers for a change number, an environment, or a commit id.
	Why(ctx context.Context, who access.Identity, repository, thing string) (Why, error)
}

// Watcher tells, coalesced, that something about a repository ("" for any) may
// have changed. The channel is closed by stop.
type Watcher interface {
	Watch(repository string) (changed <-chan struct{}, stop func())
}
