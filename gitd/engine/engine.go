// Package engine speaks to the container engine of a machine, Docker or Podman, by
// Docker's Engine API.
//
// Engine does single deeds and says what an answer means: an error is an *Error with
// a Reason wherever somebody can do something about it. Wait and Logs go on when the
// engine was away meanwhile. Nothing outside this package knows the client's types.
//
// It leaves to others which containers there should be.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// Engine is a container engine. Its methods may be called by several goroutines.
type Engine struct {
	Host string // such as "unix:///run/docker.sock"

	api    *client.Client
	podman atomic.Pointer[bool] // whether it is Podman; nil: it was not asked yet
}

// Error is what an engine, or a registry that it asked, could not do.
type Error struct {
	Reason Reason
	What   string // for people, with what to do
	Err    error  // nil: there is nothing to add
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return e.What + ": " + plain(e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the reason of an error, "" when it has none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// plain is an engine's error on one line, without what it says first every time.
func plain(err error) string {
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	if line, _, more := strings.Cut(strings.TrimSpace(text), "\n"); more {
		text = line
	}
	if r := []rune(text); len(r) > 300 {
		text = string(r[:300]) + "…"
	}
	return text
}

// Sockets are where engines listen, the first one that is there counts.
func Sockets() []string {
	sockets := []string{"/run/docker.sock", "/var/run/docker.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "docker.sock"), filepath.Join(dir, "podman", "podman.sock"))
	}
	return append(sockets, "/run/podman/podman.sock")
}

// Find is the engine of this machine: that of DOCKER_HOST, or the first whose socket
// is there.
func Find() (*Engine, error) {
	if host := os.Getenv(client.EnvOverrideHost); host != "" {
		return Open(host)
	}
	for _, socket := range Sockets() {
		if info, err := os.Stat(socket); err == nil && info.Mode()&os.ModeSocket != 0 {
			return Open("unix://" + socket)
		}
	}
	return nil, &Error{
		Reason: ReasonEngineMissing,
		What: "there is no container engine on this machine (no DOCKER_HOST, and no socket of Docker or Podman); " +
			"install one, such as with apt-get install docker.io, and have the agent's user in the group docker",
	}
}

// Open is the engine at an address. It need not answer yet.
func Open(host string) (*Engine, error) {
	at, err := url.Parse(host)
	if err == nil && at.Scheme != "unix" && !loopback(at.Hostname()) {
		err = errors.New("it is on another machine, whose ports this one does not have")
	}
	var api *client.Client
	if err == nil {
		api, err = client.New(client.WithTLSClientConfigFromEnv(), client.WithHost(host), client.WithAPIVersionFromEnv())
	}
	if err != nil {
		return nil, &Error{
			Reason: ReasonEngineMissing,
			What: fmt.Sprintf(
				"the container engine at %q cannot be used; correct DOCKER_HOST, such as unix:///run/docker.sock", host),
			Err: err,
		}
	}
	return &Engine{Host: host, api: api}, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Close lets go of the connections to the engine.
func (e *Engine) Close() error { return e.api.Close() }

// local says whether the engine's processes are this machine's for certain.
func (e *Engine) local() bool { return strings.HasPrefix(e.Host, "unix:") }

// Version is which engine it is, for people, once it answers.
func (e *Engine) Version(ctx context.Context) (string, error) {
	name, version, err := e.version(ctx)
	if err != nil {
		return "", err
	}
	return name + " " + version + " at " + e.Host, nil
}

func (e *Engine) version(ctx context.Context) (name, version string, err error) {
	v, err := e.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", "", e.failure(ctx, "ask the container engine for its version", err)
	}
	for _, c := range v.Components {
		if strings.Contains(c.Name, "Podman") {
			return "Podman", v.Version, nil
		}
	}
	return "Docker", v.Version, nil
}

// Podman says whether the engine is Podman, which lacks some of what Docker's has.
func (e *Engine) Podman(ctx context.Context) (bool, error) {
	if known := e.podman.Load(); known != nil {
		return *known, nil
	}
	name, _, err := e.version(ctx)
	if err != nil {
		return false, err
	}
	is := name == "Podman"
	e.podman.Store(&is)
	return is, nil
}

// Ping says whether the engine answers.
func (e *Engine) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := e.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return e.failure(ctx, "reach the container engine", err)
	}
	return nil
}

const (
	pingTimeout = 10 * time.Second
	// awayPause is how long it takes to try again while an engine does not answer.
	awayPause = 500 * time.Millisecond
)

// failure is what an error of the client means.
func (e *Engine) failure(ctx context.Context, doing string, err error) error {
	switch {
	case ctx.Err() != nil && context.Cause(ctx) != nil && !errors.Is(context.Cause(ctx), context.Canceled):
		return &Error{Reason: ReasonEngineUnavailable, What: "cannot " + doing, Err: context.Cause(ctx)}
	case errors.Is(err, syscall.EACCES):
		return &Error{
			Reason: ReasonEngineDenied,
			What: fmt.Sprintf(
				"cannot %s: the agent's user may not use %s; add it to the group of that file, such as with usermod -aG docker USER, "+
					"and start the agent anew", doing, e.Host),
		}
	case away(err):
		return &Error{
			Reason: ReasonEngineUnavailable,
			What: fmt.Sprintf(
				"cannot %s: the container engine at %s does not answer; start it, such as with systemctl start docker",
				doing, e.Host),
		}
	}
	return &Error{Reason: ReasonRefused, What: "the container engine cannot " + doing, Err: err}
}

// away says whether an error is that the engine does not answer.
func away(err error) bool {
	var errno syscall.Errno
	return client.IsErrConnectionFailed(err) || errors.As(err, &errno) || errors.Is(err, os.ErrDeadlineExceeded) ||
		strings.HasSuffix(err.Error(), "EOF") || cerrdefs.IsUnavailable(err)
}

func port(n int) string { return strconv.Itoa(n) + "/tcp" }
