package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/cmd/internal/proof"
	"github.com/headgate-cd/headgate/gitd"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/agentline"
	"github.com/headgate-cd/headgate/gitd/enrolment"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/fleet"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

// remotes are the agents of other machines: who is there, and who was. It is the
// gitd.Agents.
type remotes struct {
	*Server
	enrolments *enrolment.Store
	file       string // where it is kept when each was last seen, for people

	program func() (digest string, err error) // of this program, once
	build   string                            // what it was built of

	upgradeWake chan struct{} // somebody has asked for an upgrade, or an agent has come

	mu      sync.Mutex // guards the rest
	lines   map[string]*remote
	seen    map[string]lastSeen
	links   map[string]*link
	arrived chan struct{} // closed when an agent has come
	greeted chan struct{} // closed when one has said who it is

	upgrades upgrading
	ctx      context.Context // of run; nil before
	running  sync.WaitGroup  // links
}

// link is how an agent is spoken to, whether it is there or not.
type link struct {
	key    string
	target *agent.Target
	stop   context.CancelFunc
}

// remote is one connected agent.
type remote struct {
	key   string
	line  gitd.AgentLine
	since time.Time
	ended chan struct{} // closed when it has
	hello agent.Hello
}

// lastSeen is what is known of an agent that is away.
type lastSeen struct {
	Key     string    `json:"key"`
	At      time.Time `json:"at"`
	From    string    `json:"from"`
	Version string    `json:"version"`
}

func openRemotes(s *Server) (*remotes, error) {
	r := &remotes{
		Server:  s,
		file:    filepath.Join(s.opts.Data, "agents.json"),
		program: sync.OnceValues(programDigest),
		lines:   map[string]*remote{},
		seen:    map[string]lastSeen{},
		links:   map[string]*link{},
		arrived: make(chan struct{}),
		greeted: make(chan struct{}),

		upgradeWake: make(chan struct{}, 1),
		upgrades:    upgrading{failed: map[string]string{}, asked: map[string]bool{}, cuts: map[string]int{}},
	}
	var err error
	if r.build, err = agent.DigestOf("/proc/self/exe"); err != nil {
		return nil, err
	}
	if r.enrolments, err = enrolment.Open(filepath.Join(s.opts.Data, "enrolments")); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(r.file)
	if err == nil {
		// It helps people only: one that was damaged is as good as none.
		if seen := map[string]lastSeen{}; json.Unmarshal(data, &seen) == nil && seen != nil {
			r.seen = seen
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read when agents were last seen: %w", err)
	}
	return r, nil
}

// keepSeen writes when agents were last seen. It is called with mu held.
func (r *remotes) keepSeen() {
	for name := range r.seen {
		if _, known := r.access.Load().Agent(name); !known && r.lines[name] == nil {
			delete(r.seen, name)
		}
	}
	data, err := json.Marshal(r.seen)
	if err == nil {
		err = repo.WriteFile(r.file, append(data, '\n'), 0o600)
	}
	if err != nil {
		r.log.Warn("cannot note when agents were last seen", "err", err)
	}
}

// Enrols implements gitd.Agents.
func (r *remotes) Enrols(fingerprint string) bool {
	_, ok := r.enrolments.Find(fingerprint)
	return ok
}

// Enrol implements gitd.Agents. What it does is the doing of whoever made the token, who
// must be an administrator still.
func (r *remotes) Enrol(ctx context.Context, token string, key gossh.PublicKey,
	e agentline.Enrolment) (agentline.Enrolled, error) {
	refused := func(what, hint string) (agentline.Enrolled, error) {
		return agentline.Enrolled{}, &show.Error{Kind: show.Denied, What: what, Hint: hint}
	}
	const another = "ask an administrator of the server for another line: ssh host agent enrol"
	t, ok := r.enrolments.Find(token)
	if !ok {
		return refused(enrolment.ErrNone.Error(), another)
	}
	by, ok := r.access.Load().ByEnrolment(t.By)
	if !ok || !r.access.Load().May(by, access.Administer, access.Own) {
		return refused("who made this token is not an administrator any more", another)
	}
	own := gossh.FingerprintSHA256(key)
	name := t.Name
	if name == "" {
		name = strings.ToLower(e.Name)
	}
	if err := access.CheckAgentName(name); err != nil {
		return refused(err.Error(), "give another one: headgate agent join --name web-1")
	}
	config := r.access.Load()
	if there, ok := config.Agent(name); ok && there.Key.Fingerprint != own {
		return refused(fmt.Sprintf("there is an agent %q already", name),
			"give another name with --name, or have an administrator remove it: ssh host agent remove "+name)
	}
	if there, ok := config.AgentByKey(own); ok && there.Name != name {
		return refused("this machine's key is that of the agent "+there.Name,
			"remove its directory, and it makes another key")
	}
	if _, ok := config.ByKey(own, access.ViaSSH); ok {
		return refused("this machine's key is a user's", "remove its directory, and it makes another key")
	}
	t, err := r.enrolments.Claim(token, own, name)
	if errors.Is(err, enrolment.ErrNone) {
		return refused(err.Error(), another)
	}
	if err != nil {
		return agentline.Enrolled{}, err
	}
	line := strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key)))
	err = r.reconfigure(ctx, by, "Add the agent "+t.Name, func(config *access.Config, data []byte) ([]byte, error) {
		if there, ok := config.Agent(t.Name); ok && there.Key.Fingerprint == own {
			return data, nil // by this very token, before something was killed
		}
		edited, err := access.AddAgent(data, access.Agent{Name: t.Name, Tags: t.Tags, Repositories: t.Repositories}, line)
		if err != nil {
			return nil, &show.Error{Kind: show.Denied, What: err.Error()}
		}
		return edited, nil
	})
	if err != nil {
		return agentline.Enrolled{}, err
	}
	if err := r.enrolments.Spend(token); err != nil {
		return agentline.Enrolled{}, err
	}
	r.log.Info("a machine is an agent", "agent", t.Name, "key", own, "by", t.By, "enrolment", t.ID)
	return agentline.Enrolled{Name: t.Name}, nil
}

// Serve implements gitd.Agents.
func (r *remotes) Serve(ctx context.Context, a access.Agent, line gitd.AgentLine) {
	me := &remote{key: a.Key.Fingerprint, line: line, since: time.Now().UTC(), ended: make(chan struct{})}
	defer close(me.ended)
	r.mu.Lock()
	if before := r.lines[a.Name]; before != nil {
		before.line.Close() // it is of the same key, and newer is truer: that one is dead, or was replaced
	}
	r.lines[a.Name] = me
	close(r.arrived)
	r.arrived = make(chan struct{})
	r.mu.Unlock()
	defer r.gone(a.Name, me)
	r.sync() // its key may have gone since it was proven

	client := agent.Client{Dialer: line.Dial}
	hello, err := client.Hello(ctx)
	if err != nil {
		r.log.Warn("an agent does not say who it is", "agent", a.Name, "err", err)
		return
	}
	r.mu.Lock()
	me.hello = hello
	r.seen[a.Name] = lastSeen{Key: me.key, At: me.since, From: line.From(), Version: short(hello.Program)}
	r.keepSeen()
	close(r.greeted)
	r.greeted = make(chan struct{})
	r.mu.Unlock()
	r.wakeUpgrades()
	r.log.Info("an agent is connected", "agent", a.Name, "from", line.From(), "program", short(hello.Program))
	r.moved.Notify(access.Own)
	<-ctx.Done()
}

// short bounds what an agent says of itself.
func short(s string) string { return s[:min(len(s), 100)] }

// gone notes that a connection has ended.
func (r *remotes) gone(name string, me *remote) {
	r.mu.Lock()
	if r.lines[name] == me {
		delete(r.lines, name)
		if last, ok := r.seen[name]; ok {
			last.At = time.Now().UTC()
			r.seen[name] = last
			r.keepSeen()
		}
	}
	r.mu.Unlock()
	r.log.Info("an agent is gone", "agent", name)
	r.moved.Notify(access.Own)
}

// run speaks to agents until ctx ends.
func (r *remotes) run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	r.sync()
	r.keepCurrent(ctx)
	r.mu.Lock()
	r.links = map[string]*link{}
	r.mu.Unlock()
	r.running.Wait()
	return nil
}

// sync brings links and connections up to who is an agent now: those whose key is not theirs
// any more are hung up on.
func (r *remotes) sync() {
	config := r.access.Load()
	r.mu.Lock()
	for name, line := range r.lines {
		if a, ok := config.Agent(name); !ok || a.Key.Fingerprint != line.key {
			line.line.Close()
		}
	}
	if r.ctx == nil || r.ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	for name, l := range r.links {
		if a, ok := config.Agent(name); !ok || a.Key.Fingerprint != l.key {
			l.stop()
			delete(r.links, name)
		}
	}
	for _, a := range config.Agents() {
		if r.links[a.Name] != nil {
			continue
		}
		ctx, stop := context.WithCancel(r.ctx)
		l := &link{key: a.Key.Fingerprint, stop: stop, target: &agent.Target{
			Dial:  func(ctx context.Context) (net.Conn, error) { return r.dial(ctx, a.Name) },
			Heard: func() { r.heard(a.Name) },
			Prove: func(d target.Declared) (agent.Proof, error) { return proof.Collect(r.store, d) },
			Log:   r.log.With("agent", a.Name),
		}}
		r.links[a.Name] = l
		r.running.Go(func() {
			defer stop()
			_ = l.target.Run(ctx) // it has no error but the end
		})
	}
	r.mu.Unlock()
	r.changed()
}

// heard notes that an agent is heard again, or not any more, although its connection may
// seem to last.
func (r *remotes) heard(name string) {
	r.mu.Lock()
	if l, last := r.links[name], r.seen[name]; l != nil && r.lines[name] != nil && last.Key == l.key && !l.target.Live() {
		last.At = time.Now().UTC()
		r.seen[name] = last
	}
	r.mu.Unlock()
	r.moved.Notify(access.Own)
	r.changed()
}

// changed has what is deployed elsewhere be looked at again.
func (r *remotes) changed() {
	r.fleet.Changed()
	r.clusters.Changed()
}

// dial begins a conversation with an agent, once it is there.
func (r *remotes) dial(ctx context.Context, name string) (net.Conn, error) {
	for {
		r.mu.Lock()
		line, arrived := r.lines[name], r.arrived
		r.mu.Unlock()
		if line != nil {
			return line.line.Dial(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-arrived:
		}
	}
}

// isCluster reports whether an agent is a cluster's.
func isCluster(a access.Agent) bool { return a.Tags[kubernetes.Tag] == kubernetes.TagValue }

// hosts are those that a repository may deploy to.
func (r *remotes) hosts(repository string) []fleet.Host { return r.agents(repository, false) }

// clusterHosts are the clusters that a repository may deploy to.
func (r *remotes) clusterHosts(repository string) []fleet.Host { return r.agents(repository, true) }

func (r *remotes) agents(repository string, cluster bool) (all []fleet.Host) {
	config := r.access.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range config.Agents() {
		if l := r.links[a.Name]; l != nil && a.MayDeploy(repository) && isCluster(a) == cluster {
			all = append(all, fleet.Host{Name: a.Name, Tags: a.Tags, Agent: l.target, Drained: a.Drained})
		}
	}
	return all
}

// Blob implements gitd.Agents: an agent may have what is declared for it, and nothing else.
func (r *remotes) Blob(ctx context.Context, a access.Agent, b agentline.Blob) (io.ReadSeekCloser, error) {
	if b.Artifact == agentline.Program {
		return r.openProgram(b.Digest)
	}
	refused := &show.Error{Kind: show.Forbidden, What: "this is not an artifact that is declared for " + a.Name}
	if !r.fleet.Wants(a.Name, b.Artifact) {
		return nil, refused
	}
	if b.Digest == b.Artifact {
		return r.artifacts.OpenBlob(b.Digest)
	}
	m, err := r.artifacts.Manifest(b.Artifact)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(m.Blobs, func(part artifact.Blob) bool { return part.Digest == b.Digest }) {
		return r.artifacts.OpenBlob(b.Digest)
	}
	f, err := r.artifacts.OpenFile(ctx, b.Artifact, b.Digest)
	if errors.Is(err, artifact.ErrNoFile) {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}
