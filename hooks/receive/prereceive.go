package receive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// way is what will be done about a command.
type action int

const (
	plainRef  action = iota // the daemon moves the ref
	propose                 // to the gate
	approve                 // of a promotion
	turnDown                // of a promotion, a rejection
	cancelled               // nothing: a change is withdrawn instead
	paused                  // nothing: landing on the branch is paused instead
	resumed                 // nothing: it is resumed
)

// acceptedCommand is one command that pre-receive let pass.
type acceptedCommand struct {
	command
	action      action
	branch      string // short name, for propose
	gated       bool   // the branch is, for propose
	environment string // for approve and turnDown
	withdraw    int    // change, for cancelled
	subject     string // of the pushed commit, for propose
	decision    repo.Hash
	unfit       *rejection // not nil: this ref is refused, and others of the push are not
	misnamed    bool       // and no policy is asked, because nobody may have a ref of that name
	afterwards  bool       // moved once what is proposed beside it has landed

	// What the policies are told, and which policies.
	force       bool // new does not contain old
	isPromotion bool // new, or old where that is deleted, is the promotion that is open for the environment
	policiesAt  repo.Hash
	tree        repo.Hash // of the pushed commit, for propose
}

// acceptedPush is a push that pre-receive let pass; proc-receive does this and nothing else.
type acceptedPush struct {
	commands map[string]acceptedCommand // by ref
	options  options
	dirs     []string // below objects/, into which its objects go
}

// options are the push options that mean something.
type options struct {
	raw      []string
	nowait   bool
	cancel   int
	pause    bool
	resume   bool
	reason   string   // of an approval, rejection, pause or resumption
	warnings []string // for the pusher
}

// validateTimeout bounds the whole of pre-receive, which the pusher waits for.
const validateTimeout = 2 * time.Minute

// maxInput is what the commands of pre-receive may be.
const maxInput = maxCommands * (2*41 + maxPacket/16)

// preReceive answers the hook that git runs while the objects of the push are in
// quarantine. A refusal leaves no object behind; nothing is promised yet.
func (l *Listener) preReceive(ctx context.Context, h *hook, p *push, header wire.Header) {
	ctx, cancel := context.WithTimeout(ctx, validateTimeout)
	defer cancel()
	input, err := io.ReadAll(io.LimitReader(h.in, maxInput+1))
	var rejections []*rejection
	var notes []string
	if err == nil {
		rejections, notes, err = l.validatePush(ctx, p, header, input)
	}
	if errors.Is(err, errTooBig) { // the pusher's to mend
		rejections, err = []*rejection{reject("this push holds what is too big to be checked",
			"shorten the commit's message (git commit --amend), or put fewer files into one directory, then push again",
			strings.TrimSuffix(err.Error(), ": "+errTooBig.Error()))}, nil
	}
	log := l.Log.With("repo", p.repository, "user", p.actor.User)
	switch {
	case errors.Is(err, errGone), err != nil && p.ctx.Err() != nil:
		log.Info("push went away before it was checked")
	case err != nil:
		log.Error("push could not be checked", "err", err)
		r := reject("headgate could not check this push; nothing was changed",
			"push again; if it stays, tell an administrator: the server's log has more at "+l.Now().UTC().Format(time.RFC3339))
		h.lines(r.lines()...)
	case len(rejections) > 0:
		for i, r := range rejections {
			if i == maxShown {
				h.lines(fmt.Sprintf("error: and %d more", len(rejections)-maxShown))
				break
			}
			h.lines(r.lines()...)
		}
		log.Info("push refused", "reason", terminal.Plain(rejections[0].What))
		if p.accepted == nil {
			break
		}
		// Behind the ref git prints its own "pre-receive hook declined" for what is
		// refused here, and our reason for what is refused in proc-receive, to which
		// objects come out of the quarantine. So nothing may be in it.
		if err := empty(p.refusing.Objects); err != nil {
			log.Error("refused push could not be taken apart", "err", err)
			p.accepted = nil
			break
		}
		h.exit(0)
		return
	default:
		h.lines(notes...)
		h.exit(0)
		return
	}
	h.exit(1)
}

// maxShown refusals of one push are spelled out.
const maxShown = 10

// validatePush decides about a whole push and keeps what it decided in p.
// Rejections refuse all of it; notes are for the pusher of one that goes on. An
// error is the server's.
func (l *Listener) validatePush(
	ctx context.Context, p *push, header wire.Header, input []byte,
) (_ []*rejection, notes []string, err error) {
	refuse := func(what, hint string) ([]*rejection, []string, error) {
		return []*rejection{reject(what, hint)}, nil, nil
	}
	if header.Overflow {
		return refuse(errOptions.Error(), "give fewer or shorter -o options")
	}
	if len(input) > maxInput {
		return refuse(errTooMany.Error(), "push in several steps")
	}
	opts, unfit := parseOptions(header.Options)
	commands, err := parseCommands(input)
	if errors.Is(err, errTooMany) {
		return refuse(err.Error(), "push in several steps")
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := l.Store.Repository(p.repository)
	if err != nil {
		return nil, nil, err
	}
	if damaged := r.Damage(); damaged != nil {
		return refuse(damaged.Error()+"; nothing in it moves until that is repaired",
			"tell an administrator: headgate doctor names what is damaged")
	}
	q, err := quarantineOf(r, header.Quarantine)
	if err != nil {
		return nil, nil, err
	}
	if unfit != nil {
		p.accepted, p.refusing = &acceptedPush{commands: refuseAll(commands, nil, unfit)}, q
		return []*rejection{unfit}, nil, nil
	}
	v := &validation{l: l, r: r, push: p, access: l.Access(), quarantine: q, options: opts}
	if v.dirs, err = arriving(q); err != nil {
		return nil, nil, err
	}

	rejections, err := v.all(ctx, commands)
	if v.objects != nil {
		v.objects.close()
	}
	if v.undo != nil && (err != nil || len(rejections) > 0) {
		v.undo()
	}
	if err != nil {
		return nil, nil, err
	}
	if len(rejections) > 0 {
		p.accepted, p.refusing = &acceptedPush{commands: refuseAll(commands, v.passed, rejections[0])}, q
		return rejections, nil, nil
	}
	p.accepted = &acceptedPush{commands: v.passed, options: opts, dirs: v.dirs}

	notes = append(opts.warnings, warningLines(v.warnings)...)
	notes = append(notes, v.notices...)
	for _, c := range commands {
		if unfit := v.passed[c.ref].unfit; unfit != nil {
			notes = append(notes, unfit.lines()...)
		}
	}
	return nil, notes, nil
}

// priorities are what -o priority= takes.
var priorities = []string{"high", "normal", "low"}

// refuseAll are the commands of a push that is refused whole, each with its own
// reason or that of all.
func refuseAll(commands []command, known map[string]acceptedCommand, all *rejection) map[string]acceptedCommand {
	refused := make(map[string]acceptedCommand, len(commands))
	for _, c := range commands {
		ac, ok := known[c.ref]
		if !ok || ac.unfit == nil {
			ac = acceptedCommand{command: c, unfit: all}
		}
		refused[c.ref] = ac
	}
	return refused
}

// optionUsage is how each push option that means something is written.
var optionUsage = map[string]string{
	"nowait":   "-o nowait",
	"cancel":   "-o cancel=<change>",
	"pause":    "-o pause",
	"resume":   "-o resume",
	"reason":   "-o reason=<text>",
	"change":   "-o change=<change>",
	"priority": "-o priority=high, normal or low",
	"rebuild":  "-o rebuild",
}

// parseOptions reads the push options. One that is nearly one of those that mean
// something is refused: the push would do something else than its author means. Of
// others the pusher is warned. What those for the gate mean, it reads itself.
func parseOptions(raw []string) (options, *rejection) {
	o := options{raw: raw}
	for _, text := range raw {
		key, value, has := strings.Cut(text, "=")
		switch {
		case text == "nowait":
			o.nowait = true
		case key == "cancel" && has:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || strconv.Itoa(n) != value {
				return o, reject("-o cancel="+quote(value)+" names no change", "name it by its number: -o cancel=7")
			}
			o.cancel = n
		case key == "reason" && has:
			o.reason = value
		case text == "pause":
			o.pause = true
		case text == "resume":
			o.resume = true
		case text == "rebuild", key == "change" && has:
		case key == "priority" && has:
			if !slices.Contains(priorities, value) {
				return o, reject("-o priority="+quote(value)+" is no priority", "use one of: "+strings.Join(priorities, ", "))
			}
		default:
			if near, ok := yamlfile.Nearest(key, slices.Sorted(maps.Keys(optionUsage))); ok {
				return o, reject("unknown push option "+quote(text)+"; nothing was done", "did you mean "+optionUsage[near]+"?")
			}
			o.warnings = append(o.warnings, "warning: push option "+quote(text)+" means nothing to headgate")
		}
	}
	if o.pause && o.resume || (o.pause || o.resume) && o.cancel > 0 {
		return o, reject("-o pause, -o resume and -o cancel are one at a time", "push once for each")
	}
	return o, nil
}
