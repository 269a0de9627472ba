package show

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// Secrets answers for what may not be in Git. Nobody is shown a value: it is
// handed to whatever needs it, and never comes back. Those of the server are the
// administrators', those of a repository also theirs who may write to it.
type Secrets interface {
	// Secrets are those that an actor may set: of one repository, or all for "".
	Secrets(ctx context.Context, who access.Identity, repository string) ([]secret.Info, error)
	SetSecret(ctx context.Context, who access.Identity, id secret.ID, value secret.Value) (Done, error)
	RemoveSecret(ctx context.Context, who access.Identity, id secret.ID) (Done, error)
}
