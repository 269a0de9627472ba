package transport

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
)

// A place is for work. Who holds one, while others wait for it, neither lets git
// compute nor sends anything to speak of, is let go: somebody who drips what they
// want, what they have, or a pack, does not keep it from the others.

// keepPace watches, until ctx is done or the place has been left, that its holder
// makes use of it; slow is called once, when not.
func (c *child) keepPace(ctx context.Context, q *queue, pid int, left <-chan struct{}, slow func()) {
	tick := time.NewTicker(c.t.Limits.Slow)
	defer tick.Stop()
	sent, worked := c.sent.Load(), processorTime(pid)
	for {
		select {
		case <-ctx.Done():
			return
		case <-left:
			return
		case <-tick.C:
		}
		nowSent, nowWorked := c.sent.Load(), processorTime(pid)
		if q.crowded() && nowSent-sent < leastBytes && nowWorked-worked < leastWork {
			slow()
			return
		}
		sent, worked = nowSent, nowWorked
	}
}

// What the holder of a place moves, or has computed, at least while others wait, in
// each Limits.Slow.
const (
	leastBytes = 320 << 10
	leastWork  = 100 * time.Millisecond
)

// processorTime is what a process and its descendants have computed; what of them has
// gone counts for none.
func processorTime(pid int) (sum time.Duration) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name may hold anything
	if fields := strings.Fields(after); len(fields) > 15 {
		for _, field := range fields[11:15] { // its own and that of children that have ended, in hundredths of a second
			ticks, _ := strconv.Atoi(field)
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return sum
	}
	for child := range strings.FieldsSeq(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			sum += processorTime(n)
		}
	}
	return sum
}

// admitPack reads the commands of a push, passes them on, and waits for a place to
// unpack in before what follows them, unless all of them delete.
func (q *queue) admitPack(ctx context.Context, from io.Reader, to io.Writer, name string) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(from, 64<<10)
	brings := false
	for {
		var packet bytes.Buffer // as it was sent
		lines := pktline.NewScanner(io.TeeReader(in, &packet))
		scanned := lines.Scan()
		end := !scanned || packet.String() == "0000"
		if !end {
			_, rest, _ := bytes.Cut(lines.Bytes(), []byte(" ")) // "<old> <new> <ref>"
			brings = brings || !bytes.HasPrefix(rest, []byte(strings.Repeat("0", 40)))
		}
		if end {
			rest := io.MultiReader(&packet, in)
			if !brings || !scanned { // nothing, or what git itself has to say something of
				return rest, nil, nil
			}
			done, err := q.enter(ctx, name)
			return rest, done, err
		}
		if _, err := to.Write(packet.Bytes()); err != nil {
			return in, nil, nil // git has ended, which whoever waits for it sees
		}
	}
}
