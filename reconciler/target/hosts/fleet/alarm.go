package fleet

import (
	"context"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// listen takes up what alarms have answered.
func (a *app) listen() {
	a.mu.Lock()
	answers := a.answers
	a.answers = nil
	a.mu.Unlock()
	for _, told := range answers {
		for _, s := range a.stages {
			if told.about == a.about && s.state != nil {
				s.state.Answered(told.Measured, told.at)
			}
		}
	}
}

// answer is what Prometheus has said to an alarm of a deployment.
type answer struct {
	alarm.Measured
	at    time.Time
	about *target.Declared
}

// askTimeout bounds one question to Prometheus.
const askTimeout = 30 * time.Second

// ask asks an alarm beside the loop.
func (a *app) ask(d *target.Declared, name string, c *config) {
	if a.unask == nil {
		a.asking, a.unask = context.WithCancel(a.t.ctx)
	}
	ctx, about := a.asking, a.about
	query, err := services.QueryOf(c.queries[name], d)
	above := slices.ContainsFunc(c.rollout.Alarms, func(of alarm.Alarm) bool { return of.Name == name && of.Above })
	a.asked.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		told := answer{Measured: alarm.Measured{Name: name}, about: about}
		if err != nil {
			told.Err = err.Error()
		} else {
			told.Measured = query.Ask(ctx, name, above)
		}
		told.at = time.Now()
		a.mu.Lock()
		a.answers = append(a.answers, told)
		a.mu.Unlock()
		a.nudge()
	})
}

// stopAsking ends what is asked still: nobody waits for its answer.
func (a *app) stopAsking() {
	if a.unask == nil {
		return
	}
	a.unask()
	a.asked.Wait()
	a.asking, a.unask = nil, nil
}
