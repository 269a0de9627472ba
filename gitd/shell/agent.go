package shell

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about the agents of other machines.
var agentCommands = []command{
	{
		name: "agent enrol", args: "[--name <name>] [--tag <key=value>,...] [--repository <repo>,...] [--expires <time>] " +
			"[--kubernetes] [--namespace <namespace>,...] [--image <image>]",
		what:    "a line to paste on another machine, or a manifest for a cluster, which makes it an agent",
		example: "agent enrol --name web-1 --tag role=web",
		options: []option{
			{"--name", "what the agent is called (without: the machine's host name)"},
			{"--tag", "by which environments find it; may be given again"},
			{"--repository", "this one alone may deploy there; may be given again (without: all)"},
			{"--expires", "when the line is good no more: 15m, 12h (without: 1h; at most 24h)"},
			{"--kubernetes", "print a manifest instead, which installs the agent of a cluster (tag target=kubernetes): " +
				"kubectl apply -f -"},
			{"--namespace", "that applications have in the cluster: the agent may change this one alone; may be given again"},
			{"--image", "of the agent of a cluster, where the cluster pulls it (make agent-image makes it)"},
		},
		notes: "The line is good for one machine, once; whoever has it may become that agent.\n" +
			"The machine connects to this server, whose host key the line pins, with a key of its own: nothing has to be open there.\n" + configured,
		run: enrolAgent,
	},
	{
		name: "agent list", what: "the agents of other machines, and when each was last seen", example: "agent list",
		run: listAgents,
	},
	{
		name: "agent show", args: "<agent>", what: "one agent, and what runs there", example: "agent show web-1",
		run: showAgent,
	},
	{
		name: "agent drain", args: "<agent>", what: "deploy nothing new to an agent, and count it no more",
		example: "agent drain web-1",
		notes:   "What runs there goes on, and is healed; a deployment that it is at goes to its end. To have it back: agent resume.\n" + configured,
		run:     func(c *call) error { return c.act(c.shell.Backend.DrainAgent(c.ctx, c.actor, c.args["agent"], true)) },
	},
	{
		name: "agent resume", args: "<agent>", what: "deploy to an agent again, first what is declared now",
		example: "agent resume web-1",
		notes:   configured,
		run:     func(c *call) error { return c.act(c.shell.Backend.DrainAgent(c.ctx, c.actor, c.args["agent"], false)) },
	},
	{
		name: "agent upgrade", args: "[agent]", what: "have an agent, or all, go on with this server's program",
		example: "agent upgrade web-1",
		notes: "After an upgrade of the server they do so by themselves, one by one, each once nothing is deployed there;\n" +
			"one that the server does not hear from within two minutes goes back to the program before, and the others wait for this command.\n" +
			"What is deployed there goes on.",
		run: func(c *call) error { return c.act(c.shell.Backend.UpgradeAgents(c.ctx, c.actor, c.args["agent"])) },
	},
	{
		name: "agent remove", args: "<agent>", what: "end an agent's connection, and take its key away",
		example: "agent remove web-1",
		notes:   "What runs there goes on running, unwatched.\n" + configured,
		run:     func(c *call) error { return c.act(c.shell.Backend.RemoveAgent(c.ctx, c.actor, c.args["agent"])) },
	},
}

func enrolAgent(c *call) error {
	r := show.AgentRequest{Name: c.options["--name"]}
	for tag := range strings.SplitSeq(c.options["--tag"], ",") {
		if tag == "" {
			continue
		}
		key, value, ok := strings.Cut(tag, "=")
		if _, twice := r.Tags[key]; twice || !ok {
			return usageError("for example: "+c.ssh("agent enrol --tag role=web --tag zone=a"),
				"%q is not a tag of its own: write key=value", tag)
		}
		if r.Tags == nil {
			r.Tags = map[string]string{}
		}
		r.Tags[key] = value
	}
	if err := access.CheckTags(r.Tags); err != nil {
		return usageError("for example: "+c.ssh("agent enrol --tag role=web"), "%s", err)
	}
	if c.has("--repository") {
		r.Repositories = strings.Split(c.options["--repository"], ",")
	}
	if r.Name != "" {
		if err := access.CheckAgentName(r.Name); err != nil {
			return usageError("for example: "+c.ssh(c.command.example), "%s", err)
		}
	}
	if expires := c.options["--expires"]; expires != "" {
		var ok bool
		if r.Life, ok = life(expires); !ok {
			return usageError("for example: "+c.ssh("agent enrol --expires 12h"),
				"%q is not a time: write minutes or hours, such as 15m or 12h", expires)
		}
	}
	if err := clusterOf(c, &r); err != nil {
		return err
	}
	e, err := c.shell.Backend.EnrolAgent(c.ctx, c.actor, r)
	if err != nil {
		return err
	}
	if c.json {
		return c.emit(e)
	}
	if r.Cluster != nil {
		_, err := io.WriteString(c.out.w, e.Manifest)
		return err
	}
	c.out.line("%s", e.Command)
	if e.Download == "" {
		c.out.wrapped("copy headgate there first (SHA-256 %s): the machine cannot get it from this server over HTTP",
			e.Program)
	}
	c.out.wrapped(
		"paste it on the machine (%s), within its directory for programs; it is good once, until %s, and is not shown again", e.Platform, c.out.at(e.Expires, true))
	return nil
}

// clusterOf reads what is said of a cluster's agent.
func clusterOf(c *call, r *show.AgentRequest) error {
	const example = "agent enrol --kubernetes --name staging --tag cluster=staging --namespace shop " +
		"--image registry.example.org/headgate-kube:1"
	if !c.has("--kubernetes") {
		for _, option := range []string{"--namespace", "--image"} {
			if c.has(option) {
				return usageError("for example: "+c.ssh(example), "%s is for the agent of a cluster; add --kubernetes", option)
			}
		}
		return nil
	}
	r.Cluster = &show.ClusterRequest{Image: c.options["--image"]}
	if r.Cluster.Image == "" {
		return usageError("for example: "+c.ssh(example),
			"say where the cluster pulls the agent's image, with --image; make agent-image makes it")
	}
	if c.options["--namespace"] == "" {
		return usageError("for example: "+c.ssh(example), "say in which namespaces applications may be, with --namespace")
	}
	r.Cluster.Namespaces = strings.Split(c.options["--namespace"], ",")
	return nil
}

func tagsOf(tags map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, key+"="+tags[key])
	}
	return strings.Join(all, " ")
}

// seen says when an agent was last there.
func seen(c *call, a show.Agent) cell {
	text := c.out.at(a.Since, false)
	switch {
	case a.Connected:
		text = "now, since " + text
	case a.Since.IsZero():
		text = "never"
	}
	if a.Drained {
		text += ", drained"
	}
	return plain(text)
}

// versionOf says by which program an agent works.
func versionOf(a show.Agent) cell {
	if a.Upgrade == nil {
		return dash(a.Version)
	}
	return plain(cmp.Or(a.Version, "-") + ", " + a.Upgrade.Text())
}

func listAgents(c *call) error {
	all, err := c.shell.Backend.Agents(c.ctx, c.actor)
	if err != nil {
		return err
	}
	if c.json {
		return emitAll(c, all)
	}
	if len(all) == 0 {
		c.out.line("no other machine has an agent; to have one enrol: %s", c.ssh("agent enrol"))
		return nil
	}
	rows := [][]cell{{plain("AGENT"), plain("LAST SEEN"), plain("TAGS"), plain("VERSION"), plain("RUNS")}}
	for _, a := range all {
		var runs []string
		for _, r := range a.Runs {
			runs = append(runs, fmt.Sprintf("%s in %s: release %d, %s", r.Application, r.Environment, r.Release, r.State))
		}
		rows = append(rows, []cell{
			plain(a.Name), seen(c, a), dash(tagsOf(a.Tags)), versionOf(a), {s: strings.Join(runs, "; "), wrap: true},
		})
	}
	c.out.table(rows)
	c.out.line("%s, times in UTC", show.Plural(len(all), "agent"))
	return nil
}

func showAgent(c *call) error {
	a, err := c.shell.Backend.Agent(c.ctx, c.actor, c.args["agent"])
	if err != nil {
		return err
	}
	if c.json {
		return c.emit(a)
	}
	c.out.table([][]cell{
		{plain("agent"), plain(a.Name)},
		{plain("last seen"), seen(c, a)},
		{plain("from"), dash(a.From)},
		{plain("version"), versionOf(a)},
		{plain("tags"), dash(tagsOf(a.Tags))},
		{plain("deployed to by"), plain(cmp.Or(strings.Join(a.Repositories, ", "), "all repositories"))},
		{plain("key"), plain(a.Key)},
	})
	if a.Upgrade != nil && a.Upgrade.Message != "" {
		c.out.wrapped("%s: %s", a.Upgrade.Text(), a.Upgrade.Message)
		c.out.wrapped("to have it tried again: %s", c.ssh("agent upgrade "+a.Name))
	}
	for _, r := range a.Runs {
		c.out.wrapped("%s of %s in %s: release %d, %s", r.Application, r.Repository, r.Environment, r.Release, r.State)
		for line := range strings.Lines(r.Message) {
			c.out.wrapped("  %s", strings.TrimSuffix(line, "\n"))
		}
	}
	return nil
}
