package show

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// Execs runs commands of people where services run.
type Execs interface {
	// Exec runs one and returns its exit status. Policy is asked first, and the answer is on
	// record before anything runs. It ends with ctx, with the instance, and when policy
	// would not allow it any more.
	Exec(ctx context.Context, who access.Identity, repository, environment string, x Exec) (status int, err error)
}

// Exec is a command, and what it is connected to.
type Exec struct {
	Service  string
	Instance string   // "" for any
	Command  []string // none: a shell
	tty.Streams
}
