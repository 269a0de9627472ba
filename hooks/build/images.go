package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
)

// images makes the images of a build that has succeeded and packed its artifacts. Its
// error is the server's own; what is wrong with an image fails the build.
func (r *runner) images(ctx context.Context) error {
	if r.result.Status != Succeeded || len(r.req.Images) == 0 {
		return nil
	}
	r.log.Note("Entering phase IMAGES")
	r.phaseNow, r.commandNow = "images", ""
	files := slices.Clone(r.result.Artifacts)
	for _, i := range r.req.Images {
		made, err := r.image(ctx, i, files)
		var no *clientError
		if errors.As(err, &no) {
			r.log.Note("Phase complete: IMAGES State: FAILED")
			problem := yamlfile.Problem{File: "headgate.yaml", Line: i.Line, What: no.what, Fix: no.fix}
			r.log.Note("%s", problem)
			r.fail("images", "CLIENT_ERROR", "", 0, problem.Error())
			return nil
		}
		if err != nil {
			return err
		}
		r.log.Note("image %s: %s", made.Name, made.Digest)
		r.result.Artifacts = append(r.result.Artifacts, made)
	}
	r.log.Note("Phase complete: IMAGES State: SUCCEEDED")
	return nil
}

func (r *runner) image(ctx context.Context, i Image, files []artifact.Artifact) (artifact.Artifact, error) {
	named := func(name string) func(artifact.Artifact) bool {
		return func(a artifact.Artifact) bool { return a.Name == name }
	}
	if slices.ContainsFunc(files, named(i.Name)) {
		return artifact.Artifact{}, &clientError{
			what: fmt.Sprintf("image %q has the name of an artifact", i.Name),
			fix:  "give one of them another name",
		}
	}

	if i.Archive != "" {
		source, err := r.session.Files(ctx, SourceDir)
		if err != nil {
			return artifact.Artifact{}, err
		}
		made, err := r.store.Import(ctx, source, i.Archive, i.Name)
		var fault *artifact.FileError
		if errors.As(err, &fault) {
			return made, &clientError{
				what: fmt.Sprintf("image %q: %v", i.Name, fault),
				fix:  "have a command of the buildspec write it, such as docker save -o " + i.Archive,
			}
		}
		return made, err
	}

	at := slices.IndexFunc(files, named(i.Artifact))
	if at < 0 {
		var names []string
		for _, a := range files {
			names = append(names, a.Name)
		}
		no := &clientError{
			what: fmt.Sprintf("image %q is made of artifact %q, which the build does not have", i.Name, i.Artifact),
			fix:  "list its files under artifacts in the buildspec",
		}
		if len(names) > 0 {
			no.fix = "its artifacts are " + strings.Join(names, ", ")
		}
		return artifact.Artifact{}, no
	}
	return r.store.Assemble(ctx, i.Name, files[at].Digest, i.Directory, i.Config)
}
