package shell

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about what policies were asked, and said.
var decisionCommands = []command{
	{
		name: "decision show", args: "[repo] <decision>", what: "one decision of a policy: question, input and answer",
		example: "decision show d-1a2b3c4",
		notes:   "The same is a commit of refs/decisions/log.",
		run: func(c *call) error {
			d, err := c.decision(c.args["decision"])
			if err != nil {
				return err
			}
			if c.json {
				return c.emit(d)
			}
			c.out.table([][]cell{
				{plain("decision"), plain(d.ID)},
				{plain("asked"), plain(d.Question + ": " + d.About)},
				{plain("answer"), plain(d.Answer)},
				{plain("at"), plain(c.out.at(d.At, true))},
				{plain("policy"), plain(d.Policy)},
				{plain("commit"), plain(d.Commit)},
			})
			for line := range strings.Lines(d.Document) {
				c.out.line("%s", strings.TrimRight(line, "\n"))
			}
			return nil
		},
	},
	{
		name: "policy input", args: "[repo] <change|environment|decision>",
		what: "what policies were asked with last, as JSON", example: "policy input production",
		notes: "Of a change what land was asked, of an environment what promote was asked about its promotion.\n" +
			"It is the document itself: headgate prints nothing else. In a clone of the repository:\n" +
			"ssh <server> policy input production >input.json && opa eval -d policies -i input.json data.headgate",
		run: func(c *call) error {
			d, err := c.decision(c.args["change|environment|decision"])
			if err != nil {
				return err
			}
			var record struct {
				Input json.RawMessage `json:"input"`
			}
			if err := json.Unmarshal([]byte(d.Document), &record); err != nil {
				return fmt.Errorf("read decision %s: %w", d.ID, err)
			}
			return c.emit(record.Input)
		},
	},
}

// decision finds a decision by its id, or the newest about a change or an
// environment's promotion.
func (c *call) decision(name string) (d show.Decision, err error) {
	repository := c.args["repo"]
	if repository == "" {
		what := fmt.Sprintf("a decision about %q", name)
		if repository, err = c.only(what, "repo list", func(r show.Repository) (bool, error) {
			_, err := c.decisionIn(r.Name, name)
			if notFound(err) {
				return false, nil
			}
			return err == nil, err
		}); err != nil {
			return d, err
		}
	}
	return c.decisionIn(repository, name)
}

// maxDecisions bounds how far back the newest decision about something is looked for.
const maxDecisions = 5000

func (c *call) decisionIn(repository, name string) (d show.Decision, err error) {
	if strings.HasPrefix(name, "d-") {
		return c.shell.Backend.Decision(c.ctx, c.actor, repository, name)
	}
	before := ""
	for seen := 0; seen < maxDecisions; {
		list, more, err := c.shell.Backend.Decisions(c.ctx, c.actor, repository, before)
		if err != nil {
			return d, err
		}
		for _, d := range list {
			if isAbout(d, name) {
				return c.shell.Backend.Decision(c.ctx, c.actor, repository, d.ID)
			}
		}
		if seen += len(list); !more || len(list) == 0 {
			break
		}
		before = list[len(list)-1].Commit
	}
	return d, &show.Error{
		Kind: show.NotFound,
		What: fmt.Sprintf("policies were not asked about %q in %s", name, repository),
		Hint: "name a change by its number, an environment, or a decision such as d-1a2b3c4",
	}
}

// isAbout reports whether a decision is about landing a change, or about what is
// promoted to an environment.
func isAbout(d show.Decision, name string) bool {
	if _, err := strconv.Atoi(name); err == nil {
		return d.Question == "land" && strings.HasPrefix(d.About, "change "+name+" to ")
	}
	about, _, _ := strings.Cut(d.About, " by the rules of ")
	if d.Question != "promote" {
		return false
	}
	of, removal := strings.CutPrefix(about, "removal of ")
	return removal && of == name || strings.HasPrefix(about, "release ") && strings.HasSuffix(about, " to "+name)
}
