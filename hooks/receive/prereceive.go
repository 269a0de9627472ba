package receive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// way is what will be done about a command.
type way int

const (
	plainRef  way = iota // the daemon moves the ref
	propose              // to the gate
	approve              // of a promotion
	cancelled            // nothing: a change is withdrawn instead
)

// judged is one command that pre-receive let pass.
type judgedCommand struct {
	command
	way         way
	branch      string // short name, for propose
	gated       bool   // the branch is, for propose
	environment string // for approve
	withdraw    int    // change, for cancelled
	subject     string // of the pushed commit, for propose
	decision    repo.Hash

	// What the policies are told, and which policies.
	force       bool // new does not contain old
	isPromotion bool // new is the promotion that is open for the environment
	judgedAt    repo.Hash
	tree        repo.Hash // of the pushed commit, for propose
}

// judged is a push that pre-receive let pass; proc-receive does this and nothing else.
type judged struct {
	commands map[string]judgedCommand // by ref
	options  options
	folders  []string // below objects/, into which its objects go
	warnings yamlfile.Problems
}

// options are the push options that mean something.
type options struct {
	raw    []string
	nowait bool
	cancel int
}

// judgeTime bounds the whole of pre-receive, which the pusher waits for.
const judgeTime = 2 * time.Minute

// maxInput is what the commands of pre-receive may be.
const maxInput = maxCommands * (2*41 + maxPacket/16)

// preReceive answers the hook that git runs while the objects of the push are in
// quarantine. A refusal leaves no object behind; nothing is promised yet.
func (l *Listener) preReceive(ctx context.Context, h *hook, p *push, header wire.Header) {
	ctx, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	input, err := io.ReadAll(io.LimitReader(h.in, maxInput+1))
	var refusals []*refusal
	if err == nil {
		refusals, err = l.judgePush(ctx, p, header, input)
	}
	log := l.Log.With("repo", p.repository, "user", p.actor.User)
	switch {
	case errors.Is(err, errGone), err != nil && p.ctx.Err() != nil:
		log.Info("push went away before it was judged")
	case err != nil:
		log.Error("push could not be judged", "err", err)
		r := refuse("headgate could not judge this push; nothing was changed",
			"push again; if it stays, tell an administrator: the server's log has more at "+l.Now().UTC().Format(time.RFC3339))
		h.lines(r.lines()...)
	case len(refusals) > 0:
		for i, r := range refusals {
			if i == maxShown {
				h.lines(fmt.Sprintf("error: and %d more", len(refusals)-maxShown))
				break
			}
			h.lines(r.lines()...)
		}
		log.Info("push refused", "reason", plain(refusals[0].What))
	default:
		h.lines(warningLines(p.judged.warnings)...)
		h.exit(0)
		return
	}
	h.exit(1)
}

// maxShown refusals of one push are spelled out.
const maxShown = 10

// judgePush decides about a whole push and keeps what it decided in p. Refusals
// are for the pusher, an error is the server's.
func (l *Listener) judgePush(ctx context.Context, p *push, header wire.Header, input []byte) ([]*refusal, error) {
	if header.Overflow {
		return []*refusal{refuse(errOptions.Error(), "give fewer or shorter -o options")}, nil
	}
	if len(input) > maxInput {
		return []*refusal{refuse(errTooMany.Error(), "push in several steps")}, nil
	}
	opts, no := parseOptions(header.Options)
	if no != nil {
		return []*refusal{no}, nil
	}
	commands, err := parseCommands(input)
	if errors.Is(err, errTooMany) {
		return []*refusal{refuse(err.Error(), "push in several steps")}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := l.Store.Repository(p.repository)
	if err != nil {
		return nil, err
	}
	q, err := quarantineOf(r, header.Quarantine)
	if err != nil {
		return nil, err
	}
	j := &judging{l: l, r: r, push: p, access: l.Access(), quarantine: q, options: opts}
	if j.folders, err = arriving(q); err != nil {
		return nil, err
	}
	refusals, err := j.all(ctx, commands)
	if j.objects != nil {
		j.objects.close()
	}
	if err != nil || len(refusals) > 0 {
		return refusals, err
	}
	p.judged = &judged{commands: j.passed, options: opts, folders: j.folders, warnings: j.warnings}
	return nil, nil
}

// parseOptions reads -o nowait and -o cancel=<change>. Others are kept as the
// pusher wrote them; they mean nothing to the server.
func parseOptions(raw []string) (options, *refusal) {
	o := options{raw: raw}
	for _, text := range raw {
		key, value, has := strings.Cut(text, "=")
		switch {
		case text == "nowait":
			o.nowait = true
		case key == "cancel" && has:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || strconv.Itoa(n) != value {
				return o, refuse("-o cancel="+quote(value)+" names no change", "name it by its number: -o cancel=7")
			}
			o.cancel = n
		}
	}
	return o, nil
}
