package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// message is what a supervisor and its worker say to each other, one a packet. A
// listener comes along as a descriptor.
type message struct {
	Op      string        `json:"op"`
	ID      int           `json:"id,omitempty"` // of a question, and of its answer
	Address string        `json:"address,omitempty"`
	Program string        `json:"program,omitempty"`
	Trial   bool          `json:"trial,omitempty"` // it is to be heard by the server, or the one before works again
	Error   string        `json:"error,omitempty"`
	Errno   syscall.Errno `json:"errno,omitempty"`

	file *os.File // that came along; nil for none
}

// What is said. An older supervisor may have a newer worker: what is added here is
// added, and nothing changes its meaning.
const (
	opReady   = "ready"   // worker: it could begin
	opFailed  = "failed"  // worker: it cannot, for this reason
	opGo      = "go"      // supervisor: begin
	opLeave   = "leave"   // supervisor: leave everything as it is, and end
	opLeft    = "left"    // worker: nothing is done by it any more, but for requests in flight
	opStop    = "stop"    // supervisor: stop everything, and end; worker: somebody wants that
	opListen  = "listen"  // worker: open an address; answered with the listener, or an error
	opClose   = "close"   // worker: close an address; answered
	opUpgrade = "upgrade" // worker: somebody wants another program to work; answered when it is ready
	opAnswer  = "answer"

	opReported = "reported" // worker: the server elsewhere has heard it
)

const maxPacket = 64 << 10

// channel is one end of the line between a supervisor and a worker.
type channel struct {
	conn *net.UnixConn

	mu        sync.Mutex // held while something is said
	next      int
	questions map[int]chan message
}

// newChannel makes both ends; the other one is a file to hand down.
func newChannel() (*channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a channel to a worker: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel")
	c, err := openChannel(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// openChannel takes over a file.
func openChannel(f *os.File) (*channel, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the channel: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("open the channel: it is not a unix socket")
	}
	return &channel{conn: u, questions: map[int]chan message{}}, nil
}

func (c *channel) say(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(m)
}

func (c *channel) write(m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if m.file != nil {
		conn, err := m.file.SyscallConn()
		if err != nil {
			return err
		}
		var sent error
		err = conn.Control(func(fd uintptr) {
			_, _, sent = c.conn.WriteMsgUnix(data, unix.UnixRights(int(fd)), nil)
		})
		return errors.Join(err, sent)
	}
	_, _, err = c.conn.WriteMsgUnix(data, rights, nil)
	return err
}

// receive returns the next message that is no answer. Answers go to who asked.
func (c *channel) receive() (message, error) {
	data, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4))
	for {
		n, oob, _, _, err := c.conn.ReadMsgUnix(data, rights)
		if err == nil && n == 0 {
			err = net.ErrClosed
		}
		if err != nil {
			c.mu.Lock()
			for id, ask := range c.questions {
				close(ask)
				delete(c.questions, id)
			}
			c.questions = nil
			c.mu.Unlock()
			return message{}, err
		}
		var m message
		if err := json.Unmarshal(data[:n], &m); err != nil {
			return m, fmt.Errorf("receive: %w", err)
		}
		m.file = received(rights[:oob])
		if m.Op != opAnswer {
			return m, nil
		}
		c.mu.Lock()
		ask := c.questions[m.ID]
		delete(c.questions, m.ID)
		c.mu.Unlock()
		if ask != nil {
			ask <- m
		} else if m.file != nil {
			m.file.Close()
		}
	}
}

func received(rights []byte) *os.File {
	all, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(all) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&all[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "listener")
}

var errHungUp = errors.New("the other end has hung up")

// ask asks, and waits for the answer, whose error becomes one.
func (c *channel) ask(m message) (message, error) {
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.questions == nil {
		c.mu.Unlock()
		return m, errHungUp
	}
	c.next++
	m.ID = c.next
	c.questions[m.ID] = answer
	err := c.write(m)
	c.mu.Unlock()
	if err != nil {
		return m, err
	}
	a, ok := <-answer
	switch {
	case !ok:
		return a, errHungUp
	case a.Errno != 0:
		return a, fmt.Errorf("%s: %w", a.Error, a.Errno)
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (c *channel) close() { c.conn.Close() }
