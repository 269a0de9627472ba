package server

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/fleet"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// Checker checks trees, with the targets that this program has, and policies by
// a Pool's Check.
func Checker(judge check.Policies) *check.Checker {
	return &check.Checker{Policies: judge, Targets: map[string]check.Target{
		headgateyaml.Hosts: {Reads: fleet.Reads, Check: fleet.Check},
		headgateyaml.Function: {
			Reads: function.Reads,
			Check: function.Check,
			Addresses: func(dir string, files map[string][]byte) []check.Address {
				return addressesIn(dir, function.Addresses(files))
			},
			Parts: func(dir string, files map[string][]byte) []check.Part {
				return partsIn(dir, "functions.", function.Parts(files))
			},
		},
		headgateyaml.Kubernetes: {Reads: kubernetes.Reads, Check: checkManifests},
		headgateyaml.Services: {
			Reads: services.Reads,
			Wants: func(files map[string][]byte) []string { return services.Wants(files) },
			Check: func(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
				return services.Check(dir, files)
			},
			Addresses: func(dir string, files map[string][]byte) []check.Address {
				return addressesIn(dir, services.Addresses(files))
			},
			Secrets: secretsIn,
			Parts: func(dir string, files map[string][]byte) []check.Part {
				return partsIn(dir, "services.", services.Parts(files))
			},
		},
	}}
}

// clusters is the file that says for which clusters manifests are.
var clusters = fleet.File{Name: kubernetes.FileName, Of: "cluster", Also: kubernetes.Keys, Parts: true}

func checkManifests(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
	problems, warnings = kubernetes.Check(dir, files)
	if _, ok := files[kubernetes.FileName]; ok { // else that was said
		problems = append(problems, clusters.Check(dir, files)...)
	}
	return problems, warnings
}

// addressesIn are those that files of a directory declare.
func addressesIn(dir string, declared []target.Address) (all []check.Address) {
	for _, a := range declared {
		all = append(all, check.Address{AddrPort: a.Address, File: path.Join(dir, a.File), Line: a.Line})
	}
	return all
}

// partsIn are those of a release that files of a directory name.
func partsIn(dir, under string, named []target.PartUse) (all []check.Part) {
	for _, p := range named {
		all = append(all, check.Part{Name: p.Name, Image: p.Image, For: under + p.Unit, File: path.Join(dir, p.File),
			Line: p.Line})
	}
	return all
}

// secretsIn are those that files of a directory have services be given.
func secretsIn(dir string, files map[string][]byte) (all []check.Secret) {
	for _, s := range services.Secrets(files) {
		all = append(all, check.Secret{
			Name: s.Name,
			For:  "services." + s.Unit,
			File: path.Join(dir, s.File),
			Line: s.Line,
		})
	}
	return all
}

// targets are what makes environments so, by the same names that Checker knows.
func targets(supervised target.Target, machines, clustered *fleet.Target,
	functions *function.Target) map[string]target.Target {
	return map[string]target.Target{
		headgateyaml.Services:   supervised,
		headgateyaml.Hosts:      machines,
		headgateyaml.Function:   functions,
		headgateyaml.Kubernetes: clustered,
	}
}

// refusesTarget says why a repository may not use a target: scripts of an appspec.yml
// run as the server's own user, so whoever runs the server must have said who may; and
// manifests need a cluster.
func (s *Server) refusesTarget(repository, target string) (what, fix string) {
	has := func(cluster bool) bool {
		return slices.ContainsFunc(s.access.Load().Agents(), func(a access.Agent) bool {
			return a.MayDeploy(repository) && isCluster(a) == cluster
		})
	}
	switch target {
	case headgateyaml.Kubernetes:
		if has(true) {
			return "", ""
		}
		return "no cluster has an agent to which " + repository + " may deploy", "have one enrol, with a manifest: " +
			s.about.Command("agent enrol --help")
	case headgateyaml.Hosts:
		if s.opts.mayDeployHere(repository) || has(false) {
			return "", ""
		}
	default:
		return "", ""
	}
	return fmt.Sprintf("%s may not deploy on the server's own machine, which is the only host there is", repository),
		"have the server started with --deploy-here " + repository + ", or write target: services"
}

func (o *Options) mayDeployHere(repository string) bool {
	return slices.Contains(o.DeployHere, repository)
}

// checkTree is the gate's: a merge of two good trees need not be good. The
// repository headgate is judged by its build alone.
func checkTree(checker *check.Checker) func(context.Context, *repo.Repository, repo.Hash) error {
	return func(ctx context.Context, r *repo.Repository, tree repo.Hash) error {
		if r.Name() == access.Own {
			return nil
		}
		found, err := checker.Tree(ctx, r.FilesOf(tree))
		if err != nil {
			return err
		}
		return found.Problems.Err()
	}
}
