package fleet

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// logs are those of all hosts, each under its name here.
func (a *app) logs(ctx context.Context, q target.LogQuery) iter.Seq2[target.LogLine, error] {
	return func(yield func(target.LogLine, error) bool) {
		k := a.key()
		a.mu.Lock()
		names := a.hosts
		a.mu.Unlock()
		ctx, cancel := context.WithCancel(ctx)
		type item struct {
			line target.LogLine
			err  error
		}
		lines := make(chan item)
		var all sync.WaitGroup
		defer all.Wait()
		defer cancel()
		for _, h := range a.t.Hosts(k.Repository) {
			if !names[h.Name] || q.Unit != "" && q.Unit != h.Name || !h.Agent.Live() {
				continue
			}
			own := q
			own.Unit = ""
			all.Go(func() {
				for line, err := range h.Agent.Logs(ctx, k, own) {
					line.Unit = h.Name
					if err != nil {
						err = fmt.Errorf("%s: %w", h.Name, err)
					}
					select {
					case lines <- item{line, err}:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { // ends with those before it
			all.Wait()
			close(done)
		}()
		var past []target.LogLine // without Follow all comes in the order of time
		for {
			select {
			case i := <-lines:
				switch {
				case i.err != nil:
					yield(target.LogLine{}, i.err)
					return
				case !q.Follow:
					past = append(past, i.line)
				case !yield(i.line, nil):
					return
				}
				continue
			case <-done:
			case <-ctx.Done():
				return
			}
			break
		}
		slices.SortStableFunc(past, func(x, y target.LogLine) int {
			return cmp.Or(x.At.Compare(y.At), strings.Compare(x.Unit, y.Unit))
		})
		if over := len(past) - q.Lines; q.Lines > 0 && over > 0 {
			past = past[over:]
		}
		for _, line := range past {
			if !yield(line, nil) {
				return
			}
		}
	}
}
