package buildspec

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Batch is several builds of one source (B58-B60): a list, a matrix, a graph or a
// fanout, as the tasks that it comes to.
type Batch struct {
	FastFail bool
	Tasks    []Task
}

// Task is one build of a batch.
type Task struct {
	ID            string
	Buildspec     string   // path in the source; "" is the file that the batch is in
	Image         string   // "" is the one that the project has
	DependsOn     []string // tasks that must be green first
	IgnoreFailure bool
	Variables     []Variable // win over those of the file
	Shard, Shards int        // of a fanout, from 0; Shards is 0 for other tasks
	Line          int
}

// elsewhere reports whether all tasks have files of their own.
func (b *Batch) elsewhere() bool {
	return !slices.ContainsFunc(b.Tasks, func(t Task) bool { return t.Buildspec == "" })
}

// Bounds of a batch: CodeBuild's own.
const maxTasks = 100

var taskForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,127}$`) })

func (r *reader) batch(key, n *yaml.Node) {
	kinds := map[string]func(key, value *yaml.Node, b *Batch){
		"build-list":   r.buildList,
		"build-graph":  r.buildGraph,
		"build-matrix": r.buildMatrix,
		"build-fanout": r.buildFanout,
	}
	b := &Batch{}
	var first *yaml.Node
	r.mapping(n, "batch", func() {
		r.keys(n, "batch", append(slices.Sorted(maps.Keys(kinds)), "fast-fail"), func(k, value *yaml.Node) {
			if k.Value == "fast-fail" {
				b.FastFail = r.yes(value, "batch.fast-fail")
				return
			}
			if first != nil {
				r.refuse(k, "keep one of them", "batch has both %s and %s", first.Value, k.Value)
				return
			}
			first = k
			kinds[k.Value](k, value, b)
			if len(b.Tasks) > maxTasks {
				r.refuse(k, "make it smaller", "batch.%s comes to %d builds: a batch has at most %d", k.Value,
					len(b.Tasks), maxTasks)
			}
		})
	})
	if null(n) {
		return
	}
	if first == nil {
		r.refuse(key, "add build-list, build-matrix, build-graph or build-fanout", "batch has no builds")
	}
	r.spec.Batch = b
	r.graph(key, b)
}

// graph checks that every task can have its turn.
func (r *reader) graph(key *yaml.Node, b *Batch) {
	at := func(t Task) *yaml.Node { return &yaml.Node{Line: t.Line, Column: key.Column} }
	known := map[string]Task{}
	for _, t := range b.Tasks {
		if other, twice := known[t.ID]; twice {
			r.refuse(at(t), "give it another", "the identifier %q is already that of line %d", t.ID, other.Line)
		}
		known[t.ID] = t
	}
	for _, t := range b.Tasks {
		for _, on := range t.DependsOn {
			if _, ok := known[on]; !ok {
				fix := "name one of this graph"
				if near, ok := yamlfile.Nearest(on, slices.Collect(maps.Keys(known))); ok {
					fix = fmt.Sprintf("did you mean %q?", near)
				}
				r.refuse(at(t), fix, "task %q depends on %q, which is not there", t.ID, on)
			}
		}
	}
	done := map[string]bool{}
	for range b.Tasks {
		for _, t := range b.Tasks {
			done[t.ID] = done[t.ID] || !slices.ContainsFunc(t.DependsOn, func(on string) bool { return !done[on] })
		}
	}
	var stuck []string
	for _, t := range b.Tasks {
		if !done[t.ID] {
			stuck = append(stuck, t.ID)
		}
	}
	if len(stuck) > 0 && len(r.problems) == 0 {
		r.refuse(at(known[stuck[0]]), "remove one of their depend-on", "the tasks %s wait for one another",
			strings.Join(stuck, ", "))
	}
}

var taskKeys = []string{"identifier", "buildspec", "debug-session", "ignore-failure", "env"}

func (r *reader) buildList(key, n *yaml.Node, b *Batch) { r.tasks(key, n, taskKeys, b) }

func (r *reader) buildGraph(key, n *yaml.Node, b *Batch) {
	r.tasks(key, n, append(slices.Clone(taskKeys), "depend-on"), b)
}

func (r *reader) tasks(key, n *yaml.Node, known []string, b *Batch) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		r.refuse(key, "write a list, each item beginning with '- identifier:'", "batch.%s is not a list of tasks", key.Value)
		return
	}
	for _, item := range n.Content {
		t := Task{Line: item.Line}
		r.mapping(item, "a task of "+key.Value, func() {
			r.keys(item, "batch."+key.Value, known, func(k, value *yaml.Node) { r.task(&t, k, value) })
		})
		if !taskForm().MatchString(t.ID) {
			r.refuse(item, "use letters, digits and '_', beginning with a letter", "%q is not an identifier for a task", t.ID)
		}
		b.Tasks = append(b.Tasks, t)
	}
}

func (r *reader) task(t *Task, key, value *yaml.Node) {
	switch key.Value {
	case "identifier":
		t.ID = r.text(value, "identifier")
	case "buildspec":
		t.Buildspec = r.text(value, "buildspec")
	case "ignore-failure":
		t.IgnoreFailure = r.yes(value, key.Value)
	case "depend-on":
		t.DependsOn = r.texts(value, key.Value)
	case "debug-session":
		if r.yes(value, key.Value) {
			r.warn(key, "debug-session has no effect here: headgate run --shell opens a failed build")
		}
	case "env":
		r.taskEnv(value, func(k, v *yaml.Node) {
			switch k.Value {
			case "variables":
				t.Variables = r.variablesOf(v, "env.variables")
			case "image":
				t.Image = r.text(v, "image")
			}
		})
	}
}

// taskEnv reads the env of a task: what is about CodeBuild's machines has no effect
// here.
func (r *reader) taskEnv(n *yaml.Node, each func(key, value *yaml.Node)) {
	known := []string{"variables", "image", "compute-type", "fleet", "type", "privileged-mode"}
	r.mapping(n, "env", func() {
		r.keys(n, "batch.env", known, func(k, v *yaml.Node) {
			switch k.Value {
			case "variables":
				each(k, v)
			case "image":
				each(k, v)
				r.warn(k, "env.image has no effect here: builds run on the image that headgate.yaml names")
			case "privileged-mode":
				if v.Kind == yaml.ScalarNode && r.yes(v, k.Value) {
					r.warn(k, "privileged-mode has no effect here")
				}
			}
		})
	})
}

// buildMatrix makes a task of each combination of the dynamic values.
func (r *reader) buildMatrix(key, n *yaml.Node, b *Batch) {
	all := []Task{{Line: key.Line}}
	many := false
	multiply := func(at *yaml.Node, values []string, set func(t *Task, value string)) {
		if len(values) == 0 || many {
			return
		}
		if len(all)*len(values) > maxTasks {
			r.refuse(at, "make it smaller", "batch.build-matrix comes to %d builds and more: a batch has at most %d",
				len(all)*len(values), maxTasks)
			many = true
			return
		}
		var next []Task
		for _, t := range all {
			for _, v := range values {
				one := t
				one.Variables = slices.Clone(t.Variables)
				set(&one, v)
				next = append(next, one)
			}
		}
		all = next
	}
	ignore := false
	r.mapping(n, "batch.build-matrix", func() {
		r.keys(n, "batch.build-matrix", []string{"static", "dynamic"}, func(k, value *yaml.Node) {
			r.mapping(value, "build-matrix."+k.Value, func() {
				if k.Value == "static" {
					r.keys(value, "batch.build-matrix.static", []string{"ignore-failure", "env"}, func(k, v *yaml.Node) {
						if k.Value == "ignore-failure" {
							ignore = r.yes(v, k.Value)
							return
						}
						r.taskEnv(v, func(k, v *yaml.Node) {
							if k.Value != "variables" {
								return
							}
							for _, one := range r.variablesOf(v, "env.variables") {
								multiply(k, []string{one.Value}, func(t *Task, value string) {
									t.Variables = append(t.Variables, Variable{one.Name, value})
								})
							}
						})
					})
					return
				}
				r.keys(value, "batch.build-matrix.dynamic", []string{"buildspec", "env"}, func(k, v *yaml.Node) {
					if k.Value == "buildspec" {
						multiply(k, r.texts(v, "buildspec"), func(t *Task, value string) { t.Buildspec = value })
						return
					}
					r.taskEnv(v, func(k, v *yaml.Node) {
						if k.Value == "image" {
							multiply(k, r.texts(v, "image"), func(t *Task, value string) { t.Image = value })
							return
						}
						r.mapping(v, "env.variables", func() {
							r.pairs(v, func(name, values *yaml.Node) {
								r.name(name)
								multiply(name, r.texts(values, name.Value), func(t *Task, value string) {
									t.Variables = append(t.Variables, Variable{name.Value, value})
								})
							})
						})
					})
				})
			})
		})
	})
	for i := range all {
		all[i].ID, all[i].IgnoreFailure = fmt.Sprintf("build%d", i), ignore
	}
	b.Tasks = all
}

func (r *reader) buildFanout(key, n *yaml.Node, b *Batch) {
	count, ignore := 0, false
	r.mapping(n, "batch.build-fanout", func() {
		r.keys(n, "batch.build-fanout", []string{"parallelism", "ignore-failure"}, func(k, value *yaml.Node) {
			if k.Value == "ignore-failure" {
				ignore = r.yes(value, k.Value)
				return
			}
			text := r.text(value, "parallelism")
			var err error
			if count, err = strconv.Atoi(text); err != nil || count < 2 || count > maxTasks {
				r.refuse(value, fmt.Sprintf("write a number from 2 to %d", maxTasks),
					"parallelism %q is not a number of builds", text)
				count = 0
			}
		})
	})
	if count == 0 && len(r.problems) == 0 {
		r.refuse(key, "add parallelism: 2", "batch.build-fanout has no parallelism")
	}
	for i := range count {
		b.Tasks = append(b.Tasks, Task{ID: fmt.Sprintf("build%d", i), Shard: i, Shards: count, IgnoreFailure: ignore,
			Line: key.Line})
	}
}
