package gate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/cache"
	"github.com/headgate-cd/headgate/hooks/build/report"
	"github.com/headgate-cd/headgate/hooks/build/sbom"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// TreeBuilder does what package build does for the gate: a tree is checked out,
// built in a sandbox, logged, and cleaned up after.
type TreeBuilder struct {
	Logs      *buildlog.Dir
	Artifacts *artifact.Store
	Executor  build.Executor // on the machine itself
	Images    build.Executor // in containers; nil: there is none
	Work      string         // directory for checkouts; what is in it at the start is nobody's

	// Cache keeps what tools of builds leave for the next ones; nil keeps nothing.
	Cache *cache.Store

	// Reports keeps what tests have written; nil keeps nothing.
	Reports *report.Store

	// Secrets are those of a repository, for its builds; nil: there are none.
	Secrets func(repository string) build.Secrets

	// Login is how a registry is entered by what a secret of a repository says; nil: none is.
	Login func(repository, secret string) (build.Login, error)

	// Submodule finds the repository of this server that a URL in .gitmodules names,
	// when everybody who may read of may read it too; else why there is none to
	// check out. nil checks out none.
	Submodule func(of, url string) (r *repo.Repository, why string)
}

// Build implements Builder.
func (b *TreeBuilder) Build(ctx context.Context, j Job) (result Result, err error) {
	log, err := b.Logs.Create(j.Log, nil)
	if err != nil {
		return Result{}, err
	}
	defer log.Discard() // of a build that came to no end; a finished log stays
	dir := filepath.Join(b.Work, j.Log)
	source := filepath.Join(dir, "source")
	if err := os.MkdirAll(source, 0o700); err != nil {
		return Result{}, fmt.Errorf("make the build's directory: %w", err)
	}
	defer build.RemoveAll(dir)
	objects, unview, err := j.Repository.ViewObjects()
	if err != nil {
		return Result{}, err
	}
	defer unview()
	if err := j.Repository.Attach(ctx, source, j.Candidate, j.Branch, build.ObjectsDir); err != nil {
		return Result{}, err
	}
	links, err := j.Repository.Checkout(ctx, j.Tree, source)
	if err != nil {
		return Result{}, err
	}
	s := submodules{find: b.Submodule, root: source}
	if err := s.checkOut(ctx, j.Repository, j.Tree, "", links); err != nil {
		return Result{}, err
	}

	executor, image := b.Executor, ""
	if inContainer(j.Image) {
		if executor, image = b.Images, j.Image; executor == nil {
			return Result{}, build.UnableError("this server runs no builds in containers")
		}
	}
	var use *cache.Use
	sharing, ok := executor.(interface{ Overlays(context.Context) bool })
	if ok && b.Cache != nil && j.Cache != NoCache && sharing.Overlays(ctx) {
		if use, err = b.Cache.Use(j.Repository.Name(), j.Log); err != nil {
			return Result{}, err
		}
		defer func() {
			if err == nil && result.Green && j.Cache == KeepsCache {
				use.Keep()
			} else {
				use.Drop()
			}
		}()
	}
	logins, err := b.logins(j)
	if err != nil {
		return Result{}, err
	}
	images, err := imagesOf(j)
	if err != nil {
		return Result{}, err
	}
	r, err := build.Run(ctx, build.Request{
		ID:         j.Log,
		Source:     source,
		Work:       dir,
		Buildspec:  j.Buildspec,
		Variables:  j.Variables,
		Timeout:    j.Timeout,
		Network:    j.Network,
		Image:      image,
		Services:   j.Services,
		Logins:     logins,
		Limits:     j.Limits,
		Secrets:    b.secrets(j),
		Objects:    objects,
		Images:     images,
		Notices:    s.notices,
		Cache:      buildCache(use),
		Number:     j.Change,
		Repository: j.Repository.Name(),
		Branch:     j.Branch,
		Commit:     j.Candidate.String(),
		Previous:   previous(j.Base),
		Tree:       j.Tree.String(),
		Initiator:  j.By,
	}, executor, log, b.Artifacts)
	if err != nil {
		return Result{}, err
	}
	if r.Status == build.Stopped {
		return Result{}, context.Cause(ctx)
	}
	var bill *verdict.Artifact
	if r.Status == build.Succeeded {
		if bill, err = b.bill(j, log); err != nil {
			return Result{}, err
		}
	}
	digest, err := log.Finish(string(r.Status))
	if err != nil {
		return Result{}, err
	}

	result = Result{
		Green:     r.Status == build.Succeeded,
		Reason:    r.Reason,
		Phase:     r.Phase,
		Command:   r.Command,
		Exit:      r.Exit,
		LogLine:   r.LogLine,
		LogDigest: "sha256:" + digest,
		SBOM:      bill,
	}
	for _, a := range r.Artifacts {
		result.Artifacts = append(result.Artifacts,
			verdict.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size, Type: a.Type})
	}
	if b.Reports != nil {
		result.Flaky, err = b.keepReports(j, r)
	}
	return result, err
}

// bill makes the bill of materials of a tree and keeps it; nil when no file says what it
// is made of.
func (b *TreeBuilder) bill(j Job, log *buildlog.Writer) (*verdict.Artifact, error) {
	files, err := j.Repository.Files(j.Tree, sbom.Wanted)
	if err != nil {
		log.NoteAbout(buildlog.Warning, "sbom: there is none: %v", err)
		return nil, nil
	}
	c := sbom.Of(j.Repository.Name(), j.Tree.String(), files)
	if c.JSON == nil {
		return nil, nil
	}
	digest, err := b.Artifacts.PutBlob(c.JSON)
	if err != nil {
		return nil, fmt.Errorf("keep the bill of materials: %w", err)
	}
	log.Note("sbom: %d components of %s", c.Components, strings.Join(c.Files[:min(len(c.Files), 5)], ", "))
	if c.Cut {
		log.NoteAbout(buildlog.Warning, "sbom: there are more components than fit in, which it lacks")
	}
	return &verdict.Artifact{Name: release.SBOM, Digest: digest, Size: int64(len(c.JSON))}, nil
}

// keepReports keeps what the tests of a build have said. Where all that failed is known to
// pass and fail on one tree, it says which tests these are.
func (b *TreeBuilder) keepReports(j Job, r build.Result) (flaky []string, err error) {
	one := report.Build{
		Log:     j.Log,
		Tree:    j.Tree.String(),
		Commit:  j.Candidate.String(),
		Branch:  j.Branch,
		Ended:   r.Finished,
		Green:   r.Status == build.Succeeded,
		Reports: r.Reports,
	}
	if j.Revision > 0 {
		one.Change = j.Change
	}
	if err := b.Reports.Keep(j.Repository.Name(), one); err != nil || one.Green || len(r.Reports) == 0 {
		return nil, err
	}
	builds, err := b.Reports.Newest(j.Repository.Name(), report.MaxBuilds)
	if err != nil {
		return nil, err
	}
	if names, all := report.KnownFlaky(one, builds); all {
		flaky = names
	}
	return flaky, nil
}

// secrets are those of a job: none for what comes from outside.
func (b *TreeBuilder) secrets(j Job) build.Secrets {
	if b.Secrets == nil {
		return nil
	}
	if j.Outside {
		return func(context.Context, build.Secret) (string, error) {
			return "", fmt.Errorf("%w: nobody who may write here has vouched for it", build.ErrNoSecrets)
		}
	}
	return b.Secrets(j.Repository.Name())
}

// logins are those of a job, of registries: none for what comes from outside.
func (b *TreeBuilder) logins(j Job) (map[string]build.Login, error) {
	if b.Login == nil || j.Outside {
		return nil, nil
	}
	all := map[string]build.Login{}
	for host, secret := range j.Registries {
		login, err := b.Login(j.Repository.Name(), secret)
		if err != nil {
			return nil, err
		}
		all[host] = login
	}
	return all, nil
}

func previous(base repo.Hash) string {
	if base.IsZero() {
		return ""
	}
	return base.String()
}

// imagesOf are the images that the tree's headgate.yaml wants of its build. A
// scheduled build by another buildspec makes none: it is of no release.
func imagesOf(j Job) (images []build.Image, err error) {
	file, err := fileIn(j.Repository, j.Tree)
	if err != nil || j.Buildspec != file.Build.Buildspec {
		return nil, err
	}
	return Images(file), nil
}

// Images are those that a headgate.yaml wants of a build.
func Images(file *headgateyaml.File) (images []build.Image) {
	for _, i := range file.Images {
		of := build.Image{
			Name:      i.Name,
			Archive:   i.Archive,
			Artifact:  i.Artifact,
			Directory: i.Directory,
			Line:      i.Line,
			Config: artifact.Config{
				Architecture:     cmp.Or(i.Architecture, runtime.GOARCH),
				Entrypoint:       i.Entrypoint,
				Command:          i.Command,
				User:             i.User,
				WorkingDirectory: i.WorkingDirectory,
				Ports:            slices.Sorted(slices.Values(i.Ports)),
			},
		}
		for _, name := range slices.Sorted(maps.Keys(i.Environment)) {
			of.Config.Environment = append(of.Config.Environment, name+"="+i.Environment[name])
		}
		images = append(images, of)
	}
	return images
}

func buildCache(use *cache.Use) build.Cache {
	if use == nil {
		return build.Cache{}
	}
	return build.Cache{Lower: use.Lower, Upper: use.Upper, Work: use.Work, Merged: use.Merged}
}
