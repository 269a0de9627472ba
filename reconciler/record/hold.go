package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Hold is the content of holds/<application>.json: it stops what is automatic
// until a person promotes forward.
type Hold struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

func (h Hold) encode() ([]byte, error) {
	data, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the hold: %w", err)
	}
	return append(data, '\n'), nil
}

// parseHold reads a hold. One that cannot be read is a hold, and says so.
func parseHold(data []byte) *Hold {
	h := new(Hold)
	if err := json.Unmarshal(data, h); err != nil {
		return &Hold{Reason: "unreadable: " + err.Error()}
	}
	return h
}

// holdOf reads the hold in an environment's tree, nil when there is none.
func holdOf(r *repo.Repository, tree repo.Hash, application string) (*Hold, error) {
	data, err := r.File(tree, HoldPath(application))
	if errors.Is(err, repo.ErrNoFile) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseHold(data), nil
}
