package show

import (
	"context"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Repositories answers for the server and its repositories.
type Repositories interface {
	Server(ctx context.Context) Server
	Repositories(ctx context.Context, who access.Identity) ([]Repository, error)
	Repository(ctx context.Context, who access.Identity, name string) (Repository, error)
}

// Repository is one line of the repository list, and the head of its page.
type Repository struct {
	Name         string        `json:"repository"`
	Description  string        `json:"description,omitempty"`
	Clone        string        `json:"clone"`
	Gated        bool          `json:"gated"`
	UngatedBy    string        `json:"ungated_by,omitempty"` // who ungated it, and when: "sam on 2026-11-03"
	Branch       string        `json:"branch"`               // the gated branch shown, usually main
	Tip          string        `json:"tip,omitempty"`        // full commit id, empty before the first landing
	Tree         string        `json:"tree,omitempty"`
	State        State         `json:"state"`            // of the branch: green, empty, not gated; or damaged
	Reason       string        `json:"reason,omitempty"` // damaged: what cannot be read
	LandedAt     time.Time     `json:"landed_at,omitzero"`
	Release      int           `json:"release,omitempty"`
	Paused       []Pause       `json:"paused,omitempty"` // branches on which nothing lands for now
	Queue        []Change      `json:"queue"`            // in landing order
	Environments []Environment `json:"environments"`     // in the order of headgate.yaml
	MayWrite     bool          `json:"may_write"`
}

// Pause is that somebody lets nothing land on a branch until it is resumed.
type Pause struct {
	Branch string    `json:"branch"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Via    string    `json:"via"`
	Reason string    `json:"reason,omitempty"`
}

// String says it in one line.
func (p Pause) String() string {
	s := fmt.Sprintf("landing on %s is paused by %s since %s", p.Branch, p.By, Clock(p.At))
	if p.Reason != "" {
		s += ": " + p.Reason
	}
	return s
}
