package check

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// addressed is an address and the environment that asks for it.
type addressed struct {
	Address
	environment string
}

func (r *reader) environments(targets map[string]Target, on *Server) {
	for _, e := range r.result.Settings.Environments {
		target, ok := targets[e.Target]
		if !ok {
			known := slices.Sorted(maps.Keys(targets))
			fix := "use " + strings.Join(known, " or ")
			if near, ok := yamlfile.Nearest(e.Target, known); ok {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			r.problem(headgateyaml.Name, e.LineOf("target"),
				fmt.Sprintf("environment %q has the target %q, which this server does not have", e.Name, e.Target), fix)
			continue
		}
		if on != nil && on.Refuses != nil {
			if what, fix := on.Refuses(e.Target); what != "" {
				r.problem(headgateyaml.Name, e.LineOf("target"), fmt.Sprintf("environment %q: %s", e.Name, what), fix)
				continue
			}
		}
		dir := path.Clean(e.Path)
		if kind := r.kind(dir); kind != Directory && r.err == nil {
			r.problem(headgateyaml.Name, e.Line,
				fmt.Sprintf("environment %q is declared in %s, which is %s", e.Name, dir, kind),
				"add the directory, or name another with path:")
			continue
		}
		files := r.declares(dir, target)
		if r.err != nil {
			return
		}
		problems, warnings := target.Check(dir, files)
		r.result.Problems = append(r.result.Problems, problems...)
		r.result.Warnings = append(r.result.Warnings, warnings...)
		if target.Addresses != nil && len(problems) == 0 {
			for _, a := range target.Addresses(dir, files) {
				r.address(a, e.Name, on)
			}
		}
		if target.Parts != nil && len(problems) == 0 {
			for _, p := range target.Parts(dir, files) {
				r.part(p, e)
			}
		}
		if target.Secrets != nil && on != nil && on.SecretMissing != nil && len(problems) == 0 {
			r.secrets(target.Secrets(dir, files), on.SecretMissing)
		}
	}
}

// secrets are problems where one is wanted that is not set.
func (r *reader) secrets(wanted []Secret, missing func(name string) (what, fix string, err error)) {
	for _, s := range wanted {
		what, fix, err := missing(s.Name)
		switch {
		case err != nil:
			r.err = errors.Join(r.err, err)
			return
		case what != "":
			r.result.Problems = append(r.result.Problems, yamlfile.Problem{
				File: s.File,
				Line: s.Line,
				What: s.For + ": " + what,
				Fix:  fix,
			})
		}
	}
}

// declares are the files of a directory that a target wants.
func (r *reader) declares(dir string, target Target) map[string][]byte {
	files := map[string][]byte{}
	tried := map[string]bool{}
	read := func(name string) {
		if data := r.read(name); data != nil {
			files[strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")] = data
		}
	}
	for wanted := target.Reads; len(wanted) > 0 && r.err == nil; {
		for _, name := range wanted {
			tried[name] = true
			switch name = path.Join(dir, name); r.kind(name) {
			case Regular:
				read(name)
			case Directory:
				r.walk(name, read)
			}
		}
		wanted = nil
		if target.Wants != nil {
			wanted = slices.DeleteFunc(target.Wants(files), func(name string) bool { return tried[name] })
		}
	}
	return files
}

// address keeps an address that an environment asks for. Where Compose listens
// everywhere and this server on loopback alone, the difference is told.
func (r *reader) address(a Address, environment string, on *Server) {
	var config *access.Config // a laptop's knows of no address
	if on != nil {
		config = on.Access
	}
	if !a.Addr().IsValid() && config.Address().IsLoopback() {
		what := fmt.Sprintf("port %d", a.Port())
		if a.Port() == 0 {
			what = "any free port"
		}
		where := "the server's machine"
		if on == nil {
			where += " (unless its server.yaml says address:)"
		}
		r.result.Warnings = append(r.result.Warnings, yamlfile.Problem{
			File: a.File,
			Line: a.Line,
			What: fmt.Sprintf("%s is reached from %s only, where Compose would listen everywhere", what, where),
			Fix: fmt.Sprintf(`write "0.0.0.0:%d:…" for everywhere, or "%s:%[1]d:…" to say that it is meant`, a.Port(),
				config.Address()),
		})
	}
	if a.Port() == 0 {
		return
	}
	a.AddrPort = config.Resolve(a.AddrPort)
	r.addressed = append(r.addressed, addressed{a, environment})
}

// addresses checks that nobody else has what the environments ask for: another of
// the tree, or of the server.
func (r *reader) addresses(on *Server) {
	for i, a := range r.addressed {
		if at := slices.IndexFunc(r.addressed[:i],
			func(b addressed) bool { return access.Overlap(a.AddrPort, b.AddrPort) }); at >= 0 {
			b := r.addressed[at]
			if a.environment == b.environment {
				r.problem(a.File, a.Line,
					fmt.Sprintf("environment %q asks for %s twice (%s:%d: %s)", a.environment, a.AddrPort, b.File, b.Line, b.AddrPort),
					"give one of its services another port; 0 is any free one")
				continue
			}
			r.problem(a.File, a.Line,
				fmt.Sprintf("%s of environment %q is that of environment %q too (%s:%d: %s)",
					a.AddrPort, a.environment, b.environment, b.File, b.Line, b.AddrPort),
				"give one of them another port; 0 is any free one")
			continue
		}
		if on == nil || on.Holder == nil || r.err != nil {
			continue
		}
		by, err := on.Holder(a.AddrPort)
		if err != nil {
			r.err = err
			return
		}
		if by != "" {
			r.problem(a.File, a.Line, fmt.Sprintf("%s of environment %q is held by %s", a.AddrPort, a.environment, by),
				"declare another port; 0 is any free one")
		}
	}
}

// names checks that the users and groups that are named are some of the server.
func (r *reader) names(on *Server) {
	if on == nil || on.Access == nil {
		return
	}
	groups, users := on.Access.AllGroups(), []string{}
	for _, u := range on.Access.Users() {
		users = append(users, u.Name)
	}
	unknown := func(line int, what, name string, known []string) {
		if name == "" || slices.Contains(known, name) {
			return
		}
		fix := "name one of server.yaml: " + strings.Join(known, ", ")
		if near, ok := yamlfile.Nearest(name, known); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		r.problem(headgateyaml.Name, line, what, fix)
	}
	for _, e := range r.result.Settings.Environments {
		unknown(e.LineOf("approvals"),
			fmt.Sprintf("approvals of environment %q are asked of %q, which is not a group of this server", e.Name,
				e.Approvals.From),
			e.Approvals.From, groups)
	}
	for _, s := range r.result.Settings.Schedules {
		unknown(s.LineOf("notify"),
			fmt.Sprintf("schedule %q notifies %q, which is not a user or group of this server", s.Name, s.Notify),
			s.Notify, append(slices.Clone(groups), users...))
	}
}
