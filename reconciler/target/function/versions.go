package function

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// publish makes the version of a function of the release.
func (a *app) publish(ctx context.Context, d *target.Declared, f *Function) (int, error) {
	digest, err := artifactOf(d, f)
	if err != nil {
		return 0, &refused{why: err.Error()}
	}
	v := version{Digest: digest, Config: f.Config, Release: d.Release.Number}
	dir, err := a.t.use(ctx, v)
	var missing *missingCode
	switch {
	case errors.As(err, &missing):
		return 0, &refused{why: f.Name + ": " + missing.why, back: true}
	case err != nil:
		return 0, err
	}
	defer a.t.code.Release(v.code())
	if _, err := f.Config.command(dir); err != nil {
		return 0, &refused{why: f.Name + ": " + err.Error(), back: true}
	}
	number, isNew := a.state.publish(f.Name, v, time.Now())
	if isNew {
		a.t.Log.Info("published", "app", a.name(), "function", f.Name, "version", number, "release", d.Release.Number)
	}
	return number, nil
}

// use has the code of a version unpacked.
func (t *Target) use(ctx context.Context, v version) (dir string, err error) {
	t.mu.Lock()
	t.codes[v.code()] = v
	t.mu.Unlock()
	return t.code.Use(ctx, v.code())
}

// artifactOf is the digest of the artifact that has a function's code.
func artifactOf(d *target.Declared, f *Function) (string, error) {
	all := d.Release.Artifacts
	names := slices.Sorted(maps.Keys(all))
	if f.Artifact != "" {
		if digest, ok := all[f.Artifact]; ok {
			return digest, nil
		}
		return "", fmt.Errorf("release %d has no artifact %s; it has %s", d.Release.Number, f.Artifact,
			cmp.Or(strings.Join(names, ", "), "none"))
	}
	if digest, ok := all[f.Name]; ok {
		return digest, nil
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("release %d has no artifact to run; let the buildspec name files under artifacts",
			d.Release.Number)
	case 1:
		return all[names[0]], nil
	}
	return "", fmt.Errorf(
		"release %d has the artifacts %s, and none is named %s like the function; say with artifact: in %s which it is",
		d.Release.Number, strings.Join(names, ", "), f.Name, settingsFile)
}

// open gets the versions ready that requests may go to, and lets go of the others. A
// function that nothing was published of now has the version that was published last.
func (a *app) open(ctx context.Context, published map[string]int) error {
	spec := a.settings.Spec
	for name, f := range a.settings.Functions {
		fn := a.functions[name]
		if fn == nil {
			fn = newFunction(a, name)
			a.functions[name] = fn
		}
		latest := published[name]
		if all := a.state.Functions[name]; latest == 0 && len(all) > 0 {
			latest = all[len(all)-1].Number
		}
		needed := map[int]bool{latest: true}
		if name == spec.Name {
			at := a.state.Aliases[a.settings.aliasKey()]
			needed[at.Version], needed[at.Canary] = true, true
			if p := a.state.Deployment; p != nil {
				needed[p.Current], needed[p.Target] = true, true
			}
		}
		fn.mu.Lock()
		fn.limit, fn.idle = f.Concurrency, f.Idle
		fn.mu.Unlock()
		for number := range needed {
			v, ok := a.state.version(name, number)
			if !ok {
				continue
			}
			if err := fn.ready(ctx, v); err != nil {
				return err
			}
		}
		fn.mu.Lock()
		fn.latest = latest // requests go there from now on
		fn.mu.Unlock()
	}
	for name, fn := range a.functions {
		if a.settings.Functions[name] == nil {
			fn.keepOnly(func(int) bool { return false })
			delete(a.functions, name)
		}
	}
	a.route()
	a.show()
	return nil
}

// ready makes the pool of a version.
func (f *function) ready(ctx context.Context, v version) error {
	f.mu.Lock()
	p := f.pools[v.Number]
	f.mu.Unlock()
	if p != nil {
		return nil
	}
	t := f.app.t
	dir, err := t.use(ctx, v)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools[v.Number] = &pool{
		owner:    t,
		function: f,
		version:  v,
		code:     dir,
		all:      map[*instance]time.Time{},
	}
	return nil
}

// prove has an instance of a version come up before any request goes there.
func (a *app) prove(ctx context.Context, number int) error {
	f := a.functions[a.settings.Spec.Name]
	f.mu.Lock()
	p := f.pools[number]
	f.mu.Unlock()
	in, err := p.acquire(ctx)
	var failed *functionError
	if errors.As(err, &failed) && ctx.Err() == nil {
		return &refused{why: fmt.Sprintf("%s %s does not start: %v", f.name, p.version, failed), back: true}
	}
	if err != nil {
		return err
	}
	p.release(in, true)
	return nil
}

// route has requests go where the state says, and lets go of versions that get none.
func (a *app) route() {
	if a.settings == nil {
		return
	}
	at := a.state.Aliases[a.settings.aliasKey()]
	a.alias.set(at)
	if a.settings.Engine == engineAWS {
		return
	}
	f := a.functions[a.settings.Spec.Name]
	if f == nil {
		return
	}
	f.mu.Lock()
	latest := f.latest
	f.mu.Unlock()
	f.keepOnly(func(number int) bool {
		if p := a.state.Deployment; p != nil && !p.Stage.Over() && (number == p.Current || number == p.Target) {
			return true
		}
		return number == latest || number == at.Version || number == at.Canary
	})
}
