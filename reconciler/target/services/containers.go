package services

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Labels of containers, by which they are found by people and by the agent.
const (
	labelAgent       = "headgate.agent" // of which agent: agentName
	labelRepository  = "headgate.repository"
	labelEnvironment = "headgate.environment"
	labelApplication = "headgate.application"
	labelService     = "headgate.service"
	labelInstance    = "headgate.instance"
	labelVersion     = "headgate.version"
	labelRelease     = "headgate.release"
	labelCommit      = "headgate.commit"   // of the environment
	labelSequence    = "headgate.sequence" // its place
	labelImage       = "headgate.image"    // as it was declared
)

// containers runs instances as containers of the machine's engine.
type containers struct {
	owner *Target
	host  string // of the engine; "" finds it

	mu     sync.Mutex
	engine *engine.Engine  // nil: none was found yet
	own    map[string]bool // names of containers that are on record, or about to be

	networks sync.Mutex // held while one is made: an engine makes two of one name
}

// engineTimeout is how long an engine that does not answer is waited for by what is
// to be started.
const engineTimeout = time.Minute

// open finds the engine, once there is one.
func (c *containers) open() (*engine.Engine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engine != nil {
		return c.engine, nil
	}
	var err error
	if c.host != "" {
		c.engine, err = engine.Open(c.host)
	} else {
		c.engine, err = engine.Find()
	}
	if err != nil {
		c.engine = nil
	}
	return c.engine, err
}

func (c *containers) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engine != nil {
		_ = c.engine.Close() // only connections that nobody uses
		c.engine = nil
	}
}

// agentName tells the containers of this agent from those of another one on the
// machine: by its directory.
func (t *Target) agentName() string {
	dir := t.Dir
	if d, err := filepath.EvalSymlinks(dir); err == nil {
		dir = d
	}
	if d, err := filepath.Abs(dir); err == nil {
		dir = d
	}
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:8])
}

// answering is the engine once it answers, waited for a while.
func (c *containers) answering(ctx context.Context, in *instance) (*engine.Engine, error) {
	late := time.Now().Add(engineTimeout)
	for {
		e, err := c.open()
		if err == nil {
			err = e.Ping(ctx)
		}
		if err == nil {
			return e, nil
		}
		if engine.ReasonOf(err) != engine.ReasonEngineUnavailable {
			if _, resolved := in.app.images.known(in.what); !resolved {
				return nil, hopeless{err}
			}
			return nil, err
		}
		if time.Now().After(late) {
			return nil, err
		}
		in.wait(err)
		if !signal.Sleep(ctx, time.Second) {
			return nil, err
		}
	}
}

func (c *containers) prepare(ctx context.Context, in *instance) (from basis, release func(), err error) {
	release = func() {}
	if in.found != nil {
		if in.found.Image != nil {
			from.image = *in.found.Image
		}
		return from, release, nil
	}
	e, err := c.answering(ctx, in)
	if err != nil {
		return from, nil, err
	}
	ref, err := interpolate(in.version.Service.Container.Image, in.variables())
	if err != nil {
		return from, nil, hopeless{err}
	}
	digest, own := ownImage(in.version, ref)
	if own {
		from.image, err = in.app.images.load(ctx, e, in, digest)
	} else {
		from.image, err = in.app.images.resolve(ctx, e, in, ref)
	}
	if err != nil {
		return from, nil, err
	}
	return from, release, nil
}

// removeNetwork removes the network of an application that is gone.
func (c *containers) removeNetwork(a *app) {
	if !a.networked {
		return
	}
	e, err := c.open()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	if err := e.RemoveNetwork(ctx, a.network()); err != nil {
		c.owner.Log.Warn("cannot remove a network", "network", a.network(), "err", err)
	}
}

// spec is the container of an instance.
func (in *instance) spec(from image, port int, vars map[string]string) (s engine.Spec, err error) {
	v := in.version
	c, k := v.Service.Container, in.app.home
	s = engine.Spec{
		Image:             from.ID,
		WorkingDir:        v.Service.WorkingDir,
		User:              c.User,
		Groups:            c.Groups,
		Hostname:          c.Hostname,
		Init:              c.Init,
		Port:              c.Port,
		HostPort:          port,
		Network:           in.app.network(),
		Aliases:           append([]string{v.Service.Name}, c.Aliases...),
		Memory:            c.Limits.Memory,
		MemoryReservation: c.Limits.MemoryReservation,
		NanoCPUs:          int64(c.Limits.CPUs * 1e9),
		CPUShares:         int64(c.Limits.CPUShares),
		PIDs:              c.Limits.PIDs,
		SharedMem:         c.SharedMem,
		Ulimits:           map[string][2]int64{},
		ReadOnly:          c.ReadOnly,
		Tmpfs:             map[string]string{},
		CapAdd:            c.CapAdd,
		CapDrop:           c.CapDrop,
		NoNewPrivs:        c.NoNewPrivs,
		Sysctls:           c.Sysctls,
		DNS:               c.DNS,
		Labels: map[string]string{
			labelAgent:       in.app.owner.agentName(),
			labelRepository:  k.Repository,
			labelEnvironment: v.Environment,
			labelApplication: k.Application,
			labelService:     v.Service.Name,
			labelInstance:    in.id,
			labelVersion:     in.what,
			labelRelease:     strconv.Itoa(v.Release.Number),
			labelCommit:      in.commit,
			labelSequence:    strconv.Itoa(in.sequence),
			labelImage:       c.Image,
		},
	}
	if s.Hostname == "" {
		s.Hostname = in.id
	}
	if v.Service.StopSignal != 0 {
		s.StopSignal = strconv.Itoa(int(v.Service.StopSignal))
	}
	for name, limit := range c.Ulimits {
		s.Ulimits[name] = [2]int64{limit.Soft, limit.Hard}
	}
	for _, t := range c.Tmpfs {
		mode := t.Mode
		if mode == 0 {
			mode = 0o1777
		}
		options := fmt.Sprintf("mode=%o", mode)
		if t.Size > 0 {
			options += ",size=" + strconv.FormatInt(t.Size, 10)
		}
		s.Tmpfs[t.Target] = options
	}
	for _, h := range c.ExtraHosts {
		s.ExtraHosts = append(s.ExtraHosts, h.Name+":"+h.Address)
	}
	for name, text := range c.Labels {
		if _, ours := s.Labels[name]; ours {
			continue
		}
		if s.Labels[name], err = interpolate(text, vars); err != nil {
			return s, err
		}
	}
	if c.Entrypoint != nil {
		if s.Entrypoint, err = interpolateAll(c.Entrypoint, vars); err != nil {
			return s, err
		}
	}
	if v.Service.Command != nil {
		if s.Command, err = interpolateAll(v.Service.Command, vars); err != nil {
			return s, err
		}
	}
	env := map[string]string{}
	for name, text := range v.Service.Environment {
		if env[name], err = interpolate(text, vars); err != nil {
			return s, err
		}
	}
	for name, text := range vars {
		if _, declared := env[name]; !declared { // PORT may be
			env[name] = text
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		s.Env = append(s.Env, name+"="+env[name])
	}
	for i, m := range c.Mounts {
		if m.Volume != "" {
			s.Volumes = append(s.Volumes, engine.Volume{
				Name:     in.app.network() + "." + m.Volume,
				Labels:   in.app.labels(),
				Target:   m.Target,
				ReadOnly: m.ReadOnly,
				NoCopy:   m.NoCopy,
				Within:   m.Within,
			})
			continue
		}
		s.Binds = append(s.Binds, engine.Bind{Source: filepath.Join(in.app.file(in.id, ".files"), strconv.Itoa(i)),
			Target: m.Target})
	}
	return s, nil
}

// labels are those of what all instances of the application share.
func (a *app) labels() map[string]string {
	return map[string]string{
		labelAgent:       a.owner.agentName(),
		labelRepository:  a.home.Repository,
		labelEnvironment: a.home.Environment,
		labelApplication: a.home.Application,
	}
}

// network is the name of the network that the containers of the application share, in
// which they find each other by the names of services.
func (a *app) network() string {
	return fmt.Sprintf("headgate-%s-%s.%s.%s", a.owner.agentName(), a.home.Repository, a.home.Environment,
		a.home.Application)
}

// writeFiles writes the files of the environment's directory that a container sees.
func writeFiles(dir string, mounts []Mount) error {
	for i, m := range mounts {
		if m.Volume != "" {
			continue
		}
		at := filepath.Join(dir, strconv.Itoa(i))
		files := map[string][]byte{"": m.File}
		if m.Directory != nil {
			files = m.Directory
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
		}
		for name, content := range files {
			if err := m.write(at, name, content); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Mount) write(top, name string, content []byte) error {
	file := filepath.Join(top, filepath.FromSlash(name))
	if name != "" && !filepath.IsLocal(name) {
		return fmt.Errorf("%q is not a file below the directory", name)
	}
	mode := os.FileMode(m.Mode)
	if mode == 0 {
		mode = 0o444
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, content, mode); err != nil {
		return err
	}
	if err := os.Chmod(file, mode); err != nil {
		return err
	}
	if m.UID != 0 || m.GID != 0 {
		return os.Chown(file, m.UID, m.GID)
	}
	return nil
}

func (c *containers) start(ctx context.Context, cmd command, record func(started) error) (_ workload, err error) {
	e, err := c.open()
	if err != nil {
		return nil, err
	}
	// A program that stops meanwhile waits for the answer: it has to know what there is.
	answer, cancel := context.WithTimeout(context.WithoutCancel(ctx), engineTimeout)
	defer cancel()
	if err := writeFiles(cmd.files, cmd.mounts); err != nil {
		return nil, err
	}
	s := cmd.container
	var suffix [4]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return nil, err
	}
	s.Name = fmt.Sprintf("%s-%s-%s-%s", s.Labels[labelApplication], s.Labels[labelEnvironment], s.Labels[labelInstance],
		hex.EncodeToString(suffix[:]))
	c.know(s.Name)
	c.networks.Lock()
	err = e.Network(answer, s.Network, cmd.labels)
	c.networks.Unlock()
	id := ""
	if err == nil {
		id, err = e.Create(answer, s)
	}
	if err != nil {
		c.forget(s.Name)
		return nil, err
	}
	run := &contained{
		owner:   c,
		engine:  e,
		command: cmd,
		started: started{Container: id, Name: s.Name},
		done:    make(chan struct{}),
	}
	if err = record(run.started); err == nil {
		err = e.Start(answer, id)
	}
	if err != nil {
		run.clear()
		return nil, err
	}
	run.watch()
	return run, nil
}

func (c *containers) adopt(cmd command, s started) workload {
	run := &contained{owner: c, command: cmd, started: s, done: make(chan struct{})}
	run.watch()
	return run
}

func (c *containers) know(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil {
		c.own = map[string]bool{}
	}
	c.own[name] = true
}

func (c *containers) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.own, name)
}

func (c *containers) knows(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own[name]
}

// strays removes containers that bear this agent's labels and are on no record. Where
// drift is only reported it removes none, and adds to found those that run.
func (c *containers) strays(ctx context.Context, found map[target.Key][]target.Stray) {
	e, err := c.open()
	if err != nil {
		return // there are no containers
	}
	all, err := e.List(ctx, labelAgent, c.owner.agentName())
	if err != nil {
		return // the next look finds them
	}
	for _, f := range all {
		// The one that is being made is known before it is there, and all that are on record
		// were when they were listed.
		if c.knows(f.Name) {
			continue
		}
		of := target.Key{
			Repository:  f.Labels[labelRepository],
			Environment: f.Labels[labelEnvironment],
			Application: f.Labels[labelApplication],
		}
		if c.owner.reportsDrift(of) {
			if f.Running { // else it may be about to
				found[of] = append(found[of], target.Stray{Unit: f.Labels[labelService], Container: f.Name})
			}
			continue
		}
		c.owner.Log.Warn("removing a container that is on no record", "container", f.Name, "instance",
			f.Labels[labelInstance], "env", of.Environment, "app", of.Application)
		if err := e.Remove(ctx, f.ID); err != nil && ctx.Err() == nil {
			c.owner.Log.Warn("cannot remove a container", "container", f.Name, "err", err)
		}
	}
}
