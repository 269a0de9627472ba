package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"

	"github.com/headgate-cd/headgate/gitd/signal"
)

// Spec is a container to be made.
type Spec struct {
	Name   string
	Labels map[string]string
	Image  string // its ID

	Entrypoint, Command []string // nil: the image's
	Env                 []string
	WorkingDir          string
	User                string
	Groups              []string
	Hostname            string
	Init                bool
	StopSignal          string // "" is the image's

	Port     int // that it listens on, 0 for none
	HostPort int // of loopback, by which that is reached

	Network string   // it is in, by name; "" is the engine's usual one
	Aliases []string // by which others in it find the container
	Beside  string   // ID of a container whose network and processes it shares instead, and with which it ends

	Memory, MemoryReservation int64 // bytes; 0 is no limit, as below
	NanoCPUs                  int64
	CPUShares                 int64
	PIDs                      int64
	SharedMem                 int64

	Ulimits         map[string][2]int64 // soft, hard
	ReadOnly        bool
	Tmpfs           map[string]string // options by path
	CapAdd, CapDrop []string
	NoNewPrivs      bool
	Sysctls         map[string]string
	ExtraHosts      []string // name:address
	DNS             []string

	Volumes []Volume
	Binds   []Bind
}

// Bind is a file or directory of the machine that a container sees.
type Bind struct {
	Source, Target string
	Writable       bool
}

// Volume is a volume of the engine, mounted in a container.
type Volume struct {
	Name     string
	Labels   map[string]string // of one that is made
	Target   string
	ReadOnly bool
	NoCopy   bool
	Within   string
	Overlay  Overlay // what it is made of; zero: it is empty
}

// Overlay are directories of the machine: Upper takes what is written over Lower, and
// Work is the kernel's. Their paths have no commas or colons.
type Overlay struct{ Lower, Upper, Work string }

// Bounds of what the engine keeps of what a container prints, until it is read.
var logging = container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "8m", "max-file": "2"}}

// Create makes a container, which does not run yet.
func (e *Engine) Create(ctx context.Context, s Spec) (id string, err error) {
	for _, v := range s.Volumes {
		if v.Within != "" && versions.LessThan(e.api.ClientVersion(), "1.45") {
			return "", &Error{
				Reason: ReasonRefused,
				What:   "this container engine cannot mount a directory of a volume (subpath), Docker 26 can; mount the whole volume, or upgrade it",
			}
		}
	}
	config, host, err := s.configs()
	if err != nil {
		return "", &Error{Reason: ReasonRefused, What: "the container cannot be made", Err: err}
	}
	podman, err := e.Podman(ctx)
	if err != nil {
		return "", err
	}
	if podman {
		if err := s.podman(host); err != nil {
			return "", err
		}
	}
	options := client.ContainerCreateOptions{Name: s.Name, Config: config, HostConfig: host}
	if s.Network != "" {
		host.NetworkMode = container.NetworkMode(s.Network)
	}
	if s.Network != "" && s.Network != "none" { // of which Podman takes no more
		options.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
			s.Network: {Aliases: s.Aliases},
		}}
	}
	if s.Beside != "" {
		host.NetworkMode = container.NetworkMode("container:" + s.Beside)
		host.PidMode = container.PidMode("container:" + s.Beside)
	}
	created, err := e.api.ContainerCreate(ctx, options)
	if err != nil {
		return "", e.failure(ctx, "make the container", err)
	}
	return created.ID, nil
}

// Network has a network of containers be there.
func (e *Engine) Network(ctx context.Context, name string, labels map[string]string) error {
	_, err := e.api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		_, err = e.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Labels: labels})
	}
	if err != nil {
		return e.failure(ctx, "make a network for the application", err)
	}
	return nil
}

// RemoveNetwork removes a network that no container is in.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	_, err := e.api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	return e.failure(ctx, "remove the application's network", err)
}

func (s Spec) configs() (*container.Config, *container.HostConfig, error) {
	config := &container.Config{
		Hostname:   s.Hostname,
		User:       s.User,
		Env:        s.Env,
		Cmd:        s.Command,
		Entrypoint: s.Entrypoint,
		Image:      s.Image,
		WorkingDir: s.WorkingDir,
		Labels:     s.Labels,
		StopSignal: s.StopSignal,
		// Whoever watches the container checks it: by one clock, and with any engine.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	host := &container.HostConfig{
		LogConfig:      logging,
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		ReadonlyRootfs: s.ReadOnly,
		Tmpfs:          s.Tmpfs,
		CapAdd:         s.CapAdd,
		CapDrop:        s.CapDrop,
		GroupAdd:       s.Groups,
		Sysctls:        s.Sysctls,
		ExtraHosts:     s.ExtraHosts,
		ShmSize:        s.SharedMem,
		Resources: container.Resources{
			Memory:            s.Memory,
			MemoryReservation: s.MemoryReservation,
			NanoCPUs:          s.NanoCPUs,
			CPUShares:         s.CPUShares,
		},
	}
	if s.NoNewPrivs {
		host.SecurityOpt = []string{"no-new-privileges:true"}
	}
	if s.Init {
		host.Init = &s.Init
	}
	if s.Memory > 0 {
		host.MemorySwap = s.Memory // what is over is ended, not swapped
	}
	if s.PIDs > 0 {
		host.PidsLimit = &s.PIDs
	}
	for name, limits := range s.Ulimits {
		host.Ulimits = append(host.Ulimits, &units.Ulimit{Name: name, Soft: limits[0], Hard: limits[1]})
	}
	for _, server := range s.DNS {
		ip, err := netip.ParseAddr(server)
		if err != nil {
			return nil, nil, err
		}
		host.DNS = append(host.DNS, ip)
	}
	if s.Port > 0 {
		p, err := network.ParsePort(port(s.Port))
		if err != nil {
			return nil, nil, err
		}
		config.ExposedPorts = network.PortSet{p: {}}
		host.PortBindings = network.PortMap{p: {{
			HostIP:   netip.AddrFrom4([4]byte{127, 0, 0, 1}),
			HostPort: strconv.Itoa(s.HostPort),
		}}}
	}
	host.Mounts = s.mounts()
	return config, host, nil
}

func (s Spec) mounts() (all []mount.Mount) {
	for _, v := range s.Volumes {
		options := &mount.VolumeOptions{
			NoCopy:  v.NoCopy,
			Labels:  v.Labels,
			Subpath: v.Within,
		}
		if o := v.Overlay; o != (Overlay{}) {
			options.DriverConfig = &mount.Driver{Name: "local", Options: map[string]string{
				"type":   "overlay",
				"device": "overlay",
				"o":      "lowerdir=" + o.Lower + ",upperdir=" + o.Upper + ",workdir=" + o.Work,
			}}
		}
		all = append(all, mount.Mount{
			Type:          mount.TypeVolume,
			Source:        v.Name,
			Target:        v.Target,
			ReadOnly:      v.ReadOnly,
			VolumeOptions: options,
		})
	}
	for _, b := range s.Binds {
		all = append(all,
			mount.Mount{Type: mount.TypeBind, Source: b.Source, Target: b.Target, ReadOnly: !b.Writable})
	}
	return all
}

// podman says what Podman takes in other words than Docker, or in none. Of a volume it takes
// the options of an overlay and mounts none; of a mount it reads a comma in the path as
// options. It takes both as it takes them on its own command line.
func (s Spec) podman(host *container.HostConfig) error {
	host.Mounts = slices.DeleteFunc(host.Mounts, func(m mount.Mount) bool {
		return m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil || strings.Contains(m.Source, ",")
	})
	for _, v := range s.Volumes {
		if o := v.Overlay; o != (Overlay{}) {
			host.Binds = append(host.Binds, o.Lower+":"+v.Target+":O,upperdir="+o.Upper+",workdir="+o.Work)
		}
	}
	for _, b := range s.Binds {
		switch {
		case !strings.Contains(b.Source, ","):
		case strings.Contains(b.Source, ":"):
			return &Error{
				Reason: ReasonRefused,
				What:   fmt.Sprintf("Podman mounts no directory with a comma and a colon in its path: %q", b.Source),
			}
		default:
			bind := b.Source + ":" + b.Target
			if !b.Writable {
				bind += ":ro"
			}
			host.Binds = append(host.Binds, bind)
		}
	}
	return nil
}

// Start starts a container that was made.
func (e *Engine) Start(ctx context.Context, id string) error {
	_, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{})
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "port is already allocated"),
		strings.Contains(err.Error(), "address already in use"):
		return &Error{
			Reason: ReasonPortTaken,
			What:   "the port by which the container is reached was taken by another program meanwhile; another one is tried",
			Err:    err,
		}
	}
	return e.failure(ctx, "start the container", err)
}

// Running is a container that runs.
type Running struct {
	PID     int
	Image   string     // its ID
	Address netip.Addr // its own, where the machine reaches it; not valid: it has none
}

// Inspect is a container, if it runs.
func (e *Engine) Inspect(ctx context.Context, id string) (r Running, running bool, err error) {
	found, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	switch {
	case cerrdefs.IsNotFound(err):
		return r, false, nil
	case err != nil:
		return r, false, e.failure(ctx, "look at the container", err)
	}
	c := found.Container
	if c.State == nil || !c.State.Running {
		return r, false, nil
	}
	r = Running{PID: c.State.Pid, Image: c.Image}
	if c.NetworkSettings != nil {
		for _, n := range c.NetworkSettings.Networks {
			if n != nil && n.IPAddress.IsValid() && !n.IPAddress.IsUnspecified() {
				r.Address = n.IPAddress
			}
		}
	}
	return r, true, nil
}

// End is how a container ended.
type End struct {
	Code    int    // its exit status, above 128 after a signal
	Reason  Reason // "" for one that ended by itself
	Message string // of the engine, why it did not run at all
}

// Wait waits until a container has ended, also while the engine is away and back.
func (e *Engine) Wait(ctx context.Context, id string) (End, error) {
	for {
		waiting, cancel := context.WithCancel(ctx)
		result := e.api.ContainerWait(waiting, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
		var err error
		code := -1
		select {
		case r := <-result.Result:
			code = int(r.StatusCode)
		case err = <-result.Error:
		case <-ctx.Done():
			err = ctx.Err()
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return End{}, ctx.Err()
		case cerrdefs.IsNotFound(err):
			return End{Code: -1, Reason: ReasonRemoved}, nil
		}
		if end, ended := e.ended(ctx, id, code); ended {
			return end, nil
		}
		if !signal.Sleep(ctx, awayPause) {
			return End{}, ctx.Err()
		}
	}
}

// ended is how a container ended, if it has.
func (e *Engine) ended(ctx context.Context, id string, code int) (End, bool) {
	found, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return End{Code: code, Reason: ReasonRemoved}, true
	}
	if err != nil || found.Container.State == nil {
		return End{}, false
	}
	s := found.Container.State
	if s.Running || s.Status == container.StateCreated && s.Error == "" {
		return End{}, false
	}
	end := End{Code: s.ExitCode, Message: s.Error}
	switch {
	case s.Status == container.StateRemoving:
		end.Reason = ReasonRemoved
	case s.OOMKilled:
		end.Reason = ReasonOutOfMemory
	case e.killed(ctx, id):
		end.Reason = ReasonStoppedByHand
		// Who removes a container that runs has it ended first.
		signal.Sleep(ctx, removalPause)
		if _, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); cerrdefs.IsNotFound(err) {
			end.Reason = ReasonRemoved
		}
	}
	return end, true
}

// removalPause is how long it takes from the end of a container that is removed until
// it is gone, on a machine that has nothing else to do.
const removalPause = 300 * time.Millisecond

// killedPause is how long Podman is given to say that it was asked to end a container.
const killedPause = 300 * time.Millisecond

// killed says whether the engine was asked to end a container, as far as it remembers.
func (e *Engine) killed(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	now := time.Now()
	until := now
	if podman, err := e.Podman(ctx); err == nil && podman {
		// It says what it was asked to do a little after it did that, and stops reading what it has written down
		// when this time comes, wherever it is.
		until = now.Add(killedPause)
	}
	asked := e.api.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(now.Add(-time.Hour).Unix(), 10),
		Until:   fmt.Sprintf("%d.%09d", until.Unix(), until.Nanosecond()),
		Filters: make(client.Filters).Add("container", id).Add("event", string(events.ActionKill)),
	})
	for {
		select {
		case <-asked.Messages:
			return true
		case <-asked.Err:
			return false
		}
	}
}

// Signal sends a signal to the first process of a container. It is no error when that
// has ended, which is said.
func (e *Engine) Signal(ctx context.Context, id, signal string) (sent bool, err error) {
	_, err = e.api.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: signal})
	switch {
	case err == nil:
		return true, nil
	case cerrdefs.IsNotFound(err), cerrdefs.IsConflict(err):
		return false, nil
	}
	return false, e.failure(ctx, "stop the container", err)
}

// Remove ends a container, if it runs, and removes it with its own unnamed volumes.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || cerrdefs.IsNotFound(err) || strings.Contains(err.Error(), "is already in progress") {
		return nil
	}
	return e.failure(ctx, "remove the container", err)
}

// Found is a container that was found by its labels.
type Found struct {
	ID      string
	Name    string
	Running bool
	Labels  map[string]string
}

// List are the containers that have a label, whether or not they run.
func (e *Engine) List(ctx context.Context, label, value string) (all []Found, err error) {
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{
		All:     true,
		Filters: make(client.Filters).Add("label", label+"="+value),
	})
	if err != nil {
		return nil, e.failure(ctx, "list containers", err)
	}
	for _, c := range list.Items {
		f := Found{ID: c.ID, Running: c.State == container.StateRunning || c.State == container.StatePaused, Labels: c.Labels}
		if len(c.Names) > 0 {
			f.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		all = append(all, f)
	}
	return all, nil
}

// ErrNoUser is that a container has no such user.
var ErrNoUser = errors.New("there is no such user in the container")

// VolumeDirs are where the engine has the volumes of a container on its machine.
func (e *Engine) VolumeDirs(ctx context.Context, id string) (dirs []string, err error) {
	found, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return nil, e.failure(ctx, "look at the container", err)
	}
	for _, m := range found.Container.Mounts {
		if m.Type == mount.TypeVolume && m.Source != "" {
			dirs = append(dirs, m.Source)
		}
	}
	return dirs, nil
}

// Written is how many bytes a container has written that are in none of its mounts.
func (e *Engine) Written(ctx context.Context, id string) (int64, error) {
	found, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{Size: true})
	if err != nil {
		return 0, e.failure(ctx, "measure the container", err)
	}
	if found.Container.SizeRw == nil {
		return 0, nil
	}
	return *found.Container.SizeRw, nil
}
