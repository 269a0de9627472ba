package fleet

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/rollout"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// FileName is the file in an environment's directory that says which hosts are deployed
// to, and how many at once. Without it the server's own machine is the only host.
const FileName = hosts.FileName

// Reads are the files that Check wants of an application's directory.
var Reads = hosts.Reads

// config is a hosts.yaml.
type config struct {
	groups   rollout.Groups
	rollout  rollout.Config
	other    rollout.Groups // the other half of a blue/green deployment; nil: it is in place
	rollBack bool
	queries  map[string]alarm.Query // by alarm
}

const anyValue = "*"

// zones is how hosts.yaml says that one zone comes after the other.
type zones struct {
	Monitor string `yaml:"monitor"`
	First   string `yaml:"first"`
	Minimum string `yaml:"minimum"`
}

const maxMonitor = 48 * time.Hour

func (z *zones) read() (*rollout.Zonal, error) {
	var all rollout.Zonal
	for _, d := range []struct {
		key, text string
		to        *time.Duration
	}{{"monitor", z.Monitor, &all.Each}, {"first", cmp.Or(z.First, z.Monitor), &all.First}} {
		if d.text == "" {
			continue
		}
		var err error
		if *d.to, err = time.ParseDuration(d.text); err != nil || *d.to < 0 || *d.to > maxMonitor {
			return nil, fmt.Errorf("%s of zones is %q, which is no time of at most 48h; write for example %s: 10m", d.key, d.text, d.key)
		}
	}
	if z.Minimum == "" {
		return &all, nil
	}
	c, err := rollout.ParseConfig(z.Minimum)
	if err != nil || !strings.HasPrefix(z.Minimum, "HOST_COUNT") && !strings.HasPrefix(z.Minimum, "FLEET_PERCENT") {
		return nil, fmt.Errorf("minimum of zones is %q; write HOST_COUNT n or FLEET_PERCENT n", z.Minimum)
	}
	all.Minimum = &c.Minimum
	return &all, nil
}

// File is the file that says which hosts are meant, and how many are deployed to at once.
type File struct {
	Name string   // "": FileName
	Of   string   // what a host of this fleet is called: "cluster"; "": a host
	Also []string // keys in it that others read
	// Parts says that what each has is shown, and not that it has it.
	Parts bool
}

func (f File) name() string { return cmp.Or(f.Name, FileName) }
func (f File) of() string   { return cmp.Or(f.Of, "host") }

func (f File) also() []string {
	if f.Name == "" {
		return []string{hosts.HealthKey}
	}
	return f.Also
}

// here reports whether what is declared is for the server's own machine: it says nothing of
// hosts, but at most what each host reads.
func (f File) here(files map[string][]byte) bool {
	data, ok := files[f.name()]
	if !ok {
		return true
	}
	top, err := yamlfile.Parse(f.name(), data)
	if err != nil || top.Kind != yaml.MappingNode || len(top.Content) == 0 {
		return false
	}
	for key := range yamlfile.Pairs(top) {
		if !slices.Contains(f.also(), key.Value) {
			return false
		}
	}
	return true
}

// Check says what is wrong with the file, which has to be there.
func (f File) Check(dir string, files map[string][]byte) yamlfile.Problems {
	_, problems := f.read(dir, files)
	if _, ok := files[f.name()]; !ok {
		problems = yamlfile.Problems{{File: path.Join(dir, f.name()), What: "is not there",
			Fix: "add it: tags: {" + f.of() + ": staging}"}}
	}
	return problems
}

// Check says what is wrong with the files of an application's directory.
func Check(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
	problems, warnings = hosts.Check(dir, files)
	if len(problems) > 0 || (File{}).here(files) {
		return problems, warnings
	}
	_, more := File{}.read(dir, files)
	return append(problems, more...), warnings
}

// read reads the file; nil when there is none.
func (f File) read(dir string, files map[string][]byte) (*config, yamlfile.Problems) {
	data, ok := files[f.name()]
	if !ok {
		return nil, nil
	}
	file := path.Join(dir, f.name())
	fail := func(err error) (*config, yamlfile.Problems) {
		problems, _ := yamlfile.ProblemsIn(err)
		return nil, problems
	}
	top, err := yamlfile.Parse(file, data)
	if err != nil {
		return fail(err)
	}
	var shape struct {
		Tags       yaml.Node `yaml:"tags"`
		Deployment string    `yaml:"deployment"`
		Rollback   *bool     `yaml:"rollback"`
		Zones      *zones    `yaml:"zones"`
		Alarms     yaml.Node `yaml:"alarms"`
		Bake       string    `yaml:"bake"`
		BlueGreen  yaml.Node `yaml:"blue_green"`
	}
	own := *top
	if top.Kind == yaml.MappingNode {
		own.Content = nil
		for key, value := range yamlfile.Pairs(top) {
			if !slices.Contains(f.also(), key.Value) {
				own.Content = append(own.Content, key, value)
			}
		}
	}
	if err := yamlfile.DecodeNode(file, &own, &shape); err != nil {
		return fail(err)
	}
	c := &config{rollBack: shape.Rollback == nil || *shape.Rollback}
	var problems yamlfile.Problems
	problem := func(line int, fix, format string, args ...any) {
		problems = append(problems, yamlfile.Problem{File: file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	tagsOf := func(key string, n *yaml.Node) rollout.Groups {
		groups, more := f.tags(file, key, n)
		problems = append(problems, more...)
		return groups
	}
	if c.groups = tagsOf("tags", &shape.Tags); len(problems) > 0 && len(c.groups) == 0 {
		return nil, problems
	}
	if !shape.BlueGreen.IsZero() {
		if c.other = tagsOf("blue_green", &shape.BlueGreen); len(problems) == 0 && c.groups.Meets(c.other) {
			problem(shape.BlueGreen.Line, "give each half a value of one tag: tags: {half: blue} and blue_green: {half: green}",
				"blue_green means %ss that tags means, too", f.of())
		}
	}
	lines := map[string]int{}
	for key, value := range yamlfile.Pairs(top) {
		lines[key.Value] = value.Line
	}
	wrong := func(key string, err error) {
		what, fix, _ := strings.Cut(err.Error(), "; ")
		problem(max(1, lines[key]), fix, "%s", what)
	}
	if c.rollout, err = rollout.ParseConfig(shape.Deployment); err != nil {
		wrong("deployment", err)
	}
	if shape.Zones != nil && c.other != nil {
		problem(lines["zones"], "keep one of them", "zones and blue_green exclude each other")
	}
	if shape.Zones != nil {
		if c.rollout.Zonal, err = shape.Zones.read(); err != nil {
			wrong("zones", err)
		}
	}
	if !shape.Alarms.IsZero() {
		var more yamlfile.Problems
		c.rollout.Alarms, c.queries, more = services.ParseAlarms(file, &shape.Alarms, "alarms")
		problems = append(problems, more...)
	}
	if shape.Bake != "" {
		c.rollout.Bake, err = time.ParseDuration(shape.Bake)
		switch {
		case err != nil || c.rollout.Bake < 0 || c.rollout.Bake > maxMonitor:
			problem(lines["bake"], "write for example bake: 10m", "bake is %q, which is not a time of at most 48h", shape.Bake)
		case len(c.rollout.Alarms) == 0 && len(problems) == 0:
			problem(lines["bake"], "add alarms, or leave bake out", "bake is how long alarms are asked, and there is none")
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// tags reads which hosts are meant.
func (f File) tags(file, name string, n *yaml.Node) (groups rollout.Groups, problems yamlfile.Problems) {
	problem := func(line int, fix, format string, args ...any) {
		problems = append(problems, yamlfile.Problem{File: file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	form := fmt.Sprintf(`write "%s: {role: web}", or {role: [web, api], zone: "*"} for any of several`, name)
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		problem(max(1, n.Line), form, "%s does not say which %ss are deployed to", name, f.of())
		return nil, problems
	}
	problems = append(problems, yamlfile.DuplicateKeys(file, n)...)
	for key, value := range yamlfile.Pairs(n) {
		values := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			values = value.Content
		}
		var group []rollout.Filter
		for _, v := range values {
			if v.Kind != yaml.ScalarNode || v.Value == "" {
				problem(v.Line, form, "the tag %q has no value", key.Value)
				continue
			}
			group = append(group, rollout.Filter{Key: key.Value, Value: v.Value, AnyValue: v.Value == anyValue})
		}
		groups = append(groups, group)
	}
	if err := groups.Check(); err != nil && len(problems) == 0 {
		problem(n.Line, "ask for less", "%s", err)
	}
	return groups, problems
}
