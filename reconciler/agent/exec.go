package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/headgate-cd/headgate/gitd/tty"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// execProtocol is what a connection is upgraded to by pathExec. From then on both ends
// say frames: a kind, the length of what follows as four bytes, and that.
const execProtocol = "headgate-exec"

// Kinds of frames.
const (
	frameInput  = 'i' // to the agent: what the command reads
	frameEnd    = 'e' // to the agent: there is no more of that
	frameResize = 'w' // to the agent: a tty.Size
	frameOutput = 'o' // from the agent: what the command printed
	frameErrors = 'p' // from the agent: the same, to standard error
	frameEnded  = 'x' // from the agent: an execEnded, the last one
)

const maxFrame = 64 << 10

// execQuery is the body of pathExec.
type execQuery struct {
	target.Key
	Unit     string    `json:"unit"`
	Instance string    `json:"instance,omitempty"`
	Command  []string  `json:"command,omitempty"`
	By       string    `json:"by"`
	Input    bool      `json:"input,omitempty"`
	Terminal string    `json:"terminal,omitempty"` // as in TERM; "" for none
	Size     *tty.Size `json:"size,omitempty"`     // of the terminal
}

// execEnded is how a command ended.
type execEnded struct {
	Status  int    `json:"status"`
	Refused string `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

// frames writes frames.
type frames struct {
	mu sync.Mutex
	to io.Writer
}

func (f *frames) say(kind byte, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(data)))
	_, err := (&net.Buffers{head[:], data}).WriteTo(f.to)
	return err
}

// of is a writer of one kind.
func (f *frames) of(kind byte) io.Writer { return frameWriter{f, kind} }

type frameWriter struct {
	frames *frames
	kind   byte
}

func (w frameWriter) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		part := p[n:min(len(p), n+maxFrame)]
		if err = w.frames.say(w.kind, part); err == nil {
			n += len(part)
		}
	}
	return n, err
}

func readFrame(r io.Reader) (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("a frame is %d bytes, over the limit of %d", size, maxFrame)
	}
	data = make([]byte, size)
	_, err = io.ReadFull(r, data)
	return head[0], data, err
}

// exec runs a command of a person. The agent of another machine is told none: nothing
// proves to it who wants that.
func (h *Handler) exec(w http.ResponseWriter, r *http.Request) {
	engine, ok := h.Engine.(target.Execer)
	if !ok || h.Prove != nil {
		http.Error(w, "this agent runs no commands of people", http.StatusNotImplemented)
		return
	}
	var q execQuery
	if !read(w, r, &q) {
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+
		execProtocol+"\r\n\r\n"); err != nil {
		return
	}

	out := &frames{to: conn}
	e := target.Exec{
		Unit:     q.Unit,
		Instance: q.Instance,
		Command:  q.Command,
		By:       q.By,
		Streams:  tty.Streams{Out: out.of(frameOutput), Err: out.of(frameErrors)},
	}
	typed, keyboard := io.Pipe()
	if q.Input {
		e.In = typed
	}
	resized := make(chan tty.Size)
	if q.Terminal != "" {
		e.Terminal = &tty.Terminal{Name: q.Terminal, Resize: resized}
		if q.Size != nil {
			e.Terminal.Size = *q.Size
		}
	}
	var hearing sync.WaitGroup
	hearing.Go(func() {
		defer cancel() // whoever wanted it has gone
		err := receive(ctx, buffered.Reader, keyboard, resized)
		keyboard.CloseWithError(err)
	})
	status, err := engine.Exec(ctx, q.Key, e)
	typed.Close()
	_ = out.say(frameEnded, ended(status, err)) // whoever wanted it may have gone
	cancel()
	hearing.Wait()
}

func ended(status int, err error) []byte {
	end := execEnded{Status: status}
	var refused target.Refusal
	switch {
	case errors.As(err, &refused):
		end.Refused = err.Error()
	case err != nil:
		end.Error = err.Error()
	}
	data, err := json.Marshal(end)
	if err != nil {
		panic(err) // plain values only
	}
	return data
}

// receive takes what a command is told, until the connection ends.
func receive(ctx context.Context, from io.Reader, keyboard *io.PipeWriter, resized chan<- tty.Size) error {
	for {
		kind, data, err := readFrame(from)
		if err != nil {
			return err
		}
		switch kind {
		case frameInput:
			_, _ = keyboard.Write(data) // the command may have read enough
		case frameEnd:
			keyboard.Close()
		case frameResize:
			var size tty.Size
			if err := json.Unmarshal(data, &size); err != nil {
				return err
			}
			select {
			case resized <- size:
			case <-ctx.Done():
			}
		default:
			return fmt.Errorf("there is no frame %q", kind)
		}
	}
}

// Exec implements target.Execer.
func (t *Target) Exec(ctx context.Context, k target.Key, e target.Exec) (status int, err error) {
	t.init()
	q := execQuery{Key: k, Unit: e.Unit, Instance: e.Instance, Command: e.Command, By: e.By, Input: e.In != nil}
	if e.Terminal != nil {
		q.Terminal, q.Size = e.Terminal.Name, &e.Terminal.Size
	}
	body, err := json.Marshal(q)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+pathExec, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", execProtocol)
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, cause(ctx, fmt.Errorf("run a command by the agent: %w", err))
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what could be read of it
		return 0, fmt.Errorf("the agent answered %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	to := &frames{to: conn}
	if e.In != nil {
		go func() { // ends with what is read
			if _, err := io.Copy(to.of(frameInput), e.In); err == nil {
				_ = to.say(frameEnd, nil) // the command may have ended
			}
		}()
	}
	if e.Terminal != nil && e.Terminal.Resize != nil {
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case size, ok := <-e.Terminal.Resize:
					data, err := json.Marshal(size)
					if !ok || err != nil || to.say(frameResize, data) != nil {
						return
					}
				}
			}
		}()
	}
	from := bufio.NewReader(conn)
	for {
		kind, data, err := readFrame(from)
		if err != nil {
			return 0, cause(ctx, fmt.Errorf("the agent has hung up, and the command has ended: %w", err))
		}
		switch kind {
		case frameOutput:
			_, err = e.Out.Write(data)
		case frameErrors:
			_, err = e.Err.Write(data)
		case frameEnded:
			return endedWith(data)
		}
		if err != nil {
			return 0, err
		}
	}
}

func endedWith(data []byte) (status int, err error) {
	var end execEnded
	if err := json.Unmarshal(data, &end); err != nil {
		return 0, fmt.Errorf("how the command ended cannot be read: %w", err)
	}
	switch {
	case end.Refused != "":
		return 0, target.Refusal(end.Refused)
	case end.Error != "":
		return 0, errors.New(end.Error)
	}
	return end.Status, nil
}
