package server

import (
	"context"
	"iter"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// InstanceLogs implements show.Backend.
func (s *Server) InstanceLogs(ctx context.Context, a access.Identity, repository, environment string,
	q show.LogQuery) iter.Seq2[show.InstanceLine, error] {
	return func(yield func(show.InstanceLine, error) bool) {
		ctx, stop := s.reading(ctx, a, repository)
		defer stop()
		if _, err := s.readable(a, repository); err != nil {
			yield(show.InstanceLine{}, err)
			return
		}
		taken := func() bool { return context.Cause(ctx) == error(errReadsNoMore) }
		for line, err := range s.reconciler.Logs(ctx, repository, environment, q) {
			if taken() {
				break // whatever it is
			}
			if !yield(line, err) || err != nil {
				return
			}
		}
		if taken() {
			yield(show.InstanceLine{}, errReadsNoMore)
		}
	}
}
