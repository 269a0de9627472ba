package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/host"
	"github.com/headgate-cd/headgate/hooks/change"
)

func doctorCommand() command {
	return command{
		name:  "doctor",
		short: "name what is damaged in a data directory, and repair what follows from the rest",
		long: `
headgate doctor --data /var/lib/headgate
headgate doctor --data /var/lib/headgate --repair

Reads every ref and every object of every repository and names what is missing
or cannot be read.
With --repair, for which the server must be stopped, it writes again what follows
from something else: the head of a change, and a gated branch, from the logs of
changes. Anything else is restored from a backup or a mirror.
The first line says by which engine services with an image run on this machine, and
builds whose headgate.yaml names one, or why there is none that answers; the second
whether builds without an image can write to the system here, as the user who asks;
the third their PATH, and which of the usual tools are in it.

Exit code 1 when something is damaged that was not repaired.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "`directory` that holds everything the server keeps")
			repair := flags.Bool("repair", false, "write again what follows from something else")
			asJSON := flags.Bool("json", false, "print one object a line for each thing that is damaged")
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Sprintf("doctor takes no arguments, got %q", args[0])}
				}
				dir, err := filepath.Abs(*data)
				if err != nil {
					return err
				}
				if *repair {
					lock, err := server.Lock(dir)
					if err != nil {
						return err
					}
					defer lock.Close()
				}
				if !*asJSON {
					found, err := engineOfMachine(ctx)
					if err != nil {
						found = "none: " + err.Error()
					}
					fmt.Fprintln(p.out, "containers of services and builds: "+found)
					fmt.Fprintln(p.out, "system of builds: "+systemOfBuilds(ctx))
					there, missing := host.Tools()
					fmt.Fprintf(p.out, "tools of builds in %s: %s; not there: %s\n", host.Path, strings.Join(there, ", "),
						strings.Join(missing, ", "))
				}
				return doctor(ctx, p, dir, *repair, *asJSON)
			}
		},
	}
}

// engineOfMachine is by what containers run here. Its error is why they do not.
func engineOfMachine(ctx context.Context) (string, error) {
	e, err := engine.Find()
	if err != nil {
		return "", err
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return e.Version(ctx)
}

// systemOfBuilds is what builds that run on this machine itself can do to it.
func systemOfBuilds(ctx context.Context) string {
	here := &host.Host{}
	if err := here.Probe(ctx); err != nil {
		return "none: " + err.Error()
	}
	if err := here.Writable(ctx); err != nil {
		return "cannot be written to: " + err.Error()
	}
	if os.Geteuid() != 0 {
		return "written to and thrown away, with root as its only user, who replaces files of the machine and does not " +
			"change them in place"
	}
	return "written to and thrown away, with several users"
}

// finding is one thing that doctor found, as --json prints it.
type finding struct {
	Repository string `json:"repository,omitempty"`
	What       string `json:"what"`
	Ref        string `json:"ref,omitempty"`  // what can be written again
	From       string `json:"from,omitempty"` // what it follows from
	Repaired   bool   `json:"repaired"`

	commit repo.Hash
}

func doctor(ctx context.Context, p printer, data string, repair, asJSON bool) error {
	names, err := repo.NamesIn(filepath.Join(data, "repositories"))
	if err != nil {
		return err
	}
	var found []finding
	if err := server.CheckHistory(data); err != nil {
		found = append(found, finding{What: err.Error()})
	}
	for _, err := range server.Unreadable(data) {
		found = append(found, finding{What: err.Error()})
	}
	if err := agentEngine(data, slog.New(slog.DiscardHandler)).Damaged(); err != nil {
		for what := range strings.Lines(err.Error()) {
			found = append(found, finding{What: "agent: " + strings.TrimSpace(what)})
		}
	}
	for _, name := range names {
		dir := filepath.Join(data, "repositories", name+".git")
		r, err := repo.OpenClone(dir)
		if err != nil {
			found = append(found, finding{Repository: name, What: err.Error()})
			continue
		}
		inIt, err := examine(r, name)
		if err != nil {
			return err
		}
		whole := true
		for _, f := range inIt {
			if repair && f.Ref != "" {
				path := filepath.Join(dir, f.Ref)
				if err := repo.MakeDir(filepath.Dir(path), 0o755); err != nil {
					return fmt.Errorf("repair %s of %s: %w", f.Ref, name, err)
				}
				if err := repo.WriteFile(path, []byte(f.commit.String()+"\n"), 0o644); err != nil {
					return fmt.Errorf("repair %s of %s: %w", f.Ref, name, err)
				}
				f.Repaired = true
			}
			whole = whole && f.Repaired
			found = append(found, f)
		}
		objects, err := r.DamagedObjects(ctx)
		if err != nil && whole {
			objects = []string{err.Error()}
		}
		for _, what := range objects {
			found = append(found, finding{Repository: name, What: what})
		}
	}
	return report(p, names, found, asJSON)
}

// examine finds which refs of a repository are damaged, and what of them follows
// from the logs of its changes.
func examine(r *repo.Repository, name string) ([]finding, error) {
	refs, _, err := r.ReadableRefs("refs/")
	if err != nil {
		return nil, fmt.Errorf("examine %s: %w", name, err)
	}
	at := map[string]repo.Hash{}
	for _, ref := range refs {
		at[ref.Name] = ref.Hash
	}

	// What the logs say: the head of each change, and where each branch came to.
	derived := map[string]finding{}
	landings := map[string]change.Event{}
	log := change.Of(r)
	for _, ref := range refs {
		number, isLog := strings.CutSuffix(strings.TrimPrefix(ref.Name, "refs/changes/"), "/log")
		n, err := strconv.Atoi(number)
		if !isLog || err != nil {
			continue
		}
		story, err := log.Read(n)
		if err != nil {
			derived[ref.Name] = finding{What: fmt.Sprintf("%s cannot be read: %v", ref.Name, err)}
			continue
		}
		head := change.HeadRef(n)
		derived[head] = finding{
			Ref:    head,
			From:   fmt.Sprintf("the log of change %d", n),
			commit: story.Head().Commit,
		}
		branch := "refs/heads/" + story.Branch
		if e, landed := story.Landing(); landed && e.New != repo.Zero && !e.At.Before(landings[branch].At) {
			landings[branch] = e
			derived[branch] = finding{
				Ref:    branch,
				From:   fmt.Sprintf("change %d, which landed on it last; what was pushed past the gate since is not known", n),
				commit: e.New,
			}
		}
	}

	var found []finding
	if d := r.Inspect(); d != nil {
		for _, what := range d.What {
			ref, _, _ := strings.Cut(what, " ")
			f := derived[ref]
			delete(derived, ref)
			f.Repository, f.What = name, what
			found = append(found, f)
		}
	}
	for ref, f := range derived {
		h, there := at[ref]
		switch {
		case f.Ref == "": // a log that cannot be read
		case !there:
			f.What = ref + " is missing"
		case strings.HasPrefix(ref, "refs/changes/") && h != f.commit:
			f.What = fmt.Sprintf("%s is %s", ref, show.Short(h.String()))
		default:
			continue
		}
		f.Repository = name
		found = append(found, f)
	}
	for i, f := range found {
		if f.Ref == "" {
			continue
		}
		if _, err := r.TreeOf(f.commit); err != nil { // it would follow, but is not there
			found[i].Ref, found[i].From = "", ""
			found[i].What += fmt.Sprintf(", and its commit cannot be read: %v", err)
		}
	}
	slices.SortFunc(found, func(a, b finding) int { return strings.Compare(a.What, b.What) })
	return found, nil
}

func report(p printer, names []string, found []finding, asJSON bool) error {
	left, derivable := 0, 0
	for _, f := range found {
		if !f.Repaired {
			left++
		}
		if !f.Repaired && f.Ref != "" {
			derivable++
		}
		if asJSON {
			if err := json.NewEncoder(p.out).Encode(f); err != nil {
				return err
			}
			continue
		}
		line := f.What
		if f.Repository != "" {
			line = f.Repository + ": " + line
		}
		switch {
		case f.Repaired:
			line += fmt.Sprintf("\n  repaired: it is %s, from %s", show.Short(f.commit.String()), f.From)
		case f.Ref != "":
			line += fmt.Sprintf("\n  can be repaired: %s, from %s", show.Short(f.commit.String()), f.From)
		}
		fmt.Fprintln(p.out, line)
	}
	if left == 0 {
		if !asJSON {
			fmt.Fprintf(p.out, "%s, all of it can be read\n", show.Plural(len(names), "repository"))
		}
		return nil
	}
	text := fmt.Sprintf("%s damaged", show.Plural(left, "thing"))
	if derivable > 0 {
		text += fmt.Sprintf("\nhint: stop the server, then repair %d of them: headgate doctor --repair", derivable)
	}
	if left > derivable {
		text += "\nhint: restore the rest from a backup, or from a mirror: git clone --mirror holds every ref and object"
	}
	return errors.New(text)
}
