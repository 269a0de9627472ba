package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
)

func initCommand() command {
	return command{
		name:  "init",
		args:  "[directory]",
		short: "write the files that let a server build and run a project",
		long: `
headgate init
headgate init --name shop ./shop

Looks at a project and writes what a server wants to find in it: buildspec.yml (how
it is built and tested), headgate.yaml (what lands, which environments there are)
and deploy/<environment>/compose.yaml (what runs). It knows Go, Node, Python, Ruby,
Java, PHP, Rust, Perl, static pages, a Makefile, a Procfile and a Dockerfile, and takes
a buildspec that is there. It says what it saw and what it could not know. Files that
are there stay as they are. Nothing is sent anywhere.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			var i initialiser
			flags.StringVar(&i.name, "name", "", "`name` of the repository on the server (default: the directory's name)")
			flags.StringVar(&i.server, "server", initServer,
				"`host:port` of the server's SSH, for the commands that are printed")
			flags.StringVar(&i.key, "key", "",
				"`file` of the SSH key that the server knows you by, when ssh does not find it by itself")
			flags.BoolVar(&i.force, "force", false, "overwrite files that are there")
			return func(ctx context.Context, p printer, args []string) error {
				i.dir = "."
				if len(args) > 1 {
					return usageError{"init takes one directory"}
				}
				if len(args) == 1 {
					i.dir = args[0]
				}
				return i.run(ctx, p)
			}
		},
	}
}

// initServer is where `make demo` listens.
const initServer = "127.0.0.1:2222"

// initialiser is one `headgate init`.
type initialiser struct {
	dir, name, server string
	key               string // file; "" is what ssh finds
	force             bool
}

// written is one file that init writes.
type written struct {
	path, content string
	what          string // in a few words
}

func (i *initialiser) run(ctx context.Context, p printer) error {
	dir, err := filepath.Abs(i.dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer root.Close()
	if i.name == "" {
		i.name = repositoryName(filepath.Base(dir))
	}
	if !repositoryNames.MatchString(i.name) {
		return usageError{fmt.Sprintf("--name %q: use lower-case letters, digits and -", i.name)}
	}

	found, err := recognise(sources{root})
	if err != nil {
		return err
	}
	for _, line := range found.saw {
		fmt.Fprintf(p.out, "saw %s\n", line)
	}
	branch := gitSays(ctx, dir, "branch", "--show-current")
	if branch == "" || !headgateyaml.Default().Gates(branch) && strings.Contains(branch, "/") {
		branch = "main" // a branch of somebody's own is not the one that others build on
	}
	for _, w := range i.files(found, branch) {
		if err := i.write(root, p, w); err != nil {
			return err
		}
	}
	for _, note := range found.notes {
		fmt.Fprintf(p.out, "note: %s\n", note)
	}

	checked, err := checkDir(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	if err := checked.print(p, false); err != nil {
		fmt.Fprintln(
			p.err, "hint: these are problems of files that were there before; fix them, or write new ones with --force")
		return err
	}
	if err := i.unlikeKept(root, p, found); err != nil {
		return err
	}
	i.next(p, gitSays(ctx, dir, "rev-parse", "--git-dir") != "", branch, found)
	return nil
}

// next says which commands lead from here to a running service.
func (i *initialiser) next(p printer, git bool, branch string, found project) {
	host, port, ok := strings.Cut(i.server, ":")
	ssh, url, push := "ssh ", "ssh://"+i.server+"/"+i.name, "git push "
	if i.key != "" {
		ssh += "-i " + shellWord(i.key) + " "
		push = "GIT_SSH_COMMAND=" + shellQuote("ssh -i "+shellWord(i.key)) + " git push "
	}
	if ok && port != "22" {
		ssh += "-p " + port + " "
	}
	ssh += host
	fmt.Fprintln(p.out, "\nthe same build on this machine:\n  headgate run")
	fmt.Fprintln(p.out, "\nnext:")
	if found.deaf {
		fmt.Fprintf(p.out, "  # have it listen on 127.0.0.1:$PORT first%s\n", listening[found.kind])
	}
	if !git {
		fmt.Fprintf(p.out, "  git init -b %s\n", branch)
	}
	fmt.Fprintln(p.out, `  git add -A && git commit -m "Build and run with Headgate"`)
	fmt.Fprintf(p.out, "  %s repo create %s\n", ssh, i.name)
	fmt.Fprintf(p.out, "  %s%s HEAD:%s\n", push, url, branch)
	if found.command != "" {
		staging, _ := i.ports()
		fmt.Fprintf(p.out, "\nwhat landed then runs in staging, at port %d of the server\n", staging)
	}
}

// listening is how a program of a kind of project is told its port.
var listening = map[string]string{
	"Go":     `: http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil)`,
	"Node":   `: server.listen(process.env.PORT, "127.0.0.1")`,
	"Python": `: port=int(os.environ["PORT"])`,
	"Ruby":   `: ENV["PORT"]`,
	"Java":   `: System.getenv("PORT")`,
	"PHP":    `: getenv("PORT")`,
	"Rust":   `: std::env::var("PORT")`,
	"Perl":   `: $ENV{PORT}`,
}

// unlikeKept says what a headgate.yaml that was there does without, and the build
// seems to need.
func (i *initialiser) unlikeKept(root *os.Root, p printer, found project) error {
	data, err := root.ReadFile(headgateyaml.Name)
	if err != nil || found.network == "" {
		return err
	}
	f, err := headgateyaml.Parse(headgateyaml.Name, data)
	if err == nil && !f.Build.Network {
		fmt.Fprintf(
			p.out, "\nnote: %s gives builds no network, and %s: write build: {network: true} there if the build fails for want of it\n",
			headgateyaml.Name, found.network)
	}
	return err
}

// shellWord makes s one word of a shell, as it is where that is one.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return shellQuote(s)
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./@:+=-]+$`)

// write writes one file, unless it is there.
func (i *initialiser) write(root *os.Root, p printer, w written) error {
	_, err := root.Lstat(w.path)
	there := err == nil
	if there && !i.force {
		fmt.Fprintf(p.out, "kept  %s: it is there (--force writes it anew)\n", w.path)
		return nil
	}
	if dir := path.Dir(w.path); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	mode := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if there {
		mode = os.O_WRONLY | os.O_TRUNC
	}
	f, err := root.OpenFile(w.path, mode, 0o644)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = f.WriteString(w.content)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("init: write %s: %w", w.path, err)
	}
	fmt.Fprintf(p.out, "wrote %s: %s\n", w.path, w.what)
	return nil
}

// files are what a project needs and may have already.
func (i *initialiser) files(f project, branch string) []written {
	var all []written
	if f.buildspec == "" {
		all = append(all, written{"buildspec.yml", f.buildspecYAML(), f.proof()})
	}
	environments := "no environments: nothing that serves was found"
	if f.command != "" {
		environments = "staging runs what lands, production what somebody approves"
	}
	all = append(all, written{headgateyaml.Name, f.headgateYAML(branch), branch + " is gated; " + environments})
	if f.command == "" {
		return all
	}
	staging, production := i.ports()
	for _, e := range []struct {
		name     string
		port     int
		replicas int
	}{{"staging", staging, 1}, {"production", production, 2}} {
		all = append(all, written{
			path.Join("deploy", e.name, "compose.yaml"),
			f.composeYAML(e.name, e.port, e.replicas),
			fmt.Sprintf("%s, at port %d", f.command, e.port),
		})
	}
	return all
}

// ports are where the services listen: by the project's name, so that two
// projects on one server rarely want the same, and the same project always does.
func (i *initialiser) ports() (staging, production int) {
	h := fnv.New32a()
	h.Write([]byte(i.name))
	staging = 20000 + int(h.Sum32()%5000)*2 // below those that the system hands out
	return staging, staging + 1
}

// repositoryNames is what a repository may be called.
var repositoryNames = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

// repositoryName makes a directory's name one of a repository.
func repositoryName(dir string) string {
	name := regexp.MustCompile(`[^a-z0-9._-]+`).ReplaceAllString(strings.ToLower(dir), "-")
	if name = strings.Trim(name, ".-_"); name == "" {
		return "project"
	}
	return name[:min(len(name), 100)]
}

// proof says how a project is tested.
func (f project) proof() string {
	if len(f.test) == 0 {
		return "it builds; there are no tests"
	}
	return strings.Join(f.test, ", ")
}

// buildspecYAML is the buildspec of a project.
func (f project) buildspecYAML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# How a change to this %s project is built and tested, in AWS CodeBuild's format.\n", f.kind)
	b.WriteString("# A change lands when every command ends with 0. The same build here: headgate run\nversion: 0.2\n")
	if len(f.variables) > 0 {
		b.WriteString("env:\n  variables:\n")
		for _, v := range f.variables {
			name, value, _ := strings.Cut(v, "=")
			fmt.Fprintf(&b, "    %s: %s\n", name, quoted(value))
		}
	}
	b.WriteString("phases:\n")
	for _, phase := range []struct {
		name     string
		commands []string
	}{
		{"install", f.install},
		{"build", f.build},
	} {
		if len(phase.commands) == 0 {
			continue
		}
		fmt.Fprintf(&b, "  %s:\n    commands:\n", phase.name)
		for _, c := range phase.commands {
			if comment, ok := strings.CutPrefix(c, "#"); ok {
				fmt.Fprintf(&b, "      #%s\n", comment)
				continue
			}
			fmt.Fprintf(&b, "      - %s\n", quoted(c))
		}
	}
	if len(f.artifacts) > 0 {
		b.WriteString("artifacts:                       # what a release is made of, and what runs\n  files:\n")
		for _, a := range f.artifacts {
			fmt.Fprintf(&b, "    - %s\n", quoted(a))
		}
		if slices.Contains(f.artifacts, "**/*") {
			b.WriteString("  exclude-paths: [\".git/**/*\", \"deploy/**/*\"]\n")
		}
	}
	return b.String()
}

// headgateYAML is headgate.yaml of a project.
func (f project) headgateYAML(branch string) string {
	var b strings.Builder
	b.WriteString("# What happens to a change. Checked at every push; here by: headgate check\nbuild:\n")
	fmt.Fprintf(&b, "  buildspec: %s\n", quoted(cmp.Or(f.buildspec, "buildspec.yml")))
	if f.network != "" {
		fmt.Fprintf(&b, "  network: true            # %s\n", f.network)
	} else {
		b.WriteString("  # network: true          # when the build has to download something\n")
	}
	b.WriteString("  # timeout: 20m\n")
	fmt.Fprintf(
		&b, "\nland:\n  branches: [%s]\n  strategy: merge          # or fast-forward: refuse what is not based on the newest %[1]s\n", quoted(branch))
	if f.command == "" {
		b.WriteString("\n# Where it runs. A library has no environments; a service has, for example:\n" +
			"# environments:\n#   staging: {target: services, path: deploy/staging}   # with a compose.yaml in that directory\n")
		return b.String()
	}
	b.WriteString(
		"\nenvironments:\n  staging:\n    target: services\n    path: deploy/staging     # the directory with its compose.yaml\n")
	b.WriteString(
		"\n  production:\n    target: services\n    path: deploy/production\n    after: staging           # only what is healthy in staging\n")
	b.WriteString("    # soak: 10m              # and has been so for ten minutes\n")
	b.WriteString("    approvals:\n      count: 1               # by somebody who did not write what is promoted\n" +
		"      # own: true            # or by whoever wrote it: for those who work alone\n")
	return b.String()
}

// composeYAML is what runs in an environment.
func (f project) composeYAML(environment string, port, replicas int) string {
	var b strings.Builder
	fmt.Fprintf(
		&b, "# What runs in %s: processes of the release's artifact, behind Headgate's proxy.\nservices:\n  web:\n", environment)
	fmt.Fprintf(&b, "    command: %s\n", quoted(f.command))
	if len(f.runtime) > 0 {
		b.WriteString("    environment:\n")
		for _, v := range f.runtime {
			name, value, _ := strings.Cut(v, "=")
			fmt.Fprintf(&b, "      %s: %s\n", name, quoted(value))
		}
	}
	fmt.Fprintf(
		&b, "    ports:\n      - \"127.0.0.1:%d:8000\"   # the proxy listens here; 0.0.0.0:%[1]d:8000 lets other machines in.\n", port)
	b.WriteString(
		"                               # The process itself must listen on 127.0.0.1:$PORT, which it is given\n")
	fmt.Fprintf(&b, "    deploy:\n      replicas: %d\n", replicas)
	b.WriteString(
		"    # x-headgate: {health: /healthz}   # a page that answers 200 when all is well; else a connection is enough\n")
	return b.String()
}

// quoted writes s as a scalar of YAML, plain where that is the same.
func quoted(s string) string {
	if plainScalar.MatchString(s) && !strings.Contains(s, ": ") && !strings.Contains(s, " #") &&
		!strings.HasSuffix(s, ":") && !reserved[strings.ToLower(s)] {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

var plainScalar = regexp.MustCompile(`^[A-Za-z./_$][^\x00-\x1f\x7f]*$`)

var reserved = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true, "true": true,
	"false": true, "null": true}
