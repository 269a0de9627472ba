package shell

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Commands that show what lies between two commits: what one reads before a yes.
var diffCommands = []command{
	{
		name: "change diff", args: "[repo] <change> [--revision <n>] [--from <n>]",
		what: "what a change alters, file by file", example: "change diff 412",
		options: []option{
			{"--revision", "what this revision alters, not the newest one"},
			{"--from", "only what was altered since this earlier revision"},
		},
		notes: diffNotes,
		run:   changeDiff,
	},
	{
		name: "promotion diff", args: "[repo] <environment>", what: "what the open promotion of an environment alters",
		example: "promotion diff production",
		notes:   diffNotes,
		run:     promotionDiff,
	},
}

const diffNotes = "Rules come first: files that say how changes are built, judged or run.\nWith --color it keeps its colours through a pager of yours: ... --color | less -R"

func changeDiff(c *call) error {
	revision, err := c.revision("--revision")
	if err != nil {
		return err
	}
	from, err := c.revision("--from")
	if err != nil {
		return err
	}
	name, number, err := c.change()
	if err != nil {
		return err
	}
	ch, err := c.shell.Backend.Change(c.ctx, c.actor, name, number)
	if err != nil {
		return err
	}
	d, err := c.shell.Backend.ChangeDiff(c.ctx, c.actor, name, number, from, revision)
	if err != nil {
		return err
	}
	if c.json {
		return c.emit(d)
	}

	if revision == 0 {
		revision = ch.Revision
	}
	c.out.line("%d, revision %d, by %s: %s", ch.Number, revision, ch.By, ch.Subject)
	if from > 0 {
		c.out.line("what it alters since revision %d", from)
	}
	c.difference(d)
	return nil
}

// revision reads an option that takes the number of a revision, 0 if it is not given.
func (c *call) revision(option string) (int, error) {
	text := c.options[option]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, usageError("for example: "+c.ssh("change diff 412 "+option+" 1"),
			"%q is not the number of a revision", text)
	}
	return n, nil
}

func promotionDiff(c *call) error {
	repository, environment, err := c.environment()
	if err != nil {
		return err
	}
	p, err := c.shell.Backend.Promotion(c.ctx, c.actor, repository, environment)
	if err != nil {
		return err
	}
	d := show.Comparison{
		Repository:  repository,
		FromRelease: p.From,
		Commits:     []show.Commit{},
		Files:       []show.FileDiff{},
		Git:         []string{},
	}
	if !p.Removal { // otherwise there is no newer release to compare with
		if d, err = c.shell.Backend.ReleaseDiff(c.ctx, c.actor, repository, p.From, p.To); err != nil {
			return err
		}
	}
	if c.json {
		return c.emit(struct {
			show.Comparison
			Environment string            `json:"environment"`
			Tree        string            `json:"tree"`
			Removal     bool              `json:"removal,omitempty"`
			Rules       []show.RuleChange `json:"rules,omitempty"`
			Declared    []show.FileDiff   `json:"declared"` // what the environment reads
		}{d, environment, p.Tree, p.Removal, p.Rules, append([]show.FileDiff{}, p.Files...)})
	}

	switch {
	case p.Removal:
		c.out.line("%s; release %d is declared there", p.Means(), p.From)
	case p.From == 0:
		c.out.line("%s: nothing -> release %d, tree %s", environment, p.To, show.Short(p.Tree))
	default:
		c.out.line("%s: release %d -> %d, tree %s", environment, p.From, p.To, show.Short(p.Tree))
	}
	for _, r := range p.Rules {
		c.out.line("rule %s: %s -> %s", r.Rule, r.Was, r.Is)
	}
	if !p.Removal {
		c.difference(d)
	}
	if len(p.Files) > 0 {
		c.out.line("")
		c.out.line("what %s will read:", environment)
		c.files(p.Files)
	}
	return nil
}

// difference writes what lies between two commits: what there is, then the lines.
func (c *call) difference(d show.Comparison) {
	total := fmt.Sprintf("%s, +%s -%s", show.Plural(d.Changed, "file"), show.Thousands(d.Added), show.Thousands(d.Removed))
	if n := len(d.Commits); n > 0 {
		total += ", " + show.Plural(n, "commit")
		if d.MoreCommits {
			total += " and older ones"
		}
	}
	c.out.line("%s", total)
	switch {
	case d.Rebased:
		c.out.line("what landed in between is left out: the earlier revision was brought onto the same commit first")
	case d.Unrebased:
		c.out.line("the earlier revision does not apply to the newer base: what landed in between shows here too")
	}
	if len(d.Commits) > 1 {
		c.commits(d.Commits)
	}
	for _, a := range d.Artifacts {
		c.artifact(a)
	}
	for _, line := range d.Git {
		c.out.line("the same from a clone: %s", line)
	}
	c.files(d.Files)
	if left := d.Changed - len(d.Files); left > 0 {
		c.out.line("")
		c.out.line("%s differ and are not shown", show.Plural(left, "more file"))
	}
}

func (c *call) commits(commits []show.Commit) {
	var rows [][]cell
	for _, k := range commits {
		rows = append(rows, []cell{{s: show.Short(k.ID), colour: amber}, plain(k.Author), {s: k.Subject, cut: true}})
	}
	c.out.table(rows)
}

func (c *call) artifact(a show.ArtifactDiff) {
	switch {
	case a.State == show.FileSame:
		return
	case a.State != show.FileChanged:
		c.out.line("artifact %s: %s", a.Name, a.State)
		return
	case a.Why != "":
		c.out.line("artifact %s differs; in which files is not known: %s", a.Name, a.Why)
		return
	case len(a.Files) == 0:
		c.out.line("artifact %s: no file differs, only how they are packed", a.Name)
		return
	}
	c.out.line("artifact %s:", a.Name)
	for _, f := range a.Files {
		c.out.line("  %s %s", f.State, f.Path)
	}
	if a.Cut {
		c.out.line("  and more files")
	}
}

// files writes the lines of files, those that are rules first.
func (c *call) files(files []show.FileDiff) {
	for _, rules := range []bool{true, false} {
		for _, f := range files {
			if f.Rule == rules {
				c.file(f)
			}
		}
	}
}

func (c *call) file(f show.FileDiff) {
	t := c.out
	head := f.Path
	if f.From != "" {
		head = f.From + " -> " + f.Path
	}
	notes := []string{string(f.State), fmt.Sprintf("+%d -%d", f.Added, f.Removed)}
	if f.Rule {
		notes = append([]string{"rules"}, notes...)
	}
	switch {
	case f.OldMode != "":
		notes = append(notes, "mode "+f.OldMode+" -> "+f.Mode)
	case f.Mode != "":
		notes = append(notes, "mode "+f.Mode)
	}
	if f.Binary {
		notes = append(notes, "binary")
	}
	io.WriteString(t.w, "\n"+t.paint("1", terminal.Line(head+"  ("+strings.Join(notes, ", ")+")"))+"\n")

	colours := map[string]string{"+": green, "-": red, "@": water}
	for _, l := range f.Lines {
		text := l.Kind + terminal.Text(l.Text)
		if l.Kind == "@" {
			text = terminal.Text(l.Text) // it says so itself: "@@ -1,3 +1,4 @@"
		}
		io.WriteString(t.w, t.paint(colours[l.Kind], text)+"\n")
	}
	if f.Cut {
		io.WriteString(t.w, "(more lines are not shown)\n")
	}
}
