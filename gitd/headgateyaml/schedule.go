package headgateyaml

import (
	"cmp"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Schedule is a build that time starts.
type Schedule struct {
	Name      string // no two of a repository have the same
	Cron      string // an expression that package cron reads
	Zone      string // of the IANA database; "" is UTC
	Buildspec string // path in the tree; Build's by default
	On        string // branch whose tip is built; "" is the one whose landings become releases
	Notify    string // user or group that is told of failures; "" for nobody
	Line      int    // in the file, for messages

	lines map[string]int // of its keys
}

// LineOf is where a key of the schedule stands, its own line for one that was
// left out.
func (s Schedule) LineOf(key string) int { return cmp.Or(s.lines[key], s.Line) }

// Schedule finds a schedule by name.
func (f *File) Schedule(name string) (Schedule, bool) {
	for _, s := range f.Schedules {
		if s.Name == name {
			return s, true
		}
	}
	return Schedule{}, false
}

type scheduleText struct {
	Name      string  `yaml:"name"`
	Cron      string  `yaml:"cron"`
	Zone      string  `yaml:"zone"`
	Buildspec *string `yaml:"buildspec"`
	On        *string `yaml:"on"`
	Notify    *string `yaml:"notify"`
}

func (r *reader) schedules(n *yaml.Node, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.problem(n.Line, `write - {name: nightly, cron: "0 3 * * *"} below it`, "schedules is not a list")
		return
	}
	for _, value := range n.Content {
		if len(f.Schedules) == maxSchedules {
			r.problem(value.Line, "", "holds more than %d schedules", maxSchedules)
			return
		}
		s, ok := r.schedule(value, f)
		if !ok {
			continue
		}
		if other, taken := f.Schedule(s.Name); taken {
			r.problem(s.LineOf("name"), "give it a name of its own", "schedule %q is already defined on line %d",
				s.Name, other.Line)
			continue
		}
		f.Schedules = append(f.Schedules, s)
	}
}

func (r *reader) schedule(value *yaml.Node, f *File) (Schedule, bool) {
	var t scheduleText
	if value.Kind != yaml.MappingNode {
		r.problem(value.Line, `write {name: nightly, cron: "0 3 * * *"}`, "this schedule is not a mapping")
		return Schedule{}, false
	}
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		r.problems = append(r.problems, ps...)
		return Schedule{}, false
	}
	s := Schedule{
		Name:      t.Name,
		Cron:      t.Cron,
		Zone:      t.Zone,
		Buildspec: f.Build.Buildspec,
		Line:      value.Line,
		lines:     map[string]int{},
	}
	for key := range yamlfile.Pairs(value) {
		s.lines[key.Value] = key.Line
	}

	switch {
	case s.Name == "":
		r.problem(s.LineOf("name"), "add name: nightly", "this schedule has no name")
		return s, false
	case !scheduleForm().MatchString(s.Name):
		r.problem(s.LineOf("name"), "use 1 to 31 small letters, digits and '-', beginning with a letter",
			"invalid schedule name %q", s.Name)
	}
	if s.Cron == "" || len(s.Cron) > maxCron {
		r.problem(s.LineOf("cron"), `say when: cron: "0 3 * * *"`, "schedule %q has no cron expression of at most %d bytes",
			s.Name, maxCron)
	}
	if t.Buildspec != nil {
		s.Buildspec = *t.Buildspec
		r.path(s.Buildspec, s.LineOf("buildspec"), "buildspec")
	}
	if t.On != nil {
		s.On = *t.On
		r.branch(s.On, s.LineOf("on"))
	}
	if t.Notify != nil {
		s.Notify = *t.Notify
		if !groupForm().MatchString(s.Notify) {
			r.problem(s.LineOf("notify"), "name a user or a group of server.yaml", "invalid user or group name %q", s.Notify)
		}
	}
	return s, true
}
