package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/enrolment"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Agents implements show.Backend.
func (s *Server) Agents(_ context.Context, a access.Identity) ([]show.Agent, error) {
	if err := s.administrator(a, "list agents"); err != nil {
		return nil, err
	}
	all := []show.Agent{}
	for _, one := range s.access.Load().Agents() {
		all = append(all, s.remotes.shown(one))
	}
	return all, nil
}

// Agent implements show.Backend.
func (s *Server) Agent(_ context.Context, a access.Identity, name string) (show.Agent, error) {
	if err := s.administrator(a, "look at agents"); err != nil {
		return show.Agent{}, err
	}
	one, ok := s.access.Load().Agent(name)
	if !ok {
		return show.Agent{}, noAgent(name)
	}
	return s.remotes.shown(one), nil
}

func noAgent(name string) error {
	return &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("there is no agent %q", name),
		Hint: "see those there are", Command: "agent list",
	}
}

func (r *remotes) shown(a access.Agent) show.Agent {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := show.Agent{
		Name:         a.Name,
		Tags:         a.Tags,
		Repositories: a.Repositories,
		Key:          a.Key.Fingerprint,
		Drained:      a.Drained,
		Runs:         []show.AgentRuns{},
	}
	if last, ok := r.seen[a.Name]; ok && last.Key == s.Key {
		s.Since, s.From, s.Version = last.At, last.From, last.Version
	}
	l := r.links[a.Name]
	if l == nil {
		return s
	}
	s.Runs = runsOf(l.target.Known())
	// A connection that says nothing any more lasts until somebody has waited for it in vain.
	if line := r.lines[a.Name]; line != nil && line.hello.Version != 0 && l.target.Live() {
		s.Connected, s.Since = true, line.since
	}
	s.Upgrade = r.shownUpgrade(a)
	return s
}

// runsOf is what an agent says that it has, in order.
func runsOf(known map[target.Key]target.Observed) []show.AgentRuns {
	all := []show.AgentRuns{}
	for k, o := range known {
		runs := show.AgentRuns{
			Repository:  k.Repository,
			Environment: k.Environment,
			Application: k.Application,
			State:       show.State(o.State.String()),
			Message:     o.Message,
		}
		if len(o.Units) > 0 {
			runs.Release = o.Units[0].Release
		}
		all = append(all, runs)
	}
	slices.SortFunc(all, func(a, b show.AgentRuns) int {
		return cmp.Or(strings.Compare(a.Repository, b.Repository), strings.Compare(a.Environment, b.Environment),
			strings.Compare(a.Application, b.Application))
	})
	return all
}

// RemoveAgent implements show.Backend.
func (s *Server) RemoveAgent(ctx context.Context, a access.Identity, name string) (show.Done, error) {
	if err := s.administrator(a, "remove agents"); err != nil {
		return show.Done{}, err
	}
	if _, ok := s.access.Load().Agent(name); !ok {
		return show.Done{}, noAgent(name)
	}
	done := show.Done{
		What: "removed the agent " + name + ": its key lets in no more",
		Next: "what runs there goes on; to stop it, on that machine: headgate agent stop",
	}
	return s.member(ctx, a, "remove agents", "Remove the agent "+name, done,
		func(data []byte) ([]byte, error) { return access.RemoveAgent(data, name) })
}

// DrainAgent implements show.Backend.
func (s *Server) DrainAgent(ctx context.Context, a access.Identity, name string, drained bool) (show.Done, error) {
	if err := s.administrator(a, "drain agents"); err != nil {
		return show.Done{}, err
	}
	there, ok := s.access.Load().Agent(name)
	if !ok {
		return show.Done{}, noAgent(name)
	}
	subject, done := "Resume the agent "+name, show.Done{What: name + " is deployed to again, first what is declared now"}
	if drained {
		subject = "Drain the agent " + name
		done = show.Done{
			What: "nothing new is deployed to " + name + " and it is not counted; what runs there goes on",
			Next: "until it is resumed",
		}
	}
	if there.Drained == drained {
		done.What = name + " is so already: " + done.What
		return done, nil
	}
	return s.member(ctx, a, "drain agents", subject, done,
		func(data []byte) ([]byte, error) { return access.DrainAgent(data, name, drained) })
}

// EnrolAgent implements show.Backend.
func (s *Server) EnrolAgent(_ context.Context, a access.Identity, q show.AgentRequest) (e show.Enrolment, err error) {
	if err := s.administrator(a, "have machines enrol"); err != nil {
		return e, err
	}
	if _, there := s.access.Load().Agent(q.Name); there {
		return e, &show.Error{
			Kind: show.Denied,
			What: fmt.Sprintf("there is an agent %q already", q.Name),
			Hint: "give another name, or remove it first", Command: "agent remove " + q.Name,
		}
	}
	for _, name := range q.Repositories {
		if _, err := s.readable(a, name); err != nil {
			return e, err
		}
	}
	if q.Cluster != nil {
		if q.Tags, err = checkCluster(q); err != nil {
			return e, err
		}
	}
	if e.Program, err = s.remotes.program(); err != nil {
		return e, err
	}
	secret, t, err := s.remotes.enrolments.Create(enrolment.Request{
		By:           a.User,
		Name:         q.Name,
		Tags:         q.Tags,
		Repositories: q.Repositories,
		Life:         q.Life,
	})
	var refusal enrolment.Refusal
	if errors.As(err, &refusal) {
		return e, &show.Error{Kind: show.Usage, What: refusal.Error()}
	}
	if err != nil {
		return e, err
	}
	s.log.Info("a machine may enrol", "enrolment", t.ID, "agent", t.Name, "by", a.User, "expires", t.Expires)
	e.Name, e.Tags, e.Expires, e.Platform = t.Name, t.Tags, t.Expires, runtime.GOOS+"/"+runtime.GOARCH
	if q.Cluster != nil {
		e.Platform, e.Program = "", "" // it is another program
		e.Manifest, err = s.installation(q.Cluster, t, secret).Manifest()
		return e, err
	}
	if s.remotes.downloads() {
		e.Download = s.about.GitHTTP + programPath + e.Program
		e.Command = fmt.Sprintf(
			"curl -fsSo headgate %s && echo '%s  headgate' | sha256sum -c --quiet && chmod +x headgate && ", e.Download, e.Program)
	}
	e.Command += fmt.Sprintf("echo %s | ./headgate agent join --server %s --host-key %s --signing-key %s",
		secret, s.about.SSH, s.about.HostKey, keysOf(s.store.Signer()))
	return e, nil
}

// keysOf are the keys whose signatures an agent is to believe.
func keysOf(signer *repo.Signer) (keys agent.Keys) {
	for i, key := range signer.Signers() {
		if name := gossh.FingerprintSHA256(key); i == 0 {
			keys.Signing = name
		} else {
			keys.Former = append(keys.Former, name)
		}
	}
	return keys
}
