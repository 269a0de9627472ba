package gate

import (
	"context"
	"errors"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// ServerFile is the file whose validity is the build of the repository Own.
const ServerFile = "server.yaml"

// FileSettings is what the headgate.yaml in a tree says, for Config.Settings. A
// tree without the file has the defaults. The repository Own is built by
// CheckServerFile, whatever its tree says.
func FileSettings(r *repo.Repository, tree repo.Hash) (Settings, error) {
	return settingsIn(r, r.Name(), tree)
}

// settingsIn is FileSettings for a clone of the repository called name.
func settingsIn(r *repo.Repository, name string, tree repo.Hash) (Settings, error) {
	f, err := fileIn(r, tree)
	if err != nil {
		return Settings{}, err
	}
	s := Settings{
		Strategy: Strategy(f.Land.Strategy), Buildspec: f.Build.Buildspec, Image: f.Build.Image,
		Timeout: f.Build.Timeout, Network: f.Build.Network, Variables: f.Build.Variables, Limits: f.Build.Limits,
		Services: f.Build.Services, Registries: f.Build.Registries, Forks: f.Build.Forks,
	}
	if name == Own {
		s.Buildspec, s.Image, s.Network, s.Variables = builtin+ServerFile, headgateyaml.HostImage, false, nil
		s.Services, s.Registries, s.Forks = nil, nil, headgateyaml.Forks{}
	}
	return s, nil
}

// fileIn is the headgate.yaml of a tree, or what holds without one.
func fileIn(r *repo.Repository, tree repo.Hash) (*headgateyaml.File, error) {
	return headgateyaml.In(r.FilesOf(tree).ReadFile)
}

// Builtin builds the repository Own in this process: it is green when its
// ServerFile is valid. All other jobs are Next's.
type Builtin struct {
	Validate func(file string, data []byte) error // problems are shown to the pusher
	Next     Builder
}

// Build implements Builder.
func (b Builtin) Build(ctx context.Context, j Job) (Result, error) {
	if j.Buildspec != builtin+ServerFile {
		return b.Next.Build(ctx, j)
	}
	data, err := j.Repository.File(j.Tree, ServerFile)
	if errors.Is(err, repo.ErrNoFile) {
		return Result{Reason: "no " + ServerFile + ": it says who may do what on this server"}, nil
	}
	if err != nil {
		return Result{}, err
	}
	if err := b.Validate(ServerFile, data); err != nil {
		return Result{Reason: err.Error()}, nil
	}
	return Result{Green: true}, nil
}
