package policies

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a process can be asked for.
const (
	opLoad     = "load"     // compile, and keep for opEvaluate
	opCompile  = "compile"  // and keep for opTest
	opTest     = "test"     // run the tests of what was compiled
	opEvaluate = "evaluate" // a query
)

type request struct {
	Op    string
	Files map[string][]byte `json:",omitempty"` // opLoad, opCompile
	Query string            `json:",omitempty"` // opEvaluate, and what follows
	Now   time.Time
	Input json.RawMessage `json:",omitempty"`
}

type reply struct {
	Digest   string
	Version  string
	Problems Problems `json:",omitempty"`
	Answer   Answer
	Printed  string `json:",omitempty"`
	Error    string `json:",omitempty"`
}

// Bounds of a frame, which is its length in four bytes and JSON.
const (
	maxRequest = 32 << 20 // more than all files of a repository, in base64
	maxReply   = 1 << 20
)

func writeFrame(w io.Writer, v any, limit int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > limit {
		return fmt.Errorf("%d bytes, over the limit of %d", len(body), limit)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...))
	return err
}

func readFrame(r io.Reader, v any, limit int) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if int64(n) > int64(limit) {
		return fmt.Errorf("%d bytes, over the limit of %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// limit is what one request may take.
type limit struct {
	cpu, wall time.Duration
	what      string // is said when it takes more
}

// overError says that a policy is over a limit: the next try would be, too.
type overError struct{ what string }

func (e overError) Error() string { return e.what }

// endedError says how a process ended that nobody had ended.
type endedError struct{ how string }

func (e endedError) Error() string { return "the process that evaluates policies ended: " + e.how }

// process is one that evaluates policies, seen from outside.
type process struct {
	cmd    *exec.Cmd
	in     *os.File
	out    *bufio.Reader
	pipe   *os.File // below out
	stderr *stderr
	exited chan struct{}
}

// start makes a process: without an environment, in a process group of its own (a
// Ctrl-C is the server's), gone with the server.
func (p *Pool) start() (_ *process, err error) {
	if p.ctx.Err() != nil {
		return nil, errClosed
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a process for policies: %w", err)
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, fmt.Errorf("start a process for policies: %w", err)
	}
	defer outW.Close()

	c := &process{in: inW, out: bufio.NewReader(outR), pipe: outR, stderr: &stderr{}, exited: make(chan struct{})}
	c.cmd = exec.CommandContext(p.ctx, p.Program[0], p.Program[1:]...)
	c.cmd.Env = []string{}
	c.cmd.Dir = "/"
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = inR, outW, c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		inW.Close()
		outR.Close()
		return nil, fmt.Errorf("start a process for policies: %w", err)
	}
	p.alive.Go(func() {
		_ = c.cmd.Wait() // how it ended is in ProcessState
		close(c.exited)
	})
	return c, nil
}

func (c *process) kill() { _ = c.cmd.Process.Kill() } // it has ended, then

// end ends the process and waits until it is gone.
func (c *process) end() {
	c.kill()
	<-c.exited
	c.in.Close()
	c.pipe.Close()
}

// exchange asks the process for something. After an error it is to be ended.
func (c *process) exchange(r request, l limit) (reply, error) {
	var answer reply
	done := make(chan error, 1)
	before := c.cpu()
	go func() {
		err := writeFrame(c.in, r, maxRequest)
		if err == nil {
			err = readFrame(c.out, &answer, maxReply)
		}
		done <- err
	}()

	deadline := time.Now().Add(l.wall)
	timer := time.NewTimer(l.cpu)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			if err == nil {
				return answer, nil
			}
			c.kill()
			<-c.exited
			return reply{}, c.cause(err)
		case <-timer.C:
			left := min(l.cpu-(c.cpu()-before), time.Until(deadline))
			if left > 0 {
				timer.Reset(left)
				continue
			}
			c.kill()
			<-c.exited
			<-done // nothing else writes what it read
			return reply{}, overError{l.what}
		}
	}
}

// cpu is the processor time that the process has taken.
func (c *process) cpu() time.Duration {
	var t unix.Timespec
	clock := int32(^c.cmd.Process.Pid)<<3 | 2 // CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it
	if unix.ClockGettime(clock, &t) != nil {
		return 0 // it has ended
	}
	return time.Duration(t.Nano())
}

// cause says why the process ended, as far as it or the kernel said so.
func (c *process) cause(err error) error {
	said := c.stderr.String()
	for _, s := range []string{"out of memory", "cannot allocate memory", "failed to create new OS thread"} {
		if strings.Contains(said, s) {
			return overError{fmt.Sprintf("the policies need more than %d MiB of memory", maxMemory>>20)}
		}
	}
	if strings.Contains(said, "stack exceeds") {
		return overError{"the policies nest too deeply"}
	}
	how := c.cmd.ProcessState.String()
	if line, _, _ := strings.Cut(strings.TrimSpace(said), "\n"); line != "" {
		how += ", " + line
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.EPIPE) {
		how += ", " + err.Error()
	}
	return endedError{how}
}

// stderr keeps the beginning of what a process says when it ends.
type stderr struct {
	mu   sync.Mutex
	kept []byte
}

func (t *stderr) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[:min(len(p), 4<<10-len(t.kept))]...)
	return len(p), nil
}

func (t *stderr) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
