package forge

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// propose proposes what a request is now, ends what it is not any more, or closes
// it when it has landed.
func (p *pass) propose(ctx context.Context, r Request, m *remembered) error {
	who := access.ByForge(p.conf.Name, r.Author.Login)
	s, has := p.changes[r.Number]
	end := func(why string) error {
		if has && s.Open() {
			if err := p.w.hub.Gate.EndRequest(ctx, p.r.Name(), s.Number, who, r.State == Merged, why); err != nil {
				return err
			}
			if err := p.readChanges(); err != nil {
				return err
			}
			if now := p.changes[r.Number]; now.Open() {
				p.lookAt[r.Number] = time.Now().Add(whileBusy)
			}
		}
		return nil
	}
	switch r.State {
	case Closed:
		return end("the request was closed at the forge")
	case Merged:
		return end("the request was merged at the forge, past the gate")
	}

	if has && s.Branch != r.Target {
		if err := end(fmt.Sprintf("the request is to %s now", r.Target)); err != nil {
			return err
		}
		has = false
	}
	if has {
		head := s.Head()
		e, ended := s.End()
		switch {
		case head.Commit == r.Head && ended && e.Kind == change.Landed:
			return p.close(ctx, r, e)
		case ended && e.Kind == change.Landed:
			has = false // what came since is another change
		case head.Commit == r.Head && (!ended || e.Kind != change.Withdrawn || !strings.HasSuffix(e.By, "@"+p.conf.Name)):
			return nil
		}
	}
	if r.Fork && m.OK != r.Head.String() {
		may, err := p.api.MayWrite(ctx, r.Author)
		if err != nil {
			return err
		}
		if !may {
			return end("a newer push to the request waits for /ok-to-test")
		}
	}
	if err := p.fetch(ctx, r); err != nil {
		return err
	}
	options := []string{requestOption + "=" + strconv.Itoa(r.Number)}
	if r.Fork {
		options = append(options, gate.OptionFork)
	}
	number := 0
	if has {
		number = s.Number
	}
	return p.revise(ctx, r, who, options, number)
}

func (p *pass) revise(ctx context.Context, r Request, who access.Identity, options []string, number int) error {
	_, err := p.w.hub.Gate.ProposeRequest(ctx, gate.Proposal{
		Repository: p.r.Name(),
		Branch:     r.Target,
		Commit:     r.Head,
		By:         who,
		Options:    options,
	}, number)
	if err != nil {
		return err
	}
	return p.readChanges()
}

// close closes a request that has landed, once the forge had time to do so itself.
func (p *pass) close(ctx context.Context, r Request, landed change.Event) error {
	if at := landed.At.Add(closeGrace); p.remote.kind != Gitea && time.Now().Before(at) {
		p.lookAt[r.Number] = at
		return nil
	}
	if err := p.api.Close(ctx, r.Number, cmp.Or(landed.New, landed.In)); err != nil {
		return err
	}
	p.memory.of(r.Number).Open = false
	return nil
}

// fetch brings in the head of a request, and nothing else. It writes no ref: the
// change's log keeps it.
func (p *pass) fetch(ctx context.Context, r Request) error {
	if p.r.Has(r.Head) {
		return nil
	}
	ref := fmt.Sprintf("refs/pull/%d/head", r.Number)
	if p.remote.kind == GitLab {
		ref = fmt.Sprintf("refs/merge-requests/%d/head", r.Number)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if _, err := p.remote.git(ctx, p.r, nil, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc",
		"--no-recurse-submodules", "--end-of-options", p.remote.url, ref); err != nil {
		return gitSaid("fetch request "+strconv.Itoa(r.Number), err)
	}
	if !p.r.Has(r.Head) {
		return fmt.Errorf("the forge says that request %d is at %s, and its %s is elsewhere: it moves", r.Number, r.Head, ref)
	}
	return nil
}
