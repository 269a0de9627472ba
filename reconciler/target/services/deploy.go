package services

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/services/proxy"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"

	"github.com/headgate-cd/headgate/reconciler/target/logfile"
)

// deploy begins an action of a staged deployment.
func (a *app) deploy(act rollout.Action) {
	log := a.owner.Log.With("env", a.key().Environment, "app", a.key().Application, "commit", a.commit)
	switch act.Kind {
	case rollout.Enter:
		log.Info("deployment goes on", "stage", string(act.Stage))
	case rollout.Shift:
		log.Info("traffic shifts", "percent", act.Weight)
	case rollout.GiveUp:
		log.Warn("deployment given up", "why", act.Why)
		a.stopAsking()
	case rollout.Call:
		switch call := a.compose.Deployment.Calls[act.Name]; {
		case call.URL != "":
			a.ask(func(ctx context.Context) rollout.Event { return callHook(ctx, call.URL, a.hookRequest(act)) })
		case call.Command != nil:
			a.runHook(act, call)
		}
	case rollout.Query:
		query := a.compose.Deployment.Queries[act.Name]
		above := slices.ContainsFunc(a.plan.Deployment.Alarms,
			func(of alarm.Alarm) bool { return of.Name == act.Name && of.Above })
		query, err := QueryOf(query, a.declared)
		a.ask(func(ctx context.Context) rollout.Event {
			if err != nil {
				return rollout.Measured{Measured: alarm.Measured{Name: act.Name, Err: err.Error()}}
			}
			return rollout.Measured{Measured: query.Ask(ctx, act.Name, above)}
		})
	}
}

// stopAsking ends what is asked still: nobody waits for its answer.
func (a *app) stopAsking() {
	if a.endAsked != nil {
		a.endAsked()
		a.asked, a.endAsked = nil, nil
	}
}

// askTimeout bounds one call of a hook, and one question to Prometheus.
const askTimeout = 30 * time.Second

// ask has a question answered beside the loop. An answer that comes when another
// commit is declared says nothing.
func (a *app) ask(question func(context.Context) rollout.Event) { a.askWithin(askTimeout, question) }

func (a *app) askWithin(timeout time.Duration, question func(context.Context) rollout.Event) {
	commit := a.commit
	if a.endAsked == nil {
		a.asked, a.endAsked = context.WithCancel(a.owner.ctx)
	}
	asked := a.asked
	a.wait.Go(func() {
		ctx, cancel := context.WithTimeout(asked, timeout)
		defer cancel()
		e := question(ctx)
		a.post(func() {
			if a.commit == commit {
				a.observed.Saw(e, a.owner.now())
			}
		})
	})
}

// hookRequest is what a hook is told.
type hookRequest struct {
	Repository  string `json:"repository"`
	Environment string `json:"environment"`
	Application string `json:"application"`
	Hook        string `json:"hook"`
	Stage       string `json:"lifecycleStage"`
	Commit      string `json:"environmentCommit"`
	Release     int    `json:"release"`
	Source      string `json:"releaseCommit"`
}

func (a *app) hookRequest(act rollout.Action) hookRequest {
	return hookRequest{
		Repository:  a.key().Repository,
		Environment: a.key().Environment,
		Application: a.key().Application,
		Hook:        act.Name,
		Stage:       string(act.Stage),
		Commit:      a.commit,
		Release:     a.declared.Release.Number,
		Source:      a.declared.Release.Commit,
	}
}

// asking is what questions are asked with. It follows nobody elsewhere.
var asking = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Pauses before a hook is called again.
const (
	hookAgain    = 30 * time.Second // as ECS does
	hookRetry    = 5 * time.Second  // when it could not be reached
	maxHookAgain = time.Hour
)

// callHook calls a hook. It answers with a status from 200 to 299, and may say
// {"hookStatus": "SUCCEEDED", "FAILED" or "IN_PROGRESS", "callBackDelay": seconds,
// "message": text}. What passes by itself, such as a server that restarts, is tried
// again until the hook's time is up.
func callHook(ctx context.Context, address string, about hookRequest) rollout.Hooked {
	e := rollout.Hooked{Name: about.Hook, Result: rollout.InProgress, Again: hookRetry}
	body, err := json.Marshal(about)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return rollout.Hooked{Name: about.Hook, Result: rollout.Failed, Message: err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "headgate-hook")
	resp, err := asking.Do(req)
	if err != nil {
		e.Message = cause(err).Error()
		return e
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var said struct {
		Status  rollout.HookResult `json:"hookStatus"`
		Delay   float64            `json:"callBackDelay"`
		Message string             `json:"message"`
	}
	parsed := json.Unmarshal(data, &said) == nil
	line, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if parsed {
		line = said.Message
	}
	e.Message = terminal.Plain(line[:min(len(line), 300)])
	again := resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
	switch {
	case err != nil:
		e.Message = cause(err).Error()
	case again:
		e.Message = strings.TrimSuffix(fmt.Sprintf("answered %d: %s", resp.StatusCode, e.Message), ": ")
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		e.Result = rollout.Failed
		e.Message = strings.TrimSuffix(fmt.Sprintf("answered %d: %s", resp.StatusCode, e.Message), ": ")
	case said.Status == "" || said.Status == rollout.Succeeded:
		e.Result = rollout.Succeeded
	case said.Status == rollout.InProgress:
		e.Again = hookAgain
		if said.Delay > 0 {
			e.Again = min(maxHookAgain, time.Duration(said.Delay*float64(time.Second)))
		}
	default:
		e.Result = rollout.Failed
	}
	if e.Result != rollout.InProgress {
		e.Again = 0
	}
	return e
}

// backends are the instances that get requests, as the proxy knows them.
func (a *app) backends(ids []string) (all []proxy.Backend) {
	for _, id := range ids {
		if in := a.instances[id]; in != nil {
			all = append(all, proxy.Backend{
				ID:      id,
				Address: address(in.port),
				Release: strconv.Itoa(in.version.Release.Number),
				HTTP2:   in.version.Service.HTTP2,
			})
		}
	}
	return all
}

// configure has requests carried as is declared. Which requests a service gets
// changes once what is declared has taken over.
func (a *app) configure() {
	c := a.compose
	if c == nil || a.declared == nil {
		return
	}
	if a.configured != c {
		a.configured = c
		for _, s := range c.Services {
			a.pool(s.Name).Configure(a.settings(s))
		}
	}
	if a.routed == c {
		return
	}
	for _, s := range a.plan.Services {
		f := a.observed.Services[s.Name]
		if f == nil || f.Serving != s.Version && (a.routed != nil || f.Serving != "") {
			return
		}
	}
	a.routed = c
	a.reroute()
	a.resecure()
}

// stallTimeout is how long a visitor may take nothing and send nothing.
const stallTimeout = time.Minute

// settings are those of a service's pool.
func (a *app) settings(s Service) proxy.Settings {
	x := s.Proxy
	settings := proxy.Settings{
		Traffic:   x.Traffic,
		Hold:      x.Hold,
		Page:      a.declared.Files[x.Page],
		Sticky:    x.Sticky,
		Test:      x.TestHeader,
		MaxBody:   x.MaxBody,
		MaxHeader: x.MaxHeader,
		Timeout:   x.Timeout,
		Stall:     stallTimeout,
		HTTP2:     a.owner.transport2,
	}
	log := a.access[s.Name]
	switch {
	case !x.AccessLog:
		return settings
	case log == nil:
		var err error
		if log, err = logfile.Open(a.logPath(s.Name + "-access")); err != nil {
			a.owner.Log.Warn("no access log", "env", a.key().Environment, "app", a.key().Application, "service",
				s.Name, "err", err)
			return settings
		}
		a.access[s.Name] = log
	}
	settings.Access = func(e proxy.Access) { _, _ = log.Write([]byte(e.String() + "\n")) } // it never fails
	return settings
}

// reroute says which requests to each address are for which service.
func (a *app) reroute() {
	for _, l := range a.listeners {
		var all []proxy.Route
		for _, s := range a.sharing(l.key) {
			if len(s.Proxy.Routes) == 0 {
				all = append(all, proxy.Route{Pool: a.pool(s.Name)})
			}
			for _, r := range s.Proxy.Routes {
				r.Pool = a.pool(s.Name)
				all = append(all, r)
			}
		}
		if len(all) == 0 { // it is not declared any more, and serves until what is has taken over
			all = []proxy.Route{{Pool: a.pool(l.service)}}
		}
		l.Route(all...)
	}
}

// sharing are the services whose requests come to an address.
func (a *app) sharing(key string) (all []Service) {
	if a.routed == nil {
		return nil
	}
	for _, s := range a.routed.Services {
		for _, k := range listenKeys(s, a.owner.serviceAddress()) {
			if k == key {
				all = append(all, s)
			}
		}
	}
	return all
}

// secure has a listener speak TLS if its service is declared so.
func (a *app) secure(l *listening, service string) error {
	i := slices.IndexFunc(a.compose.Services, func(s Service) bool { return s.Name == service })
	switch {
	case i < 0 || !a.compose.Services[i].Proxy.TLS:
		l.tls, l.acme = false, false
		l.Secure(nil)
		l.Instead(nil)
	case a.compose.Services[i].Proxy.ACME:
		a.secureByACME(l)
	default:
		c := &proxy.Certificates{Dir: filepath.Join(a.owner.CertificateDir, a.key().Repository), Every: time.Second}
		if err := c.Check(); err != nil {
			return fmt.Errorf("port %s of service %s cannot have TLS: %w", l.key, service, err)
		}
		l.tls, l.acme = true, false
		l.Secure(c.Config())
		l.Instead(nil)
	}
	return nil
}
