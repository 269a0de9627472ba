package show

import "time"

// Estimate is when an open change probably lands, as of when it was asked for.
// Nothing in it is past; the zero Estimate is that nothing is known.
type Estimate struct {
	LandsAt   time.Time `json:"lands_at,omitzero"`
	LandsBy   time.Time `json:"lands_by,omitzero"`    // nine times in ten it has landed by then
	LandsSoon bool      `json:"lands_soon,omitempty"` // any moment: within a minute, or its build takes longer than usual
}

// Text is the estimate in a few words, empty if nothing is known. clock writes
// a time.
func (e Estimate) Text(clock func(time.Time) string) string {
	switch {
	case e.LandsSoon:
		return "any moment"
	case e.LandsAt.IsZero():
		return ""
	}
	return "~" + clock(e.LandsAt)
}
