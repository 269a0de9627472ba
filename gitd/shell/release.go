package shell

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Commands about releases.
var releaseCommands = []command{
	{
		name: "release list", args: "[repo] [--author <name>] [--path <path>] [--before <release>] " +
			"[--after <release>] [--all]",
		what: "releases, and where they run", example: "release list hello",
		options: []option{
			{"--author", "of what was pushed by them, or names them as its author"},
			{"--path", fmt.Sprintf("that change a file or directory; %d are looked at at once", show.MaxLooked)},
			{"--before", "older than this one"},
			{"--after", "newer than this one"},
			{"--all", fmt.Sprintf("not only %d", show.Newest)},
		},
		notes: "Without a repository it lists the releases of all that you may read.",
		run:   releaseList,
	},
	{
		name: "release show", args: "[repo] <release> [--from <release>]",
		what: "one release: what it is, how it was built, what it changes", example: "release show 186",
		options: []option{{"--from", "what it changes since this one, not since the one before"}},
		notes: diffNotes + "\nWith --json the provenance is there as its signed envelope.\n" +
			"It ends with 1 when the keys of this server do not prove the release.",
		run: releaseShow,
	},
	{
		name: "release sbom", args: "[repo] <release>", what: "what a release is made of, in CycloneDX's JSON",
		example: "release sbom 186",
		notes: "One line, and nothing else. Byte for byte, as its digest says, it is at the console's\n" +
			"/<repo>/releases/<release>/sbom.json",
		run: func(c *call) error {
			repository, number, err := c.release()
			if err != nil {
				return err
			}
			data, err := c.shell.Backend.SBOM(c.ctx, c.actor, repository, number)
			if err != nil {
				return err
			}
			return c.emit(json.RawMessage(data))
		},
	},
}

func releaseList(c *call) error {
	names, err := c.repositories()
	if err != nil {
		return err
	}
	f := show.ReleaseFilter{
		Author: c.options["--author"],
		Path:   strings.Trim(c.options["--path"], "/"),
		All:    c.has("--all"),
	}
	if f.Part, err = c.part("release", names); err != nil {
		return err
	}

	releases, total, beside, err := gather(c, names, func(name string) ([]show.Release, int, show.Beside, error) {
		found, err := c.shell.Backend.Releases(c.ctx, c.actor, name, f)
		return found.Releases, found.Total, found.Beside, err
	})
	if err != nil {
		return err
	}
	if len(names) > 1 {
		slices.SortStableFunc(releases, func(a, b show.Release) int { return b.At.Compare(a.At) })
		if !f.All {
			releases = releases[:min(len(releases), show.Newest)]
		}
	}
	if c.json {
		return emitAll(c, releases)
	}
	more := c.more(names, beside, len(releases) < total && !f.All)
	if len(releases) == 0 {
		c.noRelease(names, total)
		if more != "" {
			c.out.line("%s", more)
		}
		return nil
	}

	rows := [][]cell{{plain("RELEASE"), plain("CHANGE"), plain("LANDED"), plain("BY"), plain("RUNS IN"), plain("SUBJECT")}}
	for _, r := range releases {
		rows = append(rows, []cell{
			plain(strconv.Itoa(r.Number)),
			count(r.Change),
			plain(c.out.at(r.At, false)),
			plain(cmp.Or(r.By, "-")),
			plain(cmp.Or(strings.Join(r.RunsIn, ", "), "-")),
			{s: r.Subject, cut: true},
		})
	}
	if len(names) > 1 {
		rows[0] = slices.Insert(rows[0], 0, plain("REPOSITORY"))
		for i, r := range releases {
			rows[i+1] = slices.Insert(rows[i+1], 0, plain(r.Repository))
		}
	}
	c.out.table(rows)
	tail := fmt.Sprintf("%d of %s, times in UTC", len(releases), show.Thousands(total))
	if more != "" {
		tail += "; " + more
	}
	c.out.line("%s", tail)
	return nil
}

// noRelease says that there is none of those asked for, and what makes one.
func (c *call) noRelease(names []string, total int) {
	switch {
	case len(names) == 0:
		c.noRepository()
	case total > 0:
		c.out.line("no release in %s is like that", severalOr(names))
	default:
		c.out.line("no release in %s; the first landing makes release 1", severalOr(names))
	}
}

// severalOr counts repositories, or names the only one.
func severalOr(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return show.Plural(len(names), "repository")
}

// releaseAnswer is the JSON of one release.
type releaseAnswer struct {
	show.Release
	Carries    []show.Release  `json:"carries"` // it, and those after what it is compared with: the newest of them
	Difference show.Comparison `json:"difference"`
}

func releaseShow(c *call) error {
	repository, number, err := c.release()
	if err != nil {
		return err
	}
	r, err := c.shell.Backend.Release(c.ctx, c.actor, repository, number)
	if err != nil {
		return err
	}
	from := r.Before
	if text := c.options["--from"]; text != "" {
		if from, err = strconv.Atoi(text); err != nil || from < 1 {
			return notARelease(c, text)
		}
		if from >= number {
			return usageError("the other way round: "+c.ssh(fmt.Sprintf("release show %s %d --from %d", repository, from, number)),
				"release %d is not older than release %d", from, number)
		}
	}
	carried := show.ReleaseFilter{Part: show.Part{Before: number + 1, After: from}}
	carries, err := c.shell.Backend.Releases(c.ctx, c.actor, repository, carried)
	if err != nil {
		return err
	}
	difference, err := c.shell.Backend.ReleaseDiff(c.ctx, c.actor, repository, from, number)
	if err != nil {
		return err
	}

	var damaged error
	if r.Invalid != "" {
		damaged = outcome(1)
	}
	if c.json {
		return c.answer(releaseAnswer{r, carries.Releases, difference}, damaged)
	}
	c.releaseFacts(r)
	c.out.line("")
	if from > 0 {
		c.out.line("what it changes since release %d:", from)
	} else {
		c.out.line("what it holds, being the first:")
	}
	c.carried(carries.Releases, max(0, carries.Older-from-1))
	c.difference(difference)
	return damaged
}

// releaseFacts writes what a release is.
func (c *call) releaseFacts(r show.Release) {
	landed := "at " + c.out.at(r.At, true)
	if r.Change > 0 {
		landed = fmt.Sprintf("change %d, %s", r.Change, landed)
	}
	runs := cmp.Or(strings.Join(r.RunsIn, ", "), "nowhere")
	rows := [][]cell{
		{plain("release"), plain(fmt.Sprintf("%d of %s", r.Number, r.Repository))},
		{plain("subject"), {s: r.Subject, cut: true}},
		{plain("landed"), plain(landed + orNothing(", by ", r.By) + orNothing(", on ", r.Branch))},
		{plain("commit"), plain(show.Short(r.Commit) + orNothing(", tree ", show.Short(r.Tree)))},
		{plain("runs in"), plain(runs)},
	}
	if r.Invalid != "" {
		rows = append(rows, []cell{plain("proof"), c.out.state(show.Damaged), plain(r.Invalid)})
	} else {
		rows = append(rows, []cell{plain("proof"), plain(fmt.Sprintf("tag refs/releases/%d and its provenance, "+
			"signed by this server's key", r.Number))})
	}
	if p := r.Provenance; p != nil {
		network := ", without network"
		if p.Network {
			network = ", with the network"
		}
		built := ""
		if p.Built != r.Commit {
			built = ", as " + show.Short(p.Built) + " with the same tree"
		}
		rows = append(rows,
			[]cell{plain("built"), plain(fmt.Sprintf("from %s on %s%s%s, in %s, at %s", p.Buildspec, p.Image, network, built,
				show.Elapsed(p.Finished.Sub(p.Started)), c.out.at(p.Finished, true)))},
			[]cell{plain("builder"), plain(p.Builder)})
	}
	for _, a := range r.Artifacts {
		rows = append(rows, []cell{plain("artifact"), plain(nameOf(a))})
	}
	if r.SBOM != nil {
		rows = append(rows, []cell{plain("made of"),
			plain(fmt.Sprintf("%s: %s", nameOf(*r.SBOM), c.ssh(fmt.Sprintf("release sbom %s %d", r.Repository, r.Number))))})
	}
	c.out.table(rows)
}

// nameOf names an artifact with its digest.
func nameOf(a show.Artifact) string {
	name := a.Name + " " + a.Digest
	if a.Size > 0 {
		name += ", " + show.Bytes(a.Size)
	}
	return name + orNothing(", ", a.Type)
}

// carried lists releases by what each of them brought; left are older ones.
func (c *call) carried(releases []show.Release, left int) {
	var rows [][]cell
	for _, r := range releases {
		change := "-"
		if r.Change > 0 {
			change = fmt.Sprintf("change %d", r.Change)
		}
		rows = append(rows, []cell{
			plain(fmt.Sprintf("release %d", r.Number)),
			plain(change),
			plain(cmp.Or(r.By, "-")),
			{s: r.Subject, cut: true},
		})
	}
	if left > 0 {
		rows = append(rows, []cell{plain("and " + show.Plural(left, "older release"))})
	}
	c.out.table(rows)
}

// release reads a release's number, and finds the repository if it was left out.
func (c *call) release() (repository string, number int, err error) {
	if number, err = strconv.Atoi(c.args["release"]); err != nil || number < 1 {
		return "", 0, notARelease(c, c.args["release"])
	}
	if repository = c.args["repo"]; repository != "" {
		return repository, number, nil
	}
	repository, err = c.only(fmt.Sprintf("a release %d", number), "release list", func(r show.Repository) (bool, error) {
		_, err := c.shell.Backend.Release(c.ctx, c.actor, r.Name, number)
		if notFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	return repository, number, err
}

func notARelease(c *call, text string) error {
	list := strings.TrimSpace("release list " + c.args["repo"])
	return usageError("see them: "+c.ssh(list), "%q is not the number of a release", text)
}
