package show

import (
	"context"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Tokens are what people and programs clone and push with over HTTP. Each is of
// the user who made it.
type Tokens interface {
	CreateToken(ctx context.Context, who access.Identity, r TokenRequest) (NewToken, error)
	// Tokens lists the actor's own, the newest first; all sees everybody's, which
	// takes an administrator.
	Tokens(ctx context.Context, who access.Identity, all bool) ([]Token, error)
	// RevokeToken ends one of the actor's own; an administrator ends anybody's.
	RevokeToken(ctx context.Context, who access.Identity, id string) (Done, error)
}

// TokenRequest is what a token shall be.
type TokenRequest struct {
	Name         string
	Repositories []string // nil: all that the user may use
	Write        bool
	Approve      bool          // and write
	Life         time.Duration // 0: as long as the server thinks fit
}

// Token is one token, without its secret.
type Token struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	User         string    `json:"user"`
	Repositories []string  `json:"repositories,omitempty"` // none: all that the user may use
	Write        bool      `json:"write"`
	Approve      bool      `json:"approve,omitempty"`
	Created      time.Time `json:"created_at"`
	Expires      time.Time `json:"expires_at"`
	Used         time.Time `json:"used_at,omitzero"`
	Expired      bool      `json:"expired,omitempty"`
}

// NewToken is a token as it is shown once, to whoever made it.
type NewToken struct {
	Secret string `json:"token"`
	Token
	Next string `json:"next,omitempty"` // how it is used
}
