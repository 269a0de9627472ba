package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Client speaks to the agent of a directory on this machine, or by Dialer to another one.
type Client struct {
	Dir    string
	Dialer func(ctx context.Context) (net.Conn, error)
}

// Dial connects to the agent.
func (c Client) Dial(ctx context.Context) (net.Conn, error) {
	if c.Dialer != nil {
		return c.Dialer(ctx)
	}
	path, done, err := socketPath(c.Dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// maxSocketPath is what the kernel takes for the path of a socket.
const maxSocketPath = 107

// socketPath is a path of the socket in a directory that the kernel takes, until done is
// called: a long one is reached by a handle of its directory.
func socketPath(dir string) (path string, done func(), err error) {
	if path = filepath.Join(dir, socketName); len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName), func() { d.Close() }, nil
}

// ErrAway is that no agent runs.
var ErrAway = errors.New("no agent runs")

// Hello asks the agent who it is. The error matches ErrAway when there is none.
func (c Client) Hello(ctx context.Context) (h Hello, err error) {
	body, err := c.do(ctx, http.MethodGet, pathHello, nil)
	if err == nil {
		err = json.Unmarshal(body, &h)
	}
	return h, err
}

// Control has the agent "stop", "drain", "resume", or "upgrade" to the program at a path.
// It waits for one that is about to answer.
func (c Client) Control(ctx context.Context, what, argument string) error {
	for late := time.Now().Add(startTimeout); ; {
		_, err := c.do(ctx, http.MethodPost, pathControl+what, map[string]string{"argument": argument})
		if !errors.Is(err, ErrAway) || c.Dir == "" || !repo.IsLocked(c.Dir) || time.Now().After(late) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c Client) do(ctx context.Context, method, path string, q any) ([]byte, error) {
	t := &Target{Dial: c.Dial}
	t.init()
	defer t.client.CloseIdleConnections()
	resp, err := t.request(ctx, method, path, q)
	if err != nil {
		return nil, away(err)
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

func away(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// Observed is all that the agent knows of now.
func (c Client) Observed(ctx context.Context) (all []target.Observed, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	t := &Target{Dial: c.Dial}
	t.init()
	defer t.client.CloseIdleConnections()
	resp, err := t.request(ctx, http.MethodGet, pathWatch, nil)
	if err != nil {
		return nil, away(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, err
		}
		if e.Observed != nil {
			all = append(all, *e.Observed)
		}
		if e.Ready {
			slices.SortFunc(all, func(a, b target.Observed) int {
				return strings.Compare(a.Repository+a.Environment+a.Application, b.Repository+b.Environment+b.Application)
			})
			return all, nil
		}
	}
	return nil, cause(ctx, cmpErr(lines.Err()))
}

// Stopped reports whether somebody has stopped the agent, and it is to stay so until
// somebody starts it, or the server.
func (c Client) Stopped() bool {
	_, err := os.Stat(filepath.Join(c.Dir, stoppedName))
	return err == nil
}

// startTimeout is how long an agent may take to answer, with all that it has to find
// again.
const startTimeout = time.Minute

// Start starts an agent with arguments of this program, unless one runs, and waits until it
// answers. It does not end with this program, and is told nothing of its
// environment but what it needs. What it says of itself goes to the file log.
func (c Client) Start(ctx context.Context, log string, arguments ...string) (Hello, error) {
	if h, err := c.Hello(ctx); !errors.Is(err, ErrAway) {
		return h, err
	}
	_ = os.Remove(filepath.Join(c.Dir, stoppedName)) // it is not, any more
	if info, err := os.Stat(log); err == nil && info.Size() > 8<<20 {
		_ = os.Rename(log, log+".1") // else it goes on growing
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return Hello{}, fmt.Errorf("start the agent: %w", err)
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return Hello{}, fmt.Errorf("start the agent: %w", err)
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", arguments...)
	cmd.Args[0] = "headgate"
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Hello{}, fmt.Errorf("start the agent: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it lives longer than this program, or is reaped
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		h, err := c.Hello(ctx)
		if err == nil {
			return h, nil
		}
		select {
		case end := <-ended:
			if repo.IsLocked(c.Dir) { // another was faster, and will answer
				ended = nil
				continue
			}
			if h, err := c.Hello(ctx); err == nil {
				return h, nil
			}
			return h, fmt.Errorf("the agent ended at once: %v\nhint: it says why in %s", end, log)
		case <-ctx.Done():
			return h, fmt.Errorf("the agent does not answer: %w\nhint: it says why in %s", err, log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// environment is what an agent gets of this program's: nothing that could be a secret.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains([]string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR",
			"GORACE", "GOCOVERDIR",
			"DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION", "XDG_RUNTIME_DIR"}, name) ||
			strings.HasPrefix(name, "HEADGATE_CRASH_") {
			env = append(env, kv)
		}
	}
	return env
}
