package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
)

// Worker is the process that works for a Supervisor: it runs the engine and answers
// the protocol.
type Worker struct {
	Dir     string // the agent's
	Engine  *services.Target
	Program string  // version of headgate, for people
	Uplink  *Uplink // the server, when that is elsewhere; nil: it is of this machine
	Hosts   Engine  // what is deployed for that server
	// Prove verifies what that server declares by the keys that count, and returns those that
	// count from then on.
	Prove func(keys Keys, d *target.Declared, p Proof, fence int) (Keys, error)
	// Receive gets a program of that server by its digest and its size, and says where it is.
	Receive func(ctx context.Context, digest string, size int64) (path string, err error)
	Log     *slog.Logger

	channel  *channel
	began    time.Time
	digest   string
	trial    bool // it has to be heard by the server, or gives way to the program before
	settings atomic.Pointer[Settings]

	proving  sync.Mutex // guards the rest, and Uplink.Keys
	refusals map[target.Key]Refusal
}

// Run works until the supervisor has it leave or stop, or is gone: then everything is
// left as it is.
func (w *Worker) Run() error {
	// The supervisor says when to end, and why.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	var err error
	if w.channel, err = openChannel(os.NewFile(channelFD, "channel")); err != nil {
		return fmt.Errorf("this is for the agent itself to start: %w", err)
	}
	defer w.channel.close()
	socket := os.NewFile(socketFD, "socket")
	on, err := net.FileListener(socket)
	socket.Close()
	if err != nil {
		return fmt.Errorf("open the agent's socket: %w", err)
	}
	defer on.Close()
	if w.digest, err = DigestOf("/proc/self/exe"); err != nil {
		return err
	}
	if err := w.readSettings(); err != nil {
		return w.failed(err)
	}
	if err := w.Engine.Readable(); err != nil {
		return w.failed(err)
	}
	w.Engine.Listen = w.listen
	w.Engine.Unlisten = w.unlisten
	w.Engine.Held = func(port int) bool { return slices.Contains(w.settings.Load().HeldPorts, port) }
	if err := w.channel.say(message{Op: opReady}); err != nil {
		return err
	}
	m, err := w.channel.receive()
	if err != nil || m.Op != opGo {
		return nil // it is not wanted
	}
	w.began, w.trial = time.Now(), m.Trial
	return w.work(on)
}

// failed tells the supervisor why it cannot begin.
func (w *Worker) failed(err error) error {
	_ = w.channel.say(message{Op: opFailed, Error: err.Error()}) // it hears of the end
	return err
}

func (w *Worker) work(on net.Listener) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var all, line sync.WaitGroup
	failed := make(chan error, 2)
	all.Go(func() {
		if err := w.Engine.Run(ctx); err != nil {
			failed <- err
		}
	})
	heard := make(chan string, 1)
	go func() { // ends with the channel
		for {
			m, err := w.channel.receive()
			if err != nil {
				m.Op = "gone"
			}
			select {
			case heard <- m.Op:
			default:
			}
			if err != nil {
				return
			}
		}
	}()

	select {
	case <-w.Engine.Begun():
	case err := <-failed:
		return w.failed(err)
	}
	streams, endStreams := context.WithCancel(context.Background())
	defer endStreams()
	engine := Engine(w.Engine)
	if w.Uplink != nil {
		engine = w.Hosts
	}
	server := &http.Server{
		BaseContext: func(net.Listener) context.Context { return streams },
		Handler: &Handler{
			Engine:   engine,
			Hello:    w.hello,
			Settings: w.keepSettings,
			Control:  w.control,
			Log:      w.Log,
		},
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(w.Log.Handler(), slog.LevelDebug),
	}
	go func() { _ = server.Serve(on) }() // until it is closed
	hangUp := func() {
		endStreams()
		late, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		if server.Shutdown(late) != nil {
			server.Close()
		}
		line.Wait()
	}
	if w.Uplink != nil {
		w.Uplink.Log = w.Log
		w.Uplink.Handler = &Handler{
			Engine:  w.Hosts,
			Prove:   w.Verify,
			Program: w.takeProgram,
			Hello: func() Hello {
				w.reported()
				return w.hello()
			},
			Settings: w.keepSettings,
			Control:  w.remoteControl,
			Log:      w.Log,
		}
		line.Go(func() { w.Uplink.Run(streams) })
		all.Go(func() {
			if err := w.Hosts.Run(ctx); err != nil {
				failed <- err
			}
		})
	}
	w.Log.Info("working", "program", w.Program, "pid", os.Getpid())

	var err error
	var op string
	select {
	case op = <-heard:
	case err = <-failed:
	}
	switch {
	case err != nil:
		hangUp()
		cancel(services.ErrLeave) // what runs goes on: another worker takes it over
		all.Wait()
		return w.failed(err)
	case op == opStop:
		cancel(nil)
		all.Wait()
		hangUp()
	default: // opLeave, or the supervisor is gone
		hangUp()
		cancel(services.ErrLeave)
		<-w.Engine.Left()
		_ = w.channel.say(message{Op: opLeft}) // it may be gone
		all.Wait()
	}
	return nil
}

// answerTimeout is how long it may take to end what somebody is being told.
const answerTimeout = time.Second

func (w *Worker) hello() Hello {
	h := Hello{
		Version:  Version,
		Program:  w.Program,
		Digest:   w.digest,
		PID:      os.Getppid(),
		Worker:   os.Getpid(),
		Since:    w.began,
		Running:  w.Engine.Running(),
		Drained:  w.Engine.Drained(),
		Unproven: w.Refused(),
	}
	if w.Uplink != nil {
		kept := readProgram(w.Dir)
		h.Platform, h.Refused, h.WhyRefused = Platform, kept.Refused, kept.Why
	}
	return h
}

// listen has the supervisor open an address.
func (w *Worker) listen(address string) (net.Listener, error) {
	m, err := w.channel.ask(message{Op: opListen, Address: address})
	if err != nil {
		return nil, err
	}
	if m.file == nil {
		return nil, errors.New("the agent's supervisor sent no listener")
	}
	defer m.file.Close()
	return net.FileListener(m.file)
}

func (w *Worker) unlisten(address string) {
	if _, err := w.channel.ask(message{Op: opClose, Address: address}); err != nil {
		w.Log.Warn("cannot close an address", "address", address, "err", err)
	}
}

// control does what an operator asks for.
func (w *Worker) control(_ context.Context, what, argument string) error {
	switch what {
	case "stop":
		if err := repo.WriteFile(filepath.Join(w.Dir, stoppedName), nil, 0o600); err != nil {
			return err
		}
		return w.channel.say(message{Op: opStop})
	case "drain":
		return w.Engine.Drain(true)
	case "resume":
		return w.Engine.Drain(false)
	case "upgrade":
		_, err := w.channel.ask(message{Op: opUpgrade, Program: argument})
		return err
	}
	return fmt.Errorf("an agent cannot %s", what)
}

// remoteControl does what a server elsewhere asks for, who may not stop the agent.
func (w *Worker) remoteControl(ctx context.Context, what, argument string) error {
	if what != "drain" && what != "resume" {
		return fmt.Errorf("an agent does not %s because a server on another machine says so", what)
	}
	return w.control(ctx, what, argument)
}

// keptSettings is settings.json.
type keptSettings struct {
	Version int `json:"version"`
	Settings
}

// readSettings reads what the agent was told last, which holds until it is told again.
func (w *Worker) readSettings() error {
	data, err := os.ReadFile(filepath.Join(w.Dir, settingName))
	var k keptSettings
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Log.Error("the settings cannot be read, going on without until they are told again", "err", err)
	}
	w.take(k.Settings)
	return nil
}

func (w *Worker) take(s Settings) {
	w.settings.Store(&s)
	w.Engine.Trust(proxy.Trusted(s.TrustedProxies))
	w.Engine.SetHost(s.Host)
	w.Engine.SetMetrics(s.Metrics)
	w.Engine.SetAuthority(s.ACMEDirectory)
	if s.Address.IsValid() {
		w.Engine.SetAddress(s.Address)
	}
}

func (w *Worker) keepSettings(s Settings) error {
	data, err := json.Marshal(keptSettings{1, s})
	if err != nil {
		return err
	}
	if err := repo.WriteFile(filepath.Join(w.Dir, settingName), data, 0o600); err != nil {
		return err
	}
	w.take(s)
	return nil
}
