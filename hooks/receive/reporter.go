package receive

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// reporter writes what a pusher reads while a change is on its way: the lines
// behind "remote: " (design/terminal/push.txt). It knows no socket and no
// clock but what it is told. Headgate's own words start at the margin, two
// spaces are detail, "|" is the build's own output.
type reporter struct {
	server     show.Server
	repository string
	branch     string // short name
	change     int
	revision   int
	subject    string
	pushed     time.Time

	others   []int          // changes of the pusher's that are open beside it
	paused   *show.Pause    // nothing lands on the branch for now
	came     time.Time      // when the pusher did
	attached bool           // to a change that was there already
	greeted  bool           // the first state has been told
	reused   bool           // the verdict was there already
	place    int            // last told
	red      *gate.Progress // a verdict that is not told yet
	step     stepLines
}

// maxStepLines of a build's own output are shown for each step; a failing step
// shows its last few as well.
const (
	maxStepLines  = 200
	lastStepLines = 20
)

// stepLines is what has been told of the running step.
type stepLines struct {
	number  int
	phase   string
	command string
	opened  bool     // its "> " line is out, or it has ended
	shown   int      // lines of output
	part    string   // what was shown of a line that is not ended yet
	kept    []string // the last ones that were not shown
	left    int      // how many were not shown
	line    int      // of the whole log: the newest, or the last of the first step that failed
	failed  bool     // a step has failed; line stays
	began   time.Duration
}

// hello is the first line about a change.
func (n *reporter) greeting(now time.Time) []string {
	n.came = now
	if n.attached {
		line := fmt.Sprintf("change %d, revision %d, pushed %s ago: attached again", n.change, n.revision,
			show.Elapsed(now.Sub(n.pushed)))
		return append([]string{line}, n.related()...)
	}
	took := ""
	if n.revision > 1 {
		took = fmt.Sprintf(", in place of revision %d", n.revision-1)
	}
	line := fmt.Sprintf("change %d, revision %d%s: %s", n.change, n.revision, took, n.subject)
	return append([]string{terminal.Cut(terminal.Plain(line), 200)}, n.related()...)
}

// maxOthers is how many other changes of their own a pusher is told of.
const maxOthers = 3

// related tells of the pusher's other changes to the branch, which land as well:
// this one may have been meant to take the place of one of them.
func (n *reporter) related() (lines []string) {
	if n.paused != nil {
		lines = append(oneLine("", n.paused.String()),
			"  it is built, and lands when somebody resumes: "+n.command("repo resume"))
	}
	if len(n.others) == 0 {
		return lines
	}
	shown := n.others[max(0, len(n.others)-maxOthers):]
	for _, other := range shown {
		lines = append(lines, fmt.Sprintf("your change %d is still queued for %s, and lands too", other, n.branch))
	}
	if left := len(n.others) - len(shown); left > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", left))
	}
	last := shown[len(shown)-1]
	return append(lines,
		fmt.Sprintf("hint: to let this one take the place of %d: %s", last, n.command("change replace", last, n.change)),
		fmt.Sprintf("hint: to withdraw %d: %s", last, n.command("change cancel", last)))
}

// nowait is all about a change whose pusher does not wait.
func (n *reporter) nowait(p gate.Progress) []string {
	text := fmt.Sprintf("accepted as change %d", n.change)
	if p.Place > 0 {
		text = fmt.Sprintf("queued at %d as change %d%s", p.Place, n.change, lands(p))
	}
	if n.revision > 1 {
		text += fmt.Sprintf(": revision %d, in place of revision %d", n.revision, n.revision-1)
	}
	return append(oneLine("", text),
		"hint: to follow it: "+n.command("change log -f", n.change), "hint: to withdraw it: "+
			n.command("change cancel", n.change))
}

// progress tells one change of state.
func (n *reporter) progress(p gate.Progress) []string {
	var lines []string
	// A red verdict is told when it is not the last word; the refusal that it
	// leads to says the same with more.
	if red := n.red; red != nil {
		n.red = nil
		if p.Kind != gate.Refused || p.Reason != red.Reason {
			lines = append(oneLine(clock(red.At)+" red: ", red.Reason), details(red.Details)...)
		}
	}
	return append(lines, n.event(p)...)
}

func (n *reporter) event(p gate.Progress) (lines []string) {
	first := !n.greeted
	n.greeted = true
	switch p.Kind {
	case gate.Queued:
		return n.queued(p, first)
	case gate.Building:
		n.step = stepLines{}
		if first && n.attached {
			percent := ""
			if now, whole := n.came.Sub(p.At), p.LandsAt.Sub(p.At); now > 0 && now < whole {
				percent = fmt.Sprintf(", %d %%", 100*now/whole)
			}
			return oneLine("", "building "+p.With+percent+lands(p))
		}
		if first {
			lines = append(lines, n.url())
		}
		lines = append(lines, oneLine(clock(p.At)+" ", "building "+p.With+", tree "+show.Short(p.Tree.String()))...)
		if first {
			lines = append(lines, n.detach()...)
		}
		return lines
	case gate.Verdict:
		if p.Reused {
			n.reused = true
			text := "identical tree, green since " + p.GreenSince.UTC().Format("15:04") + " UTC"
			if p.From != "" {
				text += " (" + p.From + ")"
			}
			return oneLine("", text+": nothing to build")
		}
		if !p.Green && p.Reason != "" {
			n.red = &p
		}
		return nil
	case gate.Landed:
		return n.landed(p)
	case gate.Refused, gate.Conflict:
		text := fmt.Sprintf("%d refused: %s", n.change, p.Reason)
		stays := "stays"
		if p.Kind == gate.Conflict {
			text, stays = fmt.Sprintf("%d %s", n.change, p.Reason), "is"
		}
		lines = append(oneLine("error: ", text), details(p.Files)...)
		if p.MoreFiles > 0 {
			lines = append(lines, fmt.Sprintf("  and %d more", p.MoreFiles))
		}
		lines = append(lines, details(p.Details)...)
		if p.Tip != repo.Zero {
			lines = append(lines, oneLine("  ", fmt.Sprintf("%s %s at %s", n.branch, stays, show.Short(p.Tip.String())))...)
		}
		if p.Log != "" {
			lines = append(lines, oneLine("  ", "log: "+n.logURL())...)
		}
		return append(lines, n.hint(p.Hint)...)
	case gate.Withdrawn:
		text := fmt.Sprintf("%d was withdrawn", n.change)
		if p.Reason != "" {
			text += ": " + p.Reason
		}
		return append(append(oneLine("error: ", text), details(p.Details)...), n.hint(p.Hint)...)
	case gate.Restarting:
		return n.restarting(p.At)
	}
	return nil
}

// detach says how to leave and come back: a second push does not bring one back
// once somebody else has landed, a command does, from anywhere.
func (n *reporter) detach() []string {
	return []string{
		"hint: Ctrl-C detaches and cancels nothing; to come back: " + n.command("change log -f", n.change),
		"hint: to withdraw it: " + n.command("change cancel", n.change),
	}
}

// command is an SSH command about changes of the repository.
func (n *reporter) command(name string, changes ...int) string {
	s := n.server.Command(name + " " + n.repository)
	for _, c := range changes {
		s += " " + strconv.Itoa(c)
	}
	return s
}

func (n *reporter) queued(p gate.Progress, first bool) (lines []string) {
	place := p.Place != n.place
	n.place = p.Place
	switch {
	case p.Waits: // for a person, or a time
		lines = append(oneLine("", fmt.Sprintf("change %d waits: %s", n.change, p.Reason)), details(p.Details)...)
		lines = append(lines, n.hint(p.Hint)...)
		if first {
			lines = append(lines, n.detach()...)
		}
		return lines
	case p.Reason != "":
		lines = oneLine(clock(p.At)+" ", p.Reason)
		return append(append(lines, details(p.Details)...), n.hint(p.Hint)...)
	case !first && !place:
		return nil
	}
	text := "queued" + lands(p)
	if p.Place > 0 {
		text = fmt.Sprintf("queued at %d%s", p.Place, lands(p))
	}
	switch {
	case first && n.attached:
		return oneLine("", text)
	case first:
		if !p.LandsBy.IsZero() && !p.LandsSoon {
			text += " (by " + p.LandsBy.UTC().Format("15:04") + ", nine times in ten)"
		}
		return slices.Concat([]string{n.url()}, oneLine("", text), n.detach())
	}
	return oneLine(clock(p.At)+" ", fmt.Sprintf("%d is now %s", n.change, text))
}

func (n *reporter) landed(p gate.Progress) []string {
	lines := oneLine("success: ", fmt.Sprintf("%d landed on %s as %s, %s after your push", n.change, n.branch,
		show.Short(p.Landed.String()), after(p.Took)))
	if len(p.Details) > 0 { // which say more than we know of tree and release
		return append(append(lines, details(p.Details)...), n.hint(p.Hint)...)
	}
	if !n.reused && p.Tree != repo.Zero {
		lines = append(lines, "  green: tree "+show.Short(p.Tree.String()))
	}
	return append(lines, n.hint(p.Hint)...)
}

// released tells of the release that a landing has made, and where it goes.
func (n *reporter) released(release int, next []show.Next) (lines []string) {
	name := fmt.Sprintf("release %d", release)
	if len(next) == 0 {
		return []string{"  " + name}
	}
	for _, to := range next {
		switch {
		case to.Going && len(to.URLs) > 0:
			at := to.URLs[0]
			if show.LocalOnly(at, n.server.Name) {
				at += " (on the server's machine)"
			}
			lines = append(lines, fmt.Sprintf("  %s, now going to %s: %s", name, to.Environment, at))
		case to.Going:
			lines = append(lines, fmt.Sprintf("  %s, now going to %s", name, to.Environment))
		case to.Waits != "":
			lines = append(lines, oneLine("  ", fmt.Sprintf("%s waits before %s: %s", name, to.Environment, to.Waits))...)
			lines = append(lines, hint(n.server.Command("why "+n.repository+" "+to.Environment))...)
		default:
			lines = append(lines, fmt.Sprintf("  %s waits before %s", name, to.Environment))
		}
	}
	return lines
}

// restarting is the last word of a server that stops.
func (n *reporter) restarting(at time.Time) []string {
	return append(oneLine(clock(at)+" ", fmt.Sprintf("server restarting; %d is safe and keeps its place", n.change)),
		"hint: to come back in a moment: "+n.command("change log -f", n.change))
}

// open names the running step, once: before its first output, or when it has
// been silent for a moment.
func (n *reporter) open() []string {
	s := &n.step
	if s.opened || s.number == 0 {
		return nil
	}
	s.opened = true
	return []string{terminal.Cut(terminal.Plain("  > "+s.title()), 200)}
}

// still tells, after a long silence, that there is nothing new.
func (n *reporter) still(now time.Time, last gate.Progress) []string {
	text := "still " + string(last.Kind)
	switch {
	case last.Kind == gate.Building && n.step.number > 0:
		text = "still at " + n.step.phase + ": " + firstLine(n.step.command)
	case last.Kind == gate.Building:
		text = "still building " + last.With
	case last.Kind == gate.Queued && last.Place > 0:
		text = fmt.Sprintf("still queued at %d", last.Place)
	}
	return []string{terminal.Plain(clock(now) + " " + text + lands(last))}
}

// reason is what git prints behind a ref that was refused.
func (n *reporter) reason(p gate.Progress) string {
	switch {
	case p.Kind == gate.Restarting:
		return fmt.Sprintf("restarting; %d still queued", n.change)
	case p.Kind == gate.Withdrawn:
		if p.Short != "" {
			return terminal.Cut(terminal.Plain(p.Short), 200) + fmt.Sprintf(", change %d", n.change)
		}
		return fmt.Sprintf("withdrawn: change %d", n.change)
	}
	what := p.Short
	if what == "" {
		what = firstLine(p.Reason)
	}
	if p.Kind == gate.Refused {
		return terminal.Cut(terminal.Plain("refused: "+what), 200) + fmt.Sprintf(", change %d", n.change)
	}
	if what == "" {
		what = "conflict, change " + strconv.Itoa(n.change)
	}
	return terminal.Cut(terminal.Plain(what), 200)
}

// log tells one event of the build's log.
func (n *reporter) log(e show.LogEvent) []string {
	s := &n.step
	switch e.Kind {
	case "step":
		*s = stepLines{number: e.Step, phase: e.Phase, command: e.Command, line: s.line, failed: s.failed,
			began: time.Duration(e.At)}
	case show.LogPart:
		if s.shown >= maxStepLines || e.Text == s.part {
			return nil
		}
		lines := n.open()
		text := e.Text
		if rest, continues := strings.CutPrefix(text, s.part); continues && s.part != "" {
			text = "... " + rest
		}
		s.part = e.Text
		return append(lines, output(text)...)
	case "out":
		if !s.failed {
			s.line = e.Line
		}
		lines := n.open()
		// What was shown of the line before it had its end is not said again.
		if part := s.part; part != "" {
			s.part = ""
			rest, continues := strings.CutPrefix(e.Text, part)
			switch {
			case continues && rest == "":
				return lines
			case continues:
				return append(lines, output("... "+rest)...)
			}
		}
		if s.shown < maxStepLines {
			s.shown++
			return append(lines, output(e.Text)...)
		}
		if s.left == 0 {
			lines = append(lines, oneLine("  | ", "... more: "+n.logURL())...)
		}
		s.left++
		if s.kept = append(s.kept, e.Text); len(s.kept) > lastStepLines {
			s.kept = s.kept[1:]
		}
		return lines
	case "end":
		s.opened = true
		mark := "+"
		var lines []string
		if e.Exit != 0 {
			s.failed = true
			mark = "x"
			if s.left > len(s.kept) {
				lines = append(lines, fmt.Sprintf("  | ... %d lines left out", s.left-len(s.kept)))
			}
			for _, text := range s.kept {
				lines = append(lines, output(text)...)
			}
		}
		s.kept = nil
		return append(lines, column("  "+mark+" "+s.title(), show.Elapsed(time.Duration(e.Took))))
	case "note":
		if !s.failed {
			s.line = e.Line
		}
		// CodeBuild's own words about phases stand in the log; here the steps say
		// the same in one line each. What somebody should act on is told.
		if e.About != show.NoteWarning {
			return nil
		}
		return oneLine("  ", cutBytes(e.Text, maxOutputLine))
	}
	return nil
}

func (s *stepLines) title() string { return s.phase + ": " + firstLine(s.command) }

// maxOutputLine of one line of a build's output are shown; the log has it whole.
const maxOutputLine = 600

func output(text string) []string {
	return oneLine("  | ", cutBytes(text, maxOutputLine))
}

// column puts the time a step took at the right.
func column(left, right string) string {
	left = terminal.Plain(left)
	space := usualWidth - utf8.RuneCountInString(left) - len(right)
	return left + strings.Repeat(" ", max(1, space)) + right
}

func (n *reporter) url() string {
	return n.server.HTTP + "/" + n.repository + "/changes/" + strconv.Itoa(n.change)
}

func (n *reporter) logURL() string {
	if n.step.line > 0 {
		return n.url() + "#L" + strconv.Itoa(n.step.line)
	}
	return n.url()
}

func lands(p gate.Progress) string {
	text := p.Estimate.Text(func(at time.Time) string { return at.UTC().Format("15:04 UTC") })
	if text == "" {
		return ""
	}
	return ", lands " + text
}

func details(texts []string) (lines []string) {
	const most = 40
	for i, t := range texts {
		if i == most {
			return append(lines, fmt.Sprintf("  and %d more", len(texts)-most))
		}
		lines = append(lines, oneLine("  ", t)...)
	}
	return lines
}

// hint is one that was recorded.
func (n *reporter) hint(text string) []string { return hint(n.server.Commands(text)) }

func hint(text string) []string {
	if text == "" {
		return nil
	}
	return oneLine("hint: ", text)
}

// lines is a refusal as the pusher reads it.
func (r *rejection) lines() []string {
	lines := oneLine("error: ", r.What)
	return append(append(lines, details(r.Where)...), hint(r.Hint)...)
}

func clock(at time.Time) string { return at.UTC().Format("15:04:05") }

// after is span for people who waited a moment only.
func after(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return show.Elapsed(d)
}

func firstLine(s string) string {
	line, rest, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more && strings.TrimSpace(rest) != "" {
		line += " ..."
	}
	return line
}

// cutBytes shortens s before it is made plain.
func cutBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + " ..."
}
