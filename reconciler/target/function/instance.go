package function

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// Limits of Lambda's.
const (
	maxPayload  = 6 << 20 // of an event and an answer, of a synchronous call
	maxStreamed = 200 << 20
	initTimeout = 10 * time.Second
	logTail     = 4 << 10
)

// instance is one process of a version, with its own runtime API. It has one event at a
// time, and ends when it is killed, or by itself.
type instance struct {
	id      string
	of      *pool
	began   time.Time
	ready   chan struct{} // closed when it has asked for an event for the first time
	dead    chan struct{} // closed when all of it has ended
	next    chan *invocation
	outcome string // how it ended; valid after dead
	output  *output
	sandbox *sandbox.Sandbox
	server  *http.Server

	mu       sync.Mutex
	current  *invocation // that it has taken and not answered
	answered string      // id of the one before
	initErr  *functionError
	isReady  bool
	killed   string // why we ended it, "" if we did not
}

// invocation is one event on its way through an instance.
type invocation struct {
	id       string
	payload  []byte
	arn      string
	timeout  time.Duration
	taken    chan struct{} // closed when the instance has it
	answer   chan answer   // of one
	deadline time.Time     // valid once it is taken
}

// answer is what came of an event.
type answer struct {
	body        []byte
	contentType string
	err         *functionError // nil: it is what the function returned
	stream      *stream        // in place of body
}

// stream is an answer that goes out while it is made.
type stream struct {
	body    io.Reader
	trailer func() *functionError // valid at body's end
	done    chan struct{}         // to be closed by whoever has read body, or reads no more
}

// functionError is an error in the form that Lambda gives it.
type functionError struct {
	Type    string
	payload []byte // as the runtime posted it; nil: made of Type and Message
	Message string
}

// Body is what the caller gets.
func (e *functionError) Body() []byte {
	if e.payload != nil {
		return e.payload
	}
	data, err := json.Marshal(map[string]string{"errorType": e.Type, "errorMessage": e.Message})
	if err != nil {
		panic(err) // text always marshals
	}
	return data
}

func (e *functionError) Error() string {
	var said struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	_ = json.Unmarshal(e.payload, &said) // what is none says nothing
	kind, message := cmp.Or(said.Type, e.Type), cmp.Or(said.Message, e.Message)
	return strings.TrimSuffix(kind+": "+oneLine(message), ": ")
}

// Descriptors that bubblewrap is given.
const (
	infoFD  = 3 + iota // on which it says what it has started
	shellFD            // its first process
)

// firstShell is where the sandbox's first process stands inside.
const firstShell = "/run/sandbox/sh"

// first is what it does: takes in processes that lost their parents until the command
// ends. What a shell says of a command that a signal has ended is not its output.
const first = `exec 6>&2 2>/dev/null
"$@" 2>&6 6>&-
exit "$?"`

// start starts an instance. It is ready when ready is closed, and may be dead before.
func (p *pool) start() (*instance, error) {
	argv, err := p.version.Config.command(p.code)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the runtime API: %w", err)
	}
	in := &instance{
		id:    fmt.Sprintf("%s-%d.%s", p.function.name, p.version.Number, strings.ToLower(rand.Text()[:6])),
		of:    p,
		began: time.Now(),
		ready: make(chan struct{}),
		dead:  make(chan struct{}),
		next:  make(chan *invocation),
	}
	if in.sandbox, err = p.owner.Records.New("function " + in.id); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	in.server = &http.Server{
		Handler:           in.runtimeAPI(),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(p.owner.Log.Handler(), slog.LevelDebug),
	}
	p.owner.running.Go(func() { _ = in.server.Serve(listener) }) // it ends with the instance
	if err := in.run(argv, listener.Addr().String()); err != nil {
		return nil, errors.Join(err, in.server.Close(), in.sandbox.Close())
	}
	return in, nil
}

// run starts the process in its sandbox and watches it.
func (in *instance) run(argv []string, address string) error {
	p := in.of
	if p.owner.bwrap == "" {
		return errors.New("functions run in bubblewrap, which is not installed: apt-get install bubblewrap")
	}
	info, told, err := os.Pipe()
	if err != nil {
		return err
	}
	defer info.Close()
	defer told.Close()
	shell, err := sandbox.OpenShell()
	if err != nil {
		return err
	}
	defer shell.Close()
	printed, output, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	log, err := in.openLog()
	if err != nil {
		printed.Close()
		return fmt.Errorf("open its log: %w", err)
	}

	line := []string{
		"--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "lambda",
		"--new-session", "--cap-drop", "ALL", "--clearenv", sandbox.WithParent, "--info-fd", strconv.Itoa(infoFD),
	}
	line = append(line, sandbox.System()...)
	line = append(line, "--ro-bind", p.code, taskRoot, "--dir", runtimeDir, "--chdir", taskRoot)
	line = append(line, sandbox.Init(shellFD, firstShell)...)
	line = append(line, "--", firstShell, "-c", first, "sh", "/usr/bin/env", "-i", "--")
	line = slices.Concat(line, in.environment(address), argv)

	cmd := exec.Command(p.owner.bwrap, line...)
	cmd.Dir = "/"
	// What makes a sandbox runs outside it: variables that an application chose, such as
	// LD_PRELOAD, are set inside.
	cmd.Env = []string{"PATH=/usr/bin:/bin", in.sandbox.Mark()}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{told, shell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		printed.Close()
		log.Close()
		return fmt.Errorf("start bubblewrap: %w", err)
	}
	told.Close()
	output.Close()
	in.output = newOutput(printed, log)
	read := make(chan struct{})
	p.owner.running.Go(func() { in.output.follow(); close(read) })

	// A bubblewrap that is killed before it has tied its first process to itself leaves it
	// behind. So nobody kills it before that process is known.
	_, serr := in.sandbox.Started(info, cmd.Process.Pid)
	p.owner.running.Go(func() {
		err := cmd.Wait()
		if cerr := in.sandbox.Close(); cerr != nil {
			p.owner.Log.Error("could not end an instance", "instance", in.id, "err", cerr)
		}
		<-read
		in.ended(err)
	})
	if serr != nil {
		<-in.dead
		return fmt.Errorf("bubblewrap could not make a sandbox: %s", cmp.Or(in.output.lastLine(), serr.Error()))
	}
	return nil
}

// openLog opens the log of what it prints.
func (in *instance) openLog() (*logfile.File, error) {
	a := in.of.function.app
	dir, _ := a.logs.Load().(string)
	path := filepath.Join(dir, in.id+".log")
	log, err := logfile.Open(path)
	if err != nil {
		return nil, err
	}
	log.Wrote = func() { a.printed.Notify(printing) }
	log.Note("started %s of release %d", in.id, in.of.version.Release)
	// Old logs are only in the way; they are tried again with the next start.
	_ = logfile.Prune(dir)
	return log, nil
}

// environment is that of Lambda, with what the function declares.
func (in *instance) environment(address string) []string {
	p := in.of
	all := map[string]string{
		"PATH":   "/usr/local/bin:/usr/bin:/bin",
		"HOME":   "/tmp",
		"TMPDIR": "/tmp",
		"LANG":   "en_US.UTF-8",
		"TZ":     ":UTC",

		"AWS_LAMBDA_RUNTIME_API":          address,
		"AWS_LAMBDA_FUNCTION_NAME":        p.function.name,
		"AWS_LAMBDA_FUNCTION_VERSION":     strconv.Itoa(p.version.Number),
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.Itoa(p.version.Config.Memory),
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME":       "/aws/lambda/" + p.function.name,
		"AWS_LAMBDA_LOG_STREAM_NAME":      in.id,
		"AWS_EXECUTION_ENV":               "AWS_Lambda_" + p.version.Config.Runtime,
		"AWS_REGION":                      region,
		"AWS_DEFAULT_REGION":              region,
		"_HANDLER":                        p.version.Config.Handler,
		"LAMBDA_TASK_ROOT":                taskRoot,
		"LAMBDA_RUNTIME_DIR":              runtimeDir,
		// What the AWS SDK calls Lambda and CodeDeploy by: functions call one another, and
		// hooks report. Nothing here checks signatures.
		"AWS_ACCESS_KEY_ID":           "local",
		"AWS_SECRET_ACCESS_KEY":       "local",
		"AWS_ENDPOINT_URL_LAMBDA":     p.function.app.invokeURL(),
		"AWS_ENDPOINT_URL_CODEDEPLOY": p.function.app.invokeURL(),
	}
	for name, value := range p.version.Config.Environment {
		all[name] = value
	}
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// ended notes that all of the process has ended.
func (in *instance) ended(err error) {
	in.mu.Lock()
	what := "Runtime exited without providing a reason"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		// The shell says of a signal 128 and its number.
		if code := exit.ExitCode(); code > 128 && code < 128+65 {
			what = "Runtime exited with error: signal: " + syscall.Signal(code-128).String()
		} else {
			what = fmt.Sprintf("Runtime exited with error: exit status %d", code)
		}
	}
	in.outcome = cmp.Or(in.killed, what)
	in.output.log.Note("%s has ended: %s", in.id, in.outcome)
	in.output.log.Close()
	current := in.current
	in.current = nil
	close(in.dead)
	in.mu.Unlock()
	if current != nil {
		current.answer <- answer{err: &functionError{
			Type:    "Runtime.ExitError",
			Message: fmt.Sprintf("RequestId: %s Error: %s", current.id, what),
		}}
	}
	_ = in.server.Close() // nobody is left to talk to
	in.of.lost(in)
}

// kill ends all of it at once; SIGTERM is not sent, as Lambda does not.
func (in *instance) kill(why string) {
	in.mu.Lock()
	if in.killed == "" {
		in.killed = why
	}
	in.mu.Unlock()
	in.sandbox.Kill()
}

// initialized waits until an instance that was just started asks for its first event. It
// is ended if it does not.
func (in *instance) initialized(ctx context.Context) *functionError {
	late := time.NewTimer(in.of.owner.initTimeout)
	defer late.Stop()
	select {
	case <-in.ready:
		return nil
	case <-in.dead:
	case <-ctx.Done():
		in.kill("it is not needed any more")
		return &functionError{Type: "Sandbox.Stopped", Message: "the server is stopping"}
	case <-late.C:
		in.kill("initialization timed out")
		<-in.dead
		return &functionError{
			Type: "Sandbox.Timedout",
			Message: fmt.Sprintf("initialization timed out after %.2f seconds: it never asked for an event",
				in.of.owner.initTimeout.Seconds()),
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.initErr != nil {
		return in.initErr
	}
	message := in.outcome
	if last := in.output.lastLine(); last != "" {
		message += ": " + last
	}
	return &functionError{Type: "Runtime.ExitError", Message: message}
}

// errNotTaken is that an instance ended, or did something else for too long, before it took
// an event: another may have it.
var errNotTaken = errors.New("the instance did not take the event")

// invoke has an instance that is ready deal with an event. Once it has taken it there is an
// answer, whatever happens; keep says whether the instance is fit for another event.
func (in *instance) invoke(ctx context.Context, i *invocation) (a answer, keep bool, err error) {
	timer := time.NewTimer(i.timeout)
	defer timer.Stop()
	select {
	case in.next <- i:
	case <-in.dead:
		return a, false, errNotTaken
	case <-timer.C:
		// It was to ask for this event after its answer to the one before.
		in.kill("timed out")
		<-in.dead
		return a, false, errNotTaken
	}
	select {
	case <-i.taken:
	case <-in.dead:
		select {
		case <-i.taken:
		default:
			return a, false, errNotTaken // it ended with the event on its way
		}
	}
	timer.Reset(i.timeout)
	select {
	case a = <-i.answer:
		return a, a.stream == nil, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	in.mu.Lock()
	if in.current == i {
		in.current = nil
	}
	in.mu.Unlock()
	in.kill("timed out")
	<-in.dead
	if ctx.Err() != nil {
		return answer{err: &functionError{Type: "Sandbox.Stopped", Message: "the server is stopping"}}, false, nil
	}
	return answer{err: timedOut(i)}, false, nil
}

func timedOut(i *invocation) *functionError {
	return &functionError{
		Type:    "Sandbox.Timedout",
		Message: fmt.Sprintf("RequestId: %s Error: Task timed out after %.2f seconds", i.id, i.timeout.Seconds()),
	}
}

// region is what functions are told of where they are.
const region = "local"

// requestID is a random UUID, as those of Lambda are.
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

func traceID() string {
	var b [20]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("Root=1-%08x-%s;Parent=%s;Sampled=0", time.Now().Unix(), hex.EncodeToString(b[:12]),
		hex.EncodeToString(b[12:]))
}

func oneLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return string(bytes.ToValidUTF8([]byte(line[:min(len(line), 300)]), nil))
}
