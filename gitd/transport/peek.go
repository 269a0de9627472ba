package transport

import (
	"bufio"
	"bytes"
	"context"
	"io"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
)

// admit reads what a client asks of upload-pack, passes it on, and waits for a
// place before the first request that makes a pack: asking for refs is cheap and
// queues behind nobody. name is whose place it is; requests says that the client speaks protocol version
// 2, in which each request names its command.
func (q *queue) admit(ctx context.Context, from io.Reader, to io.Writer, name string,
	requests bool) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(from, 64<<10)
	for {
		var packet bytes.Buffer // as it was sent
		lines := pktline.NewScanner(io.TeeReader(in, &packet))
		scanned := lines.Scan()
		rest := io.MultiReader(&packet, in)

		var pack bool
		switch {
		case !scanned && lines.Err() == nil:
			return rest, nil, nil // the end
		case special(packet.String()):
		case !scanned: // not in packets: let git say so, in turn
			pack = true
		case requests:
			pack = bytes.HasPrefix(lines.Bytes(), []byte("command=fetch"))
		default:
			pack = true
		}
		if pack {
			done, err := q.enter(ctx, name)
			return rest, done, err
		}
		if _, err := to.Write(packet.Bytes()); err != nil {
			return in, nil, nil // git has ended, which whoever waits for it sees
		}
	}
}

// special reports whether a packet is a flush, a delimiter or a response end. The
// scanner knows the first of them only.
func special(packet string) bool {
	return packet == "0000" || packet == "0001" || packet == "0002"
}
