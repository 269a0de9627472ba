package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/container"
	"github.com/headgate-cd/headgate/hooks/build/host"
	"github.com/headgate-cd/headgate/hooks/gate"
)

func runCommand() command {
	return command{
		name:  "run",
		args:  "[directory]",
		short: "build a work tree here, as the server would",
		long: `
headgate run
headgate run -b ci/nightly.yml --artifacts ./out
headgate run -e STAGE=test -e TOKEN=… --network --shell
headgate run --image golang:1.26

Runs the buildspec on a copy of the work tree's files (those git tracks and
those it does not ignore), with the same code and in the same sandbox as the
server: with the history and the tags, and those submodules that come from beside
the repository itself. What Go, npm, pip and Maven keep in green builds is
there for the next. Variables given here win over the buildspec's and those of
headgate.yaml; one that stands in for a secret is masked. --shell opens a shell in
the sandbox or container of a build that failed, as it was left. Registries of images
are entered as docker login or podman login has done on this machine, with their
credential helpers too. The directory for artifacts must be empty or absent.
Exit code 1 when the build fails.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			var l localBuild
			flags.StringVar(&l.buildspec, "buildspec", "",
				"`path` of the buildspec (default: as headgate.yaml says, else buildspec.yml)")
			flags.StringVar(&l.buildspec, "b", "", "the same `path`, as --buildspec")
			flags.Func("e", "a variable, as `NAME=value`; may be given again", l.variable)
			flags.StringVar(&l.envFile, "env-file", "", "`file` of variables, a NAME=value each line; # begins a comment")
			flags.StringVar(&l.image, "image", "",
				"run it in a container of this `image`, by Docker or Podman; host: on this machine (default: as headgate.yaml says)")
			flags.BoolVar(&l.network, "network", false, "let commands reach the network, whatever headgate.yaml says")
			flags.BoolVar(&l.shell, "shell", false, "open a shell in the sandbox when the build has failed")
			flags.StringVar(&l.artifacts, "artifacts", "", "`directory` to put the artifacts into, unpacked")
			flags.DurationVar(&l.timeout, "timeout", 0, "how long the build may take (default: as headgate.yaml says)")
			flags.BoolVar(&l.json, "json", false, "print the log's events and the result, one object a line")
			return func(ctx context.Context, p printer, args []string) error {
				l.dir = "."
				if len(args) > 1 {
					return usageError{"run takes one directory"}
				}
				if len(args) == 1 {
					l.dir = args[0]
				}
				return l.run(ctx, p)
			}
		},
	}
}

// localBuild is one `headgate run`.
type localBuild struct {
	dir, buildspec, artifacts string
	image                     string
	envFile                   string
	variables                 map[string]string
	timeout                   time.Duration
	json, network, shell      bool
}

// variable takes a NAME=value.
func (l *localBuild) variable(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" || strings.ContainsFunc(name,
		func(c rune) bool { return c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
		return fmt.Errorf("write NAME=value")
	}
	if l.variables == nil {
		l.variables = map[string]string{}
	}
	l.variables[name] = value
	return nil
}

// readEnvFile takes the variables of a file, but for those that were given one by one.
func (l *localBuild) readEnvFile() error {
	if l.envFile == "" {
		return nil
	}
	data, err := os.ReadFile(l.envFile)
	if err != nil {
		return err
	}
	given := maps.Clone(l.variables)
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if text := strings.TrimSpace(line); text == "" || text[0] == '#' {
			continue
		}
		if err := l.variable(line); err != nil {
			return fmt.Errorf("%s:%d: %w", l.envFile, number, err)
		}
	}
	maps.Copy(l.variables, given)
	return nil
}

// secrets are those of a build here: the variables that were given.
func (l *localBuild) secrets(context.Context, build.Secret) (string, error) {
	return "", fmt.Errorf("%w here: give the variable with -e or --env-file", build.ErrNoSecrets)
}

// enter opens a shell in the sandbox of a build that has failed.
func (l *localBuild) enter(ctx context.Context, s build.Session) error {
	in, ok := s.(build.Enterer)
	if !ok {
		return nil
	}
	fmt.Fprintln(os.Stderr, "the build has failed; this is its sandbox. exit ends it")
	err := in.Enter(context.WithoutCancel(ctx), "sh", os.Stdin, os.Stdout, os.Stderr)
	if errors.Is(err, build.ErrEnded) {
		fmt.Fprintln(os.Stderr, "the build has ended it itself, or met a limit: there is nothing to enter")
		return nil
	}
	return err
}

func (l *localBuild) run(ctx context.Context, p printer) error {
	dir, err := filepath.Abs(l.dir)
	if err != nil {
		return err
	}
	settings, err := headgateyaml.In(func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })
	if err != nil {
		return err
	}
	if l.buildspec != "" {
		settings.Build.Buildspec = l.buildspec
	}
	if err := l.readEnvFile(); err != nil {
		return err
	}
	if l.timeout < 0 {
		return usageError{"--timeout is negative"}
	}
	if l.timeout > 0 {
		settings.Build.Timeout = l.timeout
	}
	if _, err := os.Stat(filepath.Join(dir, settings.Build.Buildspec)); err != nil {
		return fmt.Errorf("no %s in %s\nhint: write one, or name another with --buildspec", settings.Build.Buildspec, l.dir)
	}
	if there, err := os.ReadDir(l.artifacts); err == nil && len(there) > 0 { // or old ones could be taken for these
		return fmt.Errorf("%s is not empty\nhint: remove what is in it, or name another directory with --artifacts",
			l.artifacts)
	}
	temp, err := os.MkdirTemp("", "headgate-run-")
	if err != nil {
		return err
	}
	defer build.RemoveAll(temp)
	source := filepath.Join(temp, "source")
	notices, err := copyTree(ctx, dir, source)
	if err != nil {
		return fmt.Errorf("copy the work tree: %w", err)
	}
	logDir, err := buildlog.OpenDir(filepath.Join(temp, "logs"))
	if err != nil {
		return err
	}
	store, err := artifact.Open(filepath.Join(temp, "artifacts"))
	if err != nil {
		return err
	}
	history, err := attachHistory(ctx, dir, source, filepath.Join(temp, "objects"))
	if err != nil {
		return fmt.Errorf("attach the history: %w", err)
	}
	here := &host.Host{}
	var executor build.Executor = here
	use, keep := build.Cache{}, func(bool) {}
	var services []build.Service
	logins := map[string]build.Login{}
	if l.image == headgateyaml.HostImage && len(settings.Build.Services) > 0 {
		return usageError{"--image host leaves no place for the services of headgate.yaml, which run beside a container: leave it out"}
	}
	if l.image = cmp.Or(l.image, settings.Build.Image); l.image == headgateyaml.HostImage {
		l.image = ""
		use, keep = localCache(ctx, here, dir)
	} else {
		containers := &container.Executor{}
		resolve := func(image string) (string, error) {
			registry := buildsettings.RegistryOf(image)
			if _, known := logins[registry]; !known {
				login, err := engine.UserLogin(ctx, registry)
				if err != nil {
					return "", err
				}
				logins[registry] = build.Login(login)
			}
			return containers.Resolve(ctx, image, logins[registry])
		}
		if l.image, err = resolve(l.image); err != nil {
			return err
		}
		services = settings.Build.Services
		for i := range services {
			if services[i].Image, err = resolve(services[i].Image); err != nil {
				return err
			}
		}
		executor = containers
	}
	defer func() { keep(false) }()
	const id = "run"
	log, err := logDir.Create(id, nil)
	if err != nil {
		return err
	}
	printed := make(chan error, 1)
	go func() { printed <- l.print(context.WithoutCancel(ctx), p.out, server.Logs{Dir: logDir}, id) }() // to its end, which comes
	req := build.Request{
		ID:         fmt.Sprintf("local-%d", os.Getpid()),
		Source:     source,
		Work:       temp,
		Buildspec:  settings.Build.Buildspec,
		Timeout:    settings.Build.Timeout,
		Network:    settings.Build.Network || l.network,
		Image:      l.image,
		Services:   services,
		Logins:     logins,
		Limits:     settings.Build.Limits,
		Variables:  buildsettings.Merge(settings.Build.Variables, l.variables),
		Secrets:    l.secrets,
		Local:      true,
		Initiator:  ownName(),
		Repository: filepath.Base(dir),
		Branch:     gitSays(ctx, dir, "branch", "--show-current"),
		Commit:     gitSays(ctx, dir, "rev-parse", "--verify", "--quiet", "HEAD"),
		Objects:    history,
		Images:     gate.Images(settings),
		Notices:    notices,
		Cache:      use,
	}
	if l.shell {
		req.Failed = l.enter
	}
	result, err := build.Run(ctx, req, executor, log, store)
	if err != nil {
		log.Discard()
		<-printed
		return err
	}
	if _, err := log.Finish(string(result.Status)); err != nil {
		return err
	}
	if err := <-printed; err != nil {
		return err
	}
	if l.artifacts != "" {
		for _, a := range result.Artifacts {
			if err := takeOut(ctx, store, a, filepath.Join(l.artifacts, filepath.FromSlash(a.Name))); err != nil {
				return err
			}
		}
	}
	keep(result.Status == build.Succeeded)
	took := result.Finished.Sub(result.Started).Round(10 * time.Millisecond)
	if l.json {
		return errors.Join(json.NewEncoder(p.out).Encode(map[string]any{"kind": "result", "status": result.Status,
			"reason": result.Reason, "took_ms": took.Milliseconds()}), exitOf(result))
	}
	if result.Status != build.Succeeded {
		fmt.Fprintf(p.err, "error: %s, after %s\n", result.Reason, took)
		return exitCode{1}
	}
	fmt.Fprintf(p.err, "green, in %s\n", took)
	return nil
}

// takeOut lays an artifact out as the directory dir: its files, or an OCI image
// layout of an image.
func takeOut(ctx context.Context, store *artifact.Store, a artifact.Artifact, dir string) error {
	if a.Type != artifact.Image {
		return store.Unpack(ctx, a.Digest, dir)
	}
	layout, err := artifact.Open(dir)
	if err != nil {
		return err
	}
	return store.CopyTo(ctx, layout, a.Digest)
}

func exitOf(r build.Result) error {
	if r.Status != build.Succeeded {
		return exitCode{1}
	}
	return nil
}

// print shows the log as it grows.
func (l *localBuild) print(ctx context.Context, w io.Writer, all server.Logs, id string) error {
	enc := json.NewEncoder(w)
	var unfinished show.Unfinished
	for e, err := range all.Events(ctx, id, true) {
		if err != nil {
			return err
		}
		if l.json {
			if err := enc.Encode(e); err != nil {
				return err
			}
			continue
		}
		if done, err := unfinished.Write(w, e, "", func(s string) string { return s }); done || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		switch e.Kind {
		case show.LogOut, show.LogNote:
			if _, err := fmt.Fprintln(w, e.Text); err != nil {
				return err
			}
		}
	}
	return nil
}

// gitSays is what git answers about a work tree, "" if nothing: what a build is
// told of its commit is a courtesy here.
func gitSays(ctx context.Context, dir string, args ...string) string {
	out, _ := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
	return strings.TrimSpace(string(out))
}

// attachHistory gives the copy of a work tree its .git, as a build on the server
// has it, and returns the directory of the objects that it refers to; "" for what
// has no history that could be attached.
func attachHistory(ctx context.Context, dir, source, objects string) (string, error) {
	head, ok := repo.ParseHash(gitSays(ctx, dir, "rev-parse", "--verify", "--quiet", "HEAD"))
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if !ok || gitSays(ctx, dir, "rev-parse", "--show-toplevel") != top {
		return "", nil
	}
	common := gitSays(ctx, dir, "rev-parse", "--git-common-dir")
	if !filepath.IsAbs(common) {
		common = filepath.Join(dir, common)
	}
	if _, err := os.Stat(filepath.Join(common, "objects", "info", "alternates")); err == nil {
		return "", nil // its objects are elsewhere, where no build sees them
	}
	r, err := repo.OpenClone(common)
	if err != nil {
		return "", err
	}
	if err := r.LinkObjects(objects); err != nil { // another file system, or another's files
		objects = filepath.Join(common, "objects")
	}
	if err := r.Attach(ctx, source, head, gitSays(ctx, dir, "branch", "--show-current"), build.ObjectsDir); err != nil {
		return "", err
	}
	index := r.Command(ctx, "read-tree", head.String())
	index.Env = append(index.Env, "GIT_INDEX_FILE="+filepath.Join(source, ".git", "index"))
	_, err = repo.Run(index, nil)
	return objects, err
}

// copyTree copies the files that git tracks or does not ignore; outside of a
// work tree of git, all of them. Of submodules those are copied that come from where
// the repository itself does, as on the server; notices name the others.
func copyTree(ctx context.Context, from, to string) (notices []string, err error) {
	cmd := exec.CommandContext(ctx, "git", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard",
		"--deduplicate")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	var failed *exec.ExitError
	switch {
	case err == nil:
	case errors.Is(err, exec.ErrNotFound), errors.As(err, &failed) &&
		strings.Contains(string(failed.Stderr), "not a git repository"):
		return nil, os.CopyFS(to, os.DirFS(from))
	case failed != nil: // a tree of another owner, for one: what it ignores is not known
		return nil, fmt.Errorf("git ls-files: %s", strings.TrimSpace(string(failed.Stderr)))
	default:
		return nil, err
	}
	src, err := os.OpenRoot(from)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	dst, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	defer dst.Close()
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		info, err := src.Lstat(name)
		if errors.Is(err, os.ErrNotExist) { // deleted in the work tree
			continue
		}
		if err == nil && info.IsDir() {
			var more []string
			more, err = copySubmodule(ctx, from, to, strings.TrimSuffix(name, "/"))
			notices = append(notices, more...)
		} else if err == nil {
			err = copyFile(src, dst, name)
		}
		if err != nil {
			return nil, err
		}
	}
	return notices, nil
}

// copySubmodule copies a submodule that comes from beside the repository itself.
func copySubmodule(ctx context.Context, from, to, name string) (notices []string, err error) {
	below := filepath.Join(to, name)
	if err := os.MkdirAll(below, 0o755); err != nil {
		return nil, err
	}
	url := ""
	for _, key := range strings.Fields(gitSays(ctx, from, "config", "--file", ".gitmodules", "--name-only", "--get-regexp",
		`^submodule\..*\.path$`)) {
		if gitSays(ctx, from, "config", "--file", ".gitmodules", key) == name {
			url = gitSays(ctx, from, "config", "--file", ".gitmodules", strings.TrimSuffix(key, ".path")+".url")
		}
	}
	origin := gitSays(ctx, from, "config", "remote.origin.url")
	if !strings.HasPrefix(url, "../") && (url == "" || origin == "" || path.Dir(url) != path.Dir(origin)) {
		return []string{fmt.Sprintf("submodule %s is not copied: %s is not where this repository comes from", name,
			cmp.Or(url, "what .gitmodules names"))}, nil
	}
	if _, err := os.Stat(filepath.Join(from, name, ".git")); err != nil {
		return []string{fmt.Sprintf(
			"submodule %s is not copied: it is not checked out here; run: git submodule update --init", name)}, nil
	}
	notices, err = copyTree(ctx, filepath.Join(from, name), below)
	for i := range notices {
		notices[i] = strings.Replace(notices[i], "submodule ", "submodule "+name+"/", 1)
	}
	return append([]string{"submodule " + name + ": copied"}, notices...), err
}

func copyFile(src, dst *os.Root, name string) error {
	info, err := src.Lstat(name)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(name); dir != "." {
		if err := dst.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		target, err := src.Readlink(name)
		if err != nil {
			return err
		}
		return dst.Symlink(target, name)
	}
	in, err := src.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
