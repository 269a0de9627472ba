package reconciler

import (
	"context"
	"iter"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// maxLogLines bounds what one question about logs is answered with at once.
const maxLogLines = 10_000

// Logs yields what the instances of an environment printed.
func (rc *Reconciler) Logs(ctx context.Context, repository, environment string,
	q show.LogQuery) iter.Seq2[show.InstanceLine, error] {
	return func(yield func(show.InstanceLine, error) bool) {
		r, err := rc.repository(repository)
		if err != nil {
			yield(show.InstanceLine{}, err)
			return
		}
		s, err := rc.load(ctx, r, environment)
		if err != nil {
			yield(show.InstanceLine{}, err)
			return
		}
		logger, ok := rc.Targets[s.settings.Target].(target.Logger)
		if !ok {
			yield(show.InstanceLine{}, &show.Error{Kind: show.NotFound,
				What: "what runs in " + environment + " is not logged by this server"})
			return
		}
		lines := q.Lines
		if lines < 1 || lines > maxLogLines {
			lines = maxLogLines
		}
		for l, err := range logger.Logs(ctx, s.key(),
			target.LogQuery{Unit: q.Service, Since: q.Since, Lines: lines, Follow: q.Follow}) {
			line := show.InstanceLine{At: l.At, Service: l.Unit, Instance: l.Instance, Own: l.Own, Text: l.Text}
			if !yield(line, err) || err != nil {
				return
			}
		}
	}
}
