package show

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Members answers for users and groups. What is done to them is a change of the
// repository headgate, as if its administrator had pushed it. All of it is theirs.
type Members interface {
	Users(ctx context.Context, who access.Identity) ([]User, error)
	Groups(ctx context.Context, who access.Identity) ([]Group, error)
	// AddUser makes a user with public keys, or gives one that is there more keys.
	AddUser(ctx context.Context, who access.Identity, name string, keys []string) (Done, error)
	RemoveUser(ctx context.Context, who access.Identity, name string) (Done, error)
	// AddMember adds a user to a group, which is made when it is not there.
	AddMember(ctx context.Context, who access.Identity, group, user string) (Done, error)
	RemoveMember(ctx context.Context, who access.Identity, group, user string) (Done, error)
}

// User is one user.
type User struct {
	Name     string   `json:"user"`
	FullName string   `json:"name,omitempty"`
	Email    []string `json:"email,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Keys     []Key    `json:"keys"`
}

// Key is one public key of a user.
type Key struct {
	Fingerprint string `json:"fingerprint"`
	Comment     string `json:"comment,omitempty"`
}

// Group is one group.
type Group struct {
	Name    string   `json:"group"`
	Members []string `json:"members"`
}
