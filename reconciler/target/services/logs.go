package services

import (
	"context"
	"iter"
	"path/filepath"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// Logs implements target.Logger. It holds no file open between two looks, so that
// a follower costs nothing while nothing is printed.
func (t *Target) Logs(ctx context.Context, k target.Key, q target.LogQuery) iter.Seq2[target.LogLine, error] {
	return func(yield func(target.LogLine, error) bool) {
		for _, name := range []string{k.Repository, k.Environment, k.Application} {
			if !plainName().MatchString(name) {
				return
			}
		}
		printed, stop := t.printed.Watch(printedTopic(k)) // before looking, to miss nothing
		defer stop()
		dir := filepath.Dir(t.logPath(t.home(k), "x"))
		target.Follow(ctx, q.Follow, printed, yield, logfile.NewReader(dir, q).More)
	}
}

func printedTopic(k target.Key) string {
	return k.Repository + "/" + k.Environment + "/" + k.Application
}
