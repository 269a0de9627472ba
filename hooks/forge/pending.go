package forge

import (
	"sync"

	"github.com/headgate-cd/headgate/hooks/delivery"
)

// pending is what the deliveries that wait tell of, each read once: looks at them are many
// more than they are. It is safe for concurrent use.
type pending struct {
	inbox *delivery.Log

	mu   sync.Mutex
	kind Kind
	read map[int64]waiting
}

// waiting is one delivery that waits.
type waiting struct {
	sequence int64
	hints    Hints
	err      error // it could not be read
}

// is reports whether it tells of something.
func (d waiting) is(of KeyKind) bool {
	return d.err == nil && len(d.hints.Keys) > 0 && d.hints.Keys[0].Of == of
}

// list is what waits, oldest first, as a forge of a kind has it.
func (p *pending) list(kind Kind) (list []waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kind != kind {
		p.kind, p.read = kind, nil
	}
	read := map[int64]waiting{} // without what waits no more
	for _, sequence := range p.inbox.Pending() {
		d, known := p.read[sequence]
		if !known {
			d.sequence = sequence
			var one delivery.Delivery
			if one, d.err = p.inbox.Read(sequence); d.err == nil {
				d.hints, d.err = HintsOf(kind, one.Event, one.Body)
			}
		}
		read[sequence] = d
		list = append(list, d)
	}
	p.read = read
	return list
}
