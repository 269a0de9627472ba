package rollout

import "time"

// Moment is one moment by two clocks. Wall is set by people and by NTP, and jumps; Up is the
// time since the machine was started, and does not.
type Moment struct {
	Wall time.Time     `json:"wall"`
	Up   time.Duration `json:"up"`
}

// Jumped is by how much the wall's clock was set forward between two moments, beyond what
// has passed; negative where it was set back.
func (m Moment) Jumped(now Moment) time.Duration {
	return now.Wall.Round(0).Sub(m.Wall.Round(0)) - (now.Up - m.Up)
}

// Restored has times that were written down be measured from now: how long ago they were is
// what the clock that does not jump says. was is a moment by whose wall clock they were
// written; the zero Moment says that none is known, and the wall's clock is believed.
func (o *Observed) Restored(was, now Moment) {
	if was.Wall.IsZero() {
		was = now
	}
	o.times(func(t time.Time) time.Time {
		return now.Wall.Add(t.Sub(was.Wall.Round(0)) - (now.Up - was.Up))
	})
}

// ClockSet has times that were measured by this process say what they are by the wall's
// clock of now, which was set. How long ago they were stays as it is.
func (o *Observed) ClockSet(now time.Time) {
	o.times(func(t time.Time) time.Time { return now.Add(t.Sub(now)) })
}

// times has f say what becomes of each time that something is measured from. What is due by
// the wall's clock, and what people are told of the past, is left as it is.
func (o *Observed) times(f func(time.Time) time.Time) {
	of := func(all ...*time.Time) {
		for _, t := range all {
			if !t.IsZero() {
				*t = f(*t)
			}
		}
	}
	for _, s := range o.Services {
		of(&s.ListenRetry)
		for _, in := range s.Instances {
			of(&in.Since, &in.NotBefore, &in.Started, &in.Healthy, &in.Checked)
		}
		for _, t := range s.Versions {
			of(&t.NotBefore)
		}
	}
	p := o.Progress
	if p == nil {
		return
	}
	of(&p.Since, &p.Shifted)
	for name, h := range p.Hooks {
		of(&h.Called, &h.Again)
		p.Hooks[name] = h
	}
	for name, a := range p.Alarms {
		of(&a.Asked, &a.Heard, &a.Beyond)
		p.Alarms[name] = a
	}
}
