package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// TestAsComposeReadsIt holds what is read of the directories in testdata/compose to what
// the library of Compose itself reads of them: files put together, variables replaced,
// services extended and merged. The library is linked into this test alone.
func TestAsComposeReadsIt(t *testing.T) {
	archives, err := filepath.Glob("testdata/compose/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{}
	for _, name := range instanceVariables {
		vars[name] = "x1"
	}
	compared := 0
	for _, name := range archives {
		if strings.HasPrefix(filepath.Base(name), "refused-") {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files, _ := filesIn(archive)
			compared += sameAsCompose(t, files, vars)
		})
	}
	apps, err := txtar.ParseFile("testdata/apps.txtar")
	if err != nil {
		t.Fatal(err)
	}
	directories := map[string]target.Files{}
	for _, f := range apps.Files {
		app, name, _ := strings.Cut(f.Name, "/")
		if directories[app] == nil {
			directories[app] = target.Files{}
		}
		directories[app][name] = f.Data
	}
	for app, files := range directories {
		t.Run(app, func(t *testing.T) { compared += sameAsCompose(t, files, vars) })
	}
	if compared < 32 {
		t.Errorf("%d services were compared", compared)
	}
}

// sameAsCompose compares what is read of files, and says of how many services.
func sameAsCompose(t *testing.T, files target.Files, vars map[string]string) (compared int) {
	t.Helper()
	c, _, err := Read("", files)
	if err != nil {
		t.Fatal(err)
	}
	project, err := composeProject(t.Context(), t.TempDir(), files, vars)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := bothRead(t, c, project, vars)
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if ours[name] != theirs[name] {
			t.Errorf("%s is read as\n%s\nand Compose reads\n%s", name, ours[name], theirs[name])
		}
	}
	if len(ours) != len(theirs) {
		t.Errorf("%d services are read, and Compose reads %d", len(ours), len(theirs))
	}
	return len(ours)
}

// bothRead is what is said of each service, by us and by Compose.
func bothRead(t fataler, c *Compose, project *types.Project, vars map[string]string) (ours, theirs map[string]string) {
	t.Helper()
	ours, theirs = map[string]string{}, map[string]string{}
	for _, s := range c.Services {
		ours[s.Name] = ourService(t, s, vars)
	}
	for name, s := range project.Services {
		for other := range s.DependsOn {
			if _, active := project.Services[other]; !active {
				delete(s.DependsOn, other)
			}
		}
		theirs[name] = theirService(s)
	}
	return ours, theirs
}

// fataler is a *testing.T or *rapid.T.
type fataler interface {
	Helper()
	Fatal(...any)
}

// errComposePanics is what it does of a date in a command.
var errComposePanics = errors.New("the library of Compose panics")

// composeProject is what the library reads of files, which it writes to a directory.
func composeProject(ctx context.Context, dir string, files target.Files, vars map[string]string) (_ *types.Project, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errComposePanics, p)
		}
	}()
	for name, data := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
	}
	env := []string{"COMPOSE_PROJECT_NAME=p"}
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	paths := []string{filepath.Join(dir, composeFile)}
	if _, ok := files["compose.override.yaml"]; ok {
		paths = append(paths, filepath.Join(dir, "compose.override.yaml"))
	}
	options, err := cli.NewProjectOptions(paths, cli.WithWorkingDirectory(dir), cli.WithEnv(env), cli.WithEnvFiles(),
		cli.WithDotEnv)
	if err != nil {
		return nil, err
	}
	if profiles := options.Environment["COMPOSE_PROFILES"]; profiles != "" {
		if err := cli.WithProfiles(strings.Split(profiles, ","))(options); err != nil {
			return nil, err
		}
	}
	return options.LoadProject(ctx)
}

// lines says what of a service is compared.
func lines(facts map[string]any) string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(&out, "  %s: %v\n", name, facts[name])
	}
	return out.String()
}

func ourService(t fataler, s Service, vars map[string]string) string {
	t.Helper()
	replaced := func(text string) string {
		out, err := interpolate(text, vars)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := func(argv []string) (out []string) {
		for _, word := range argv {
			out = append(out, replaced(word))
		}
		return out
	}
	env := map[string]string{}
	for name, text := range s.Environment {
		env[name] = replaced(text)
	}
	ports := []string{}
	for _, p := range s.Ports {
		ports = append(ports, p.String())
	}
	needs := map[string]rollout.Condition{}
	for _, n := range s.Needs {
		needs[n.Service] = n.Until
	}
	facts := map[string]any{
		"command":     all(s.Command),
		"environment": env,
		"ports":       ports,
		"replicas":    s.Replicas,
		"depends on":  needs,
		"test":        all(s.Health.Test),
		"working dir": s.WorkingDir,
	}
	if c := s.Container; c != nil {
		mounts := []string{}
		for _, m := range c.Mounts {
			if m.Volume != "" {
				mounts = append(mounts, fmt.Sprintf("%s at %s %v", m.Volume, m.Target, m.ReadOnly))
			} else {
				mounts = append(mounts, "files at "+m.Target)
			}
		}
		slices.Sort(mounts)
		labels := map[string]string{}
		for name, text := range c.Labels {
			labels[name] = replaced(text)
		}
		maps.Copy(facts, map[string]any{
			"image":      replaced(c.Image),
			"entrypoint": all(c.Entrypoint),
			"user":       c.User,
			"init":       c.Init,
			"read-only":  c.ReadOnly,
			"mounts":     mounts,
			"labels":     labels,
			"cap drop":   c.CapDrop,
			"shm":        c.SharedMem,
			"hostname":   c.Hostname,
			"dns":        c.DNS,
			"ulimits":    len(c.Ulimits),
			"sysctls":    c.Sysctls,
			"pids":       c.Limits.PIDs,
			"memory":     c.Limits.Memory,
			"reserved":   c.Limits.MemoryReservation,
			"cpus":       c.Limits.CPUs,
		})
	}
	return lines(facts)
}

func theirService(s types.ServiceConfig) string {
	env := map[string]string{}
	for name, value := range s.Environment {
		if value != nil {
			env[name] = *value
		}
	}
	ports := []string{}
	for _, p := range s.Ports {
		text := p.Published
		if text == "" {
			text = "0"
		}
		switch {
		case strings.Contains(p.HostIP, ":"):
			text = "[" + p.HostIP + "]:" + text
		case p.HostIP != "":
			text = p.HostIP + ":" + text
		}
		ports = append(ports, text)
	}
	needs := map[string]rollout.Condition{}
	for name, d := range s.DependsOn {
		needs[name] = conditions[d.Condition]
	}
	replicas := 1
	if s.Scale != nil {
		replicas = *s.Scale
	}
	if s.Deploy != nil && s.Deploy.Replicas != nil {
		replicas = *s.Deploy.Replicas
	}
	test := []string(nil)
	if h := s.HealthCheck; h != nil && !h.Disable && len(h.Test) > 1 {
		if test = h.Test[1:]; h.Test[0] == "CMD-SHELL" {
			test = []string{"/bin/sh", "-c", h.Test[1]}
		}
	}
	facts := map[string]any{
		"command":     []string(s.Command),
		"environment": env,
		"ports":       ports,
		"replicas":    replicas,
		"depends on":  needs,
		"test":        test,
		"working dir": s.WorkingDir,
	}
	if s.Image == "" {
		return lines(facts)
	}
	mounts := []string{}
	for _, v := range s.Volumes {
		switch v.Type {
		case types.VolumeTypeVolume:
			mounts = append(mounts, fmt.Sprintf("%s at %s %v", v.Source, v.Target, v.ReadOnly))
		case types.VolumeTypeBind:
			mounts = append(mounts, "files at "+v.Target)
		}
	}
	for _, c := range s.Configs {
		mounts = append(mounts, "files at "+cmp.Or(c.Target, "/"+c.Source))
	}
	slices.Sort(mounts)
	labels := map[string]string{}
	maps.Copy(labels, s.Labels)
	memory, reserved, cpus, pids := int64(s.MemLimit), int64(s.MemReservation), float64(s.CPUS), s.PidsLimit
	if s.Deploy != nil && s.Deploy.Resources.Limits != nil {
		l := s.Deploy.Resources.Limits
		memory, cpus, pids = int64(l.MemoryBytes), float64(l.NanoCPUs), l.Pids
	}
	if s.Deploy != nil && s.Deploy.Resources.Reservations != nil {
		reserved = int64(s.Deploy.Resources.Reservations.MemoryBytes)
	}
	sysctls := map[string]string{}
	maps.Copy(sysctls, s.Sysctls)
	maps.Copy(facts, map[string]any{
		"image":      s.Image,
		"entrypoint": []string(s.Entrypoint),
		"user":       s.User,
		"init":       s.Init != nil && *s.Init,
		"read-only":  s.ReadOnly,
		"mounts":     mounts,
		"labels":     labels,
		"cap drop":   s.CapDrop,
		"shm":        int64(s.ShmSize),
		"hostname":   s.Hostname,
		"dns":        []string(s.DNS),
		"ulimits":    len(s.Ulimits),
		"sysctls":    sysctls,
		"pids":       pids,
		"memory":     memory,
		"reserved":   reserved,
		"cpus":       cpus,
	})
	return lines(facts)
}
