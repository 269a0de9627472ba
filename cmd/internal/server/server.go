// Package server is Headgate running: it makes every part (SSH, console, receive,
// gate, reconciler, targets), joins them, and answers show.Backend for the SSH
// commands and the console, one file a noun.
//
//   - Open makes a Server of a data directory, Run runs it, Close lets it go.
//   - repositories.go, changes.go, log.go, releases.go, schedules.go,
//     environments.go, acts.go, secrets.go, forges.go, why.go and watch.go are the
//     Backend.
//   - configure.go brings server.yaml of the repository headgate into force.
//
// It decides nothing itself: what lands is the gate's matter, what is promoted
// the reconciler's, who may do what access's.
package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/token"
	"github.com/headgate-cd/headgate/gitd/transport"
	"github.com/headgate-cd/headgate/gitd/web"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/aws"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/cache"
	"github.com/headgate-cd/headgate/hooks/build/container"
	"github.com/headgate-cd/headgate/hooks/build/host"
	"github.com/headgate-cd/headgate/hooks/build/report"
	"github.com/headgate-cd/headgate/hooks/event"
	"github.com/headgate-cd/headgate/hooks/forge"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/receive"
	"github.com/headgate-cd/headgate/hooks/registry"
	"github.com/headgate-cd/headgate/hooks/schedule"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target/function"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/fleet"
)

// Options are what a server is started with. Everything else is configured in
// headgate.git.
type Options struct {
	Data    string // the directory that holds everything the server keeps; it is there
	SSH     string // address to listen on
	HTTP    string
	Name    string // host name people know the server by; empty: the host of SSH
	URL     string // base URL people reach the console at; empty: http:// and the address of HTTP
	TLSCert string // files of a certificate and its key, with which HTTP is HTTPS; empty: plain
	TLSKey  string
	// ACME is the host name whose certificate is got from the authority at
	// ACMEDirectory, or LetsEncrypt, with which HTTP is HTTPS; empty: by files, or none.
	// Services get theirs from the authority that is named by either.
	ACME            string
	ACMEDirectory   string
	Workers         int            // builds that may run at the same time
	Containers      int            // builds that may run in containers besides; 0: as many
	Pack            int            // loose objects after which a repository is packed; 0 is never
	Proxies         []netip.Prefix // that stand before services and console, and are believed about where a request came from
	Metrics         string         // address where Prometheus reads what the proxy of services counts; empty: nowhere
	DropOwnPolicies bool           // land, at the start, a change that removes policies/ from the server's own configuration
	DeployHere      []string       // repositories that may deploy on this machine itself, by target: hosts
	NoAgent         bool           // another starts the agent of this machine
	DeployRoot      string         // directory for what is deployed here; empty: hosts in Data
	Version         string         // what the program says it is
	Key             string         // file of the private key that was made for the administrator; empty: they have one

	// At the first start only:
	Admin string   // user name of the first administrator
	Keys  []string // and their public keys
}

// Server is all parts, joined. It is the show.Backend of SSH and console.
type Server struct {
	opts    Options
	log     *slog.Logger
	lock    *os.File
	health  health
	started time.Time
	about   show.Server

	store   *repo.Store
	access  atomic.Pointer[access.Config]
	loading sync.Mutex // held while access is read and brought into force
	first   bool       // this start made the first configuration; written before the server answers
	// ownPoliciesOff is while a change lands that removes the rules which deny it.
	ownPoliciesOff atomic.Bool
	inForce        repo.Hash    // the commit that access was read from; guarded by loading
	moved          signal.Topic // when access is another
	tokens         *token.Store
	policies       *policies.Pool
	secrets        *secret.Store
	aws            aws.Stores // of secrets
	logs           Logs
	artifacts      *artifact.Store
	cache          *cache.Store
	reports        *report.Store
	gate           *gate.Gate
	containers     *container.Executor
	schedules      *schedule.Scheduler
	reconciler     *reconciler.Reconciler
	fleet          *fleet.Target
	clusters       *fleet.Target
	functions      *function.Target
	services       *agent.Target
	remotes        *remotes
	receive        *receive.Listener
	forges         *forge.Hub
	events         *event.Sender
	ssh            *gitd.Server
	sshOn          net.Listener
	web            *http.Server
	console        http.Handler
	git            *transport.HTTP
	registry       *registry.Registry
	webOn          net.Listener
	authority      *authority // nil: certificates are in files, or there are none
}

// What the parts are handed of one another.
var (
	_ show.Backend         = (*Server)(nil)
	_ receive.Gate         = (*gate.Gate)(nil)
	_ receive.Environments = (*environments)(nil)
)

// Open makes the parts and joins them. Nothing runs yet but the listeners, which
// accept and wait.
func Open(ctx context.Context, o Options, log *slog.Logger) (_ *Server, err error) {
	s := &Server{opts: o, log: log, started: time.Now()}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	path := func(parts ...string) string { return filepath.Join(append([]string{o.Data}, parts...)...) }
	if s.lock, err = Lock(o.Data); err != nil {
		return nil, err
	}
	if err := CheckHistory(o.Data); err != nil {
		return nil, err
	}
	// Only what is needed while it is used lives in work and run: whatever is
	// there now belonged to a process that is no more.
	sandboxes := sandbox.Records{Dir: path("run", "sandboxes")}
	if n, err := sandboxes.EndAll(); err != nil {
		return nil, err
	} else if n > 0 {
		log.Info("ended what an earlier process left running", "sandboxes", n)
	}
	for _, dir := range []string{"work", "run"} {
		build.RemoveAll(path(dir))
		if err := os.MkdirAll(path(dir), 0o700); err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
	}
	hostKey, err := repo.OpenKey(path("keys", "host"))
	if err != nil {
		return nil, unreadable(o.Data, err)
	}
	cookieKey, err := openSecret(path("keys", "console"))
	if err != nil {
		return nil, unreadable(o.Data, err)
	}
	if s.secrets, err = secret.Open(path("secrets"), path("keys", "secrets")); err != nil {
		return nil, unreadable(o.Data, err)
	}
	if err := s.listen(hostKey); err != nil {
		return nil, err
	}
	signer, err := repo.OpenSigner(path("keys", "server"), repo.Person{
		Name:  "Headgate",
		Email: "headgate@" + s.about.Name,
	})
	if err != nil {
		return nil, unreadable(o.Data, err)
	}
	s.about.Signers = signer.AllowedSigners()
	program, err := hookProgram()
	if err != nil {
		return nil, err
	}
	if err := receive.InstallHooks(path("hooks"), program); err != nil {
		return nil, err
	}
	var swept []string
	if s.store, swept, err = repo.OpenStore(path("repositories"), path("hooks"), signer); err != nil {
		return nil, unreadable(o.Data, err)
	}
	for _, what := range swept {
		log.Info("removed or completed what an earlier process left", "file", what)
	}
	if err := checkSigner(s.store, path("keys", "server")); err != nil {
		return nil, unreadable(o.Data, err)
	}
	if s.tokens, err = token.Open(path("tokens")); err != nil {
		return nil, unreadable(o.Data, err)
	}
	logDir, err := buildlog.OpenDir(path("logs", "builds"))
	if err != nil {
		return nil, err
	}
	s.logs = Logs{Dir: logDir}
	if s.artifacts, err = artifact.Open(path("artifacts")); err != nil {
		return nil, unreadable(o.Data, err)
	}
	if s.remotes, err = openRemotes(s); err != nil {
		return nil, unreadable(o.Data, err)
	}
	if s.policies, err = Policies(log); err != nil {
		return nil, err
	}
	checker := Checker(s.policies.Check)
	if s.cache, err = cache.Open(path("cache"), log); err != nil {
		return nil, err
	}
	s.reports = &report.Store{Dir: path("reports")}
	s.containers = &container.Executor{Name: o.Data}
	s.gate = gate.New(gate.Config{
		Store:    s.store,
		Access:   s.access.Load,
		Settings: gate.FileSettings,
		Server:   s.buildSettings,
		Check:    checkTree(checker),
		Ask:      gate.AskPolicies(s.engine, s.access.Load),
		Landed:   s.changed,
		Forward: func(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash) error {
			return s.forges.Forward(ctx, r, branch, old, new)
		},
		Image:      s.buildImage,
		Workers:    o.Workers,
		Containers: o.Containers,
		Log:        log,
		Builder: gate.Builtin{
			Validate: func(file string, data []byte) error { _, err := access.Parse(file, data); return err },
			Next: &gate.TreeBuilder{
				Logs:      logDir,
				Artifacts: s.artifacts,
				Images:    s.containers,
				Executor: &host.Host{
					Hidden:  []string{o.Data},
					Shared:  path("system"),
					Records: sandboxes,
				},
				Work:      path("work", "builds"),
				Cache:     s.cache,
				Reports:   s.reports,
				Secrets:   s.buildSecrets,
				Login:     s.registryLogin,
				Submodule: s.submodule,
			},
		},
	})
	s.schedules = schedule.New(schedule.Config{
		Store:  s.store,
		Branch: s.gate.Branch,
		Build:  s.gate.BuildSpare,
		Log:    log,
	})
	here := hosts.New(cmp.Or(o.DeployRoot, path("hosts")), s.artifacts.Unpack)
	here.Allowed = o.mayDeployHere
	here.Log = log
	s.fleet = &fleet.Target{Here: here, Hosts: s.remotes.hosts, Log: log}
	s.clusters = &fleet.Target{File: clusters, Hosts: s.remotes.clusterHosts, Log: log}
	s.functions = function.New(path("functions"), path("logs", "functions"), s.artifacts.Unpack)
	s.functions.Records = sandboxes
	s.functions.Address = func() netip.Addr { return s.access.Load().Address() }
	s.functions.Log = log
	s.services = &agent.Target{
		Dial:     s.dialAgent,
		Settings: s.agentSettings,
		Secrets:  s.serviceSecrets,
		Log:      log,
	}
	s.reconciler = &reconciler.Reconciler{
		Store:       s.store,
		Access:      s.access.Load,
		Engine:      s.engine,
		Releases:    s.releasesOf,
		Artifact:    s.artifacts.Has,
		Definitions: (&definitions{store: s.artifacts}).of,
		Targets:     targets(s.services, s.fleet, s.clusters, s.functions),
		Branch:      func(name string) string { return "refs/heads/" + s.gate.Branch(name) },
		Log:         log,
		Host:        s.about.Name,
		Login:       s.about.Login(),
	}
	s.receive = &receive.Listener{
		Dir:          path("run"),
		Store:        s.store,
		Access:       s.access.Load,
		Engine:       s.engine,
		Checker:      checker,
		Reading:      s.reading,
		Gate:         s.gate,
		Environments: environments{s},
		Refuses:      s.refusesTarget,

		SecretMissing: s.secretMissing,
		Submodule:     s.submodule,
		Logs:          s.logs,
		Server:        func() show.Server { return s.Server(context.Background()) },
		Log:           log,
	}

	s.forges = &forge.Hub{
		Promotions: promotions{s},
		Webhook:    s.webhook,
		Dir:        path("inbox"),
		Store:      s.store,
		Access:     s.access.Load,
		Secrets:    s.secrets,
		Gate:       s.gate,
		Reports:    s.reports,
		Page: func(repository string, change int) string {
			if change == 0 {
				return s.about.HTTP + "/" + repository
			}
			return fmt.Sprintf("%s/%s/changes/%d", s.about.HTTP, repository, change)
		},
		Log: log,
	}
	s.events = &event.Sender{
		Dir:     path("events"),
		Store:   s.store,
		Access:  s.access.Load,
		Secrets: s.secrets,
		Source:  s.about.HTTP,
		Readers: s.eventReaders(),
		Log:     log,
	}

	git := &transport.Transport{
		Store:  s.store,
		Access: s.access.Load,
		Begin:  s.receive.Begin,
		Ready:  func() error { return receive.CheckHooks(path("hooks")) },
		Log:    log,
	}
	tokens := &transport.Tokens{
		Access:   s.access.Load,
		Open:     git.Open,
		Identify: s.identify,
		Obtain:   func() string { return s.about.Command("token create") },
		Log:      log,
	}
	s.git = &transport.HTTP{Transport: git, Tokens: tokens}
	s.registry = &registry.Registry{
		Tokens:    tokens,
		Artifacts: s.artifacts,
		Releases:  s.gate.ReleasesOf,
		Declared:  s.declaredArtifact,
		Log:       log,
	}
	logins := &gitd.Logins{}
	s.ssh = &gitd.Server{
		Backend:     s,
		Access:      s.access.Load,
		AccessMoved: func() (<-chan struct{}, func()) { return s.moved.Watch(access.Own) },
		Transport:   git,
		HostKey:     hostKey,
		Logins:      logins,
		Agents:      s.remotes,
		Log:         log,
	}
	console := &web.Server{
		Backend: s,
		Login:   logins,
		Key:     cookieKey,
		Unwell:  s.unwell,
		Log:     log,
		Actor: func(_ context.Context, user string) (access.Identity, bool) {
			return s.access.Load().BySession(user)
		},
		Administers: func(who access.Identity) bool { return s.access.Load().May(who, access.Administer, access.Own) },
	}
	s.console = addresses(console.Handler(), s.forges, s.remotes.serveProgram())
	s.web = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if o.TLSCert != "" {
		pair := &certificate{cert: o.TLSCert, key: o.TLSKey, log: log}
		if err := pair.load(); err != nil {
			return nil, err
		}
		s.web.TLSConfig = &tls.Config{GetCertificate: pair.get}
	}
	if o.ACME != "" {
		s.authority = newAuthority(o.ACME, o.authority(), path("keys", "acme"), nil, log)
		s.web.TLSConfig = s.authority.manager.TLSConfig()
	}
	return s, s.receive.Open()
}

// Close lets go of what Open took.
func (s *Server) Close() {
	for _, l := range []net.Listener{s.sshOn, s.webOn} {
		if l != nil {
			l.Close()
		}
	}
	if s.policies != nil {
		s.policies.Close()
	}
	if s.cache != nil {
		s.cache.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// hookProgram finds headgate-hook beside this program.
func hookProgram() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("find headgate-hook: %w", err)
	}
	program := filepath.Join(filepath.Dir(self), "headgate-hook")
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("headgate-hook is not beside headgate in %s\nhint: make build puts both into bin",
			filepath.Dir(self))
	}
	return program, nil
}

// openSecret reads 32 random bytes, making them first.
func openSecret(path string) ([]byte, error) {
	data, err := readSecret(path)
	if errors.Is(err, os.ErrNotExist) {
		data = make([]byte, 32)
		if _, err := rand.Read(data); err != nil {
			return nil, err
		}
		return data, repo.WriteFile(path, data, 0o600)
	}
	return data, err
}

func readSecret(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err == nil && len(data) != 32 {
		err = fmt.Errorf("%s holds %d bytes, not 32; remove it, and everybody signs in again", path, len(data))
	}
	return data, err
}
