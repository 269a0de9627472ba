package show

import (
	"context"
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
	Queue        []Change      `json:"queue"`        // in landing order
	Environments []Environment `json:"environments"` // in the order of headgate.yaml
	MayWrite     bool          `json:"may_write"`
}
