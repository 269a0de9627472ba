package receive

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// hook is one hook program at the other end of a connection. Its methods write;
// they are called by one goroutine. Once the hook is gone they do nothing.
type hook struct {
	conn  net.Conn
	in    *io.PipeReader // the hook's standard input
	out   *io.PipeWriter // its other end
	ascii bool           // what the pusher can be shown; UTF-8 otherwise
	gone  bool
	done  bool // exit has been sent
	wg    sync.WaitGroup
}

func newHook(conn net.Conn) *hook {
	in, out := io.Pipe()
	return &hook{conn: conn, in: in, out: out}
}

// writeTime is how long a hook may leave its socket unread before it counts as
// gone. The hook program itself never stops reading.
const writeTimeout = 30 * time.Second

// stopReading makes reads of the hook's input fail. It may be called from any goroutine.
func (h *hook) stopReading() { h.out.CloseWithError(errGone) }

// start begins to read the hook's standard input. gone is called when the hook
// has left, or, with toEnd, when its input has ended: git keeps proc-receive's
// input open until it has its answer.
func (h *hook) start(gone context.CancelFunc, toEnd bool) {
	out := h.out
	h.wg.Go(func() {
		defer gone()
		for {
			kind, content, err := wire.Read(h.conn)
			switch {
			case err != nil:
				out.CloseWithError(errGone)
				return
			case kind == wire.Input:
				if _, err := out.Write(content); err != nil {
					// Nobody reads on; go on reading to see the hook leave.
					continue
				}
			case kind == wire.End:
				out.Close()
				if toEnd {
					gone()
				}
			default:
				out.CloseWithError(errors.New("the hook sent an unknown frame"))
				return
			}
		}
	})
}

var errGone = errors.New("the hook is gone")

// finish ends the reading. It closes the connection.
func (h *hook) finish() {
	h.in.Close()
	h.conn.Close()
	h.wg.Wait()
}

func (h *hook) write(kind wire.Kind, content []byte) error {
	if h.gone {
		return errGone
	}
	_ = h.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // a closed connection fails the write
	if err := wire.WriteAll(h.conn, kind, content); err != nil {
		h.gone = true
		return errGone
	}
	return nil
}

// lines tells the pusher something: lines that are safe to show, whatever they
// were made of.
func (h *hook) lines(lines ...string) {
	if len(lines) == 0 {
		return
	}
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(h.shown(line))
		b.WriteByte('\n')
	}
	_ = h.write(wire.Message, []byte(b.String())) // a lost pusher changes nothing
}

// shown is a line as the pusher can be shown it.
func (h *hook) shown(line string) string {
	line = terminal.Plain(line)
	if h.ascii {
		line = terminal.ASCII(line)
	}
	return line
}

// output writes to the hook's standard output, which git reads.
func (h *hook) output(content []byte) error { return h.write(wire.Output, content) }

// exit ends the hook program with a status.
func (h *hook) exit(status byte) {
	if !h.done {
		h.done = true
		_ = h.write(wire.Exit, []byte{status}) // a hook that is gone needs no status
	}
}
