package target

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/tty"
)

// Execer is implemented by a target that runs commands of people where its instances
// run.
type Execer interface {
	// Exec runs a command where an instance runs, as that instance, and returns its exit
	// status. It ends with ctx, whose cause it then returns, and with the instance. An
	// error that is a Refusal says why nothing was run.
	Exec(ctx context.Context, k Key, e Exec) (status int, err error)
}

// Exec is a command of a person.
type Exec struct {
	Unit     string
	Instance string   // "" for any that is healthy, or else runs
	Command  []string // none: a shell
	By       string   // who, for the instance's log
	tty.Streams
}

// Refusal is why a command is not run, for people.
type Refusal string

func (r Refusal) Error() string { return string(r) }
