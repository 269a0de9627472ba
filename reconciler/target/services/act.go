package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/socket"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// listening is one address that the proxy listens on for an application.
type listening struct {
	*proxy.Listener
	key       string
	service   string // that is served there
	successor string // declared service that takes the address over with its first instance
	tls       bool
	acme      bool // by an authority; without tls, the way to where that is
}

// act begins an action.
func (a *app) act(act rollout.Action) {
	log := a.owner.Log.With("env", a.key().Environment, "app", a.key().Application, "commit", a.commit)
	switch act.Kind {
	case rollout.Listen:
		bound, err := a.listen(act.Service, act.Listen)
		e := rollout.Listened{Service: act.Service, Bound: bound}
		if err != nil {
			e.Err = err.Error()
			log.Warn("cannot listen", "service", act.Service, "err", err)
		}
		a.observed.Saw(e, a.owner.now())
	case rollout.Start:
		a.start(act)
	case rollout.Begin:
		a.begin(act)
	case rollout.Skip:
		a.skip(act)
	case rollout.Prepare:
		a.prepare(act)
	case rollout.Route:
		a.route(act)
		log.Info("traffic switched", "service", act.Service, "version", act.Version, "instances", act.Routed)
	case rollout.Drain:
		a.drain(act.Service, act.Instance, act.Timeout)
	case rollout.Stop:
		if in := a.instances[act.Instance]; in != nil {
			in.stop()
		}
	case rollout.Close:
		a.closeService(act.Service)
	case rollout.Recount:
		log.Warn("times are counted from now, the clock was set back", "service", act.Service, "was", act.At)
	case rollout.Retire: // nothing to do
	default:
		a.deploy(act)
	}
}

// drain waits until no request is in flight to an instance.
func (a *app) drain(service, instance string, timeout time.Duration) {
	pool := a.pool(service)
	a.wait.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		pool.Drain(ctx, instance)
		crash.Point("services.instance-drained")
		a.post(func() { a.observed.Saw(rollout.Drained{ID: instance}, a.owner.now()) })
	})
}

func (a *app) pool(service string) *proxy.Pool {
	p := a.pools[service]
	if p == nil {
		p = &proxy.Pool{Name: fmt.Sprintf("%s of %s in %s", service, a.key().Application, a.key().Environment)}
		a.pools[service] = p
		a.count()
	}
	return p
}

func (a *app) route(act rollout.Action) {
	to := a.backends(act.Routed)
	crash.Point("services.before-switch")
	a.pool(act.Service).Split(to, a.backends(act.Canaries), act.Weight)
	crash.Point("services.switched")
	if len(to) > 0 {
		for _, l := range a.listeners {
			if l.successor == act.Service {
				a.handOver(l)
			}
		}
	}
}

func (a *app) handOver(l *listening) {
	l.service, l.successor = l.successor, ""
	a.reroute()
}

// listen has the proxy listen on exactly these addresses for a service, and says
// on which it does. An address of a service that is not declared any more is
// taken over once the new service has an instance to serve.
func (a *app) listen(service string, keys []string) (bound []string, err error) {
	declared := map[string]bool{}
	for _, s := range a.plan.Services {
		declared[s.Name] = true
	}
	for _, k := range keys {
		i := slices.IndexFunc(a.listeners, func(l *listening) bool { return l.key == k })
		switch {
		case i < 0:
			a.closeInTheWay(service, k, keys)
			l, e := a.owner.listenFor(a.key(), service, k, a.pool(service))
			if e != nil {
				err = errors.Join(err, e)
				continue
			}
			a.listeners = append(a.listeners, &listening{Listener: l, key: k, service: service})
			i = len(a.listeners) - 1
			a.reroute()
		case a.listeners[i].service == service:
		case !declared[a.listeners[i].service]:
			a.listeners[i].successor = service
		case a.shares(k): // by routes
		default:
			err = errors.Join(err, fmt.Errorf("port %s of service %s is still served by service %s", k, service,
				a.listeners[i].service))
			continue
		}
		if e := a.secure(a.listeners[i], service); e != nil {
			err = errors.Join(err, e)
			continue
		}
		bound = append(bound, k)
	}
	a.closeListeners(func(l *listening) bool {
		return !a.shares(l.key) && l.service == service && l.successor == "" && !slices.Contains(keys, l.key)
	})
	return bound, err
}

// shares reports whether several declared services have an address, by routes.
func (a *app) shares(key string) bool {
	n := 0
	for _, s := range a.compose.Services {
		if slices.Contains(listenKeys(s, a.owner.serviceAddress()), key) {
			n++
		}
	}
	return n > 1
}

// closeInTheWay stops listening where that would keep a service from an address of
// its own: on all addresses of the machine, or on one of them, as rollout plans it.
func (a *app) closeInTheWay(service, key string, keys []string) {
	_, port, err := net.SplitHostPort(key)
	if err != nil || port == "0" {
		return
	}
	a.closeListeners(func(l *listening) bool {
		if l.service != service || l.successor != "" || slices.Contains(keys, l.key) ||
			strconv.Itoa(l.Address().Port) != port {
			return false
		}
		l.Stop()
		return true
	})
}

func (a *app) closeListeners(which func(*listening) bool) {
	a.listeners = slices.DeleteFunc(a.listeners, func(l *listening) bool {
		if !which(l) {
			return false
		}
		a.owner.release(l.key)
		a.owner.unlisten(l.Listener)
		a.wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), defaultDrain)
			defer cancel()
			l.Close(ctx)
		})
		return true
	})
}

func (a *app) closeService(service string) {
	for _, l := range a.listeners {
		if l.service == service && l.successor != "" {
			a.handOver(l)
		}
	}
	a.closeListeners(func(l *listening) bool { return l.service == service })
	delete(a.pools, service)
	a.count()
}

// urls are where services are served.
func (a *app) urls() map[string]string {
	urls := map[string]string{}
	for _, l := range a.listeners {
		if _, ok := urls[l.service]; ok || l.acme && !l.tls {
			continue
		}
		at := l.Address()
		host := at.IP.String()
		if at.IP.IsUnspecified() {
			host = cmp.Or(a.owner.host(), access.Loopback.String())
		}
		scheme := "http://"
		if l.tls {
			scheme = "https://"
		}
		if l.acme {
			for _, s := range a.compose.Services {
				if s.Name == l.service && len(s.Proxy.Routes) > 0 {
					host = s.Proxy.Routes[0].Host
				}
			}
			if at.Port == 443 {
				urls[l.service] = scheme + host
				continue
			}
		}
		urls[l.service] = scheme + net.JoinHostPort(host, strconv.Itoa(at.Port))
	}
	return urls
}

// listenFor listens on an address for a service and remembers for whom, so that
// a conflict can be named. A free port stays the same while the server lives.
func (t *Target) listenFor(k target.Key, service, listen string, pool *proxy.Pool) (*proxy.Listener, error) {
	at, free, _ := strings.Cut(listen, "#")
	remembered := freePort{k, listen}
	t.mu.Lock()
	port := t.ports[remembered]
	t.mu.Unlock()
	host, number, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	var l *proxy.Listener
	if free != "" && port != 0 {
		// Somebody else may have it by now; then it is another one.
		l, _ = t.serve(net.JoinHostPort(host, strconv.Itoa(port)), pool)
	}
	if l == nil {
		if l, err = t.listen(at, free != "", pool); err != nil {
			return nil, t.conflict(k, service, at, number, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if free != "" {
		t.ports[remembered] = l.Address().Port
	}
	t.holders[listen] = holder{k, service}
	return l, nil
}

// serve has the proxy listen on an address. The error of a taken port matches
// syscall.EADDRINUSE.
func (t *Target) serve(at string, pool *proxy.Pool) (*proxy.Listener, error) {
	ln, err := t.open(at)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	trusted := t.TrustedProxies
	t.mu.Unlock()
	return proxy.ServeOn(ln, pool, t.transport, trusted, t.Log), nil
}

// open opens a TCP address.
func (t *Target) open(at string) (net.Listener, error) {
	if t.Listen != nil {
		return t.Listen(at)
	}
	return net.Listen("tcp", at)
}

// unlisten says that nothing is to be served any more where l listens.
func (t *Target) unlisten(l *proxy.Listener) {
	if t.Unlisten != nil {
		t.Unlisten(l.Address().String())
	}
}

// maxFreePorts bounds how often any free port is looked for: a few may be held.
const maxFreePorts = 20

// listen listens on an address, whose port 0 is any that nobody holds.
func (t *Target) listen(at string, free bool, pool *proxy.Pool) (*proxy.Listener, error) {
	var passed []*proxy.Listener // kept open, so that the next try is another one
	defer func() {
		for _, l := range passed {
			t.unlisten(l)
			l.Close(context.Background())
		}
	}()
	for {
		l, err := t.serve(at, pool)
		if err != nil || !free || t.Held == nil || !t.Held(l.Address().Port) {
			return l, err
		}
		if passed = append(passed, l); len(passed) == maxFreePorts {
			return nil, fmt.Errorf("%d free ports in a row are held by environments", maxFreePorts)
		}
	}
}

func (t *Target) host() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Host
}

// portsOf are what the free ports of an application became.
func (t *Target) portsOf(k target.Key) map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	ports := map[string]int{}
	for of, port := range t.ports {
		if of.of == k {
			ports[of.listen] = port
		}
	}
	return ports
}

func (t *Target) release(listen string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.holders, listen)
}

// conflict puts into words why an address cannot be listened on.
func (t *Target) conflict(k target.Key, service, at, number string, err error) error {
	what := fmt.Sprintf("port %s of service %s of %s in %s", at, service, k.Application, k.Environment)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		by := "another program on this machine"
		if port, err := strconv.Atoi(number); err == nil {
			by = cmp.Or(socket.Holder(port), by)
		}
		t.mu.Lock()
		for held, holder := range t.holders {
			if _, n, err := net.SplitHostPort(held); err == nil && n == number {
				by = "another repository's environment"
				if holder.of.Repository == k.Repository {
					by = fmt.Sprintf("service %s of %s in %s", holder.service, holder.of.Application, holder.of.Environment)
				}
			}
		}
		t.mu.Unlock()
		return fmt.Errorf(
			"%s is taken by %s; stop that, or give one of them another port in compose.yaml (0 is any free one)", what, by)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s may not be used by the server's user; choose one above 1023 in compose.yaml", what)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is on no address of this machine; correct the address in compose.yaml, or leave it out", what)
	}
	return fmt.Errorf("%s cannot be used: %w; choose another in compose.yaml", what, err)
}

// start starts an instance.
func (a *app) start(act rollout.Action) {
	v := a.versions[act.Version]
	if v == nil { // a fault of ours: what is planned is what is known
		a.owner.Log.Error("cannot start what is not known", "env", a.key().Environment, "instance", act.Instance,
			"version", act.Version)
		a.post(func() {
			a.observed.Saw(rollout.Exited{ID: act.Instance, How: "could not start: what it is to run is not known"}, a.owner.now())
		})
		return
	}
	in := a.instanceOf(act.Instance, act.Version, v)
	if _, rec := a.observed.Find(act.Instance); rec != nil {
		in.restarts = rec.Restarts
	}
	a.watchOver(in)
}

func (a *app) instanceOf(id, what string, v *version) *instance {
	return &instance{
		app:      a,
		id:       id,
		what:     what,
		version:  v,
		commit:   a.commit,
		sequence: a.sequence,
		stopping: make(chan struct{}),
		left:     make(chan struct{}),
		gone:     make(chan struct{}),
	}
}

// watchOver runs an instance until it has ended, or is left.
func (a *app) watchOver(in *instance) {
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel = cancel
	a.instances[in.id] = in
	a.wait.Go(func() {
		defer close(in.gone)
		defer cancel()
		end, err := in.run(ctx)
		if err != nil {
			return
		}
		a.post(func() {
			delete(a.instances, in.id)
			a.observed.Saw(end, a.owner.now())
		})
	})
}

func (a *app) logPath(instance string) string {
	return a.owner.logPath(a.home, instance)
}
