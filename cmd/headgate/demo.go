package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

// sample is the repository that the demo pushes: a small web service.
//
//go:embed all:sample
var sample embed.FS

// sampleName is the sample's repository on the server.
const sampleName = "hello"

func demoCommand() command {
	return command{
		name: "demo", short: "start a server with a sample repository, and watch it work",
		long: `
headgate demo
headgate demo --data ./try --ssh 127.0.0.1:2300 --http 127.0.0.1:8300

Starts the server, makes the repository "hello" (a small web service with its
test, buildspec and two environments), pushes it with git as
anybody would, and prints what happens: build, landing, release, staging, and production
waiting for you. Then it stays, and is a server like any other.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			o := serveFlags(flags)
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Sprintf("demo takes no arguments, got %q", args[0])}
				}
				return demo(ctx, p, *o)
			}
		},
	}
}

func demo(ctx context.Context, p printer, o options) error {
	if err := o.prepare(); err != nil {
		return err
	}
	if err := (&host.Host{}).Probe(ctx); err != nil {
		return err
	}
	// The demo pushes as you, with a key of its own: yours may want a passphrase.
	demoKey := filepath.Join(o.Data, "keys", "demo")
	public, err := madeKey(demoKey, "headgate-demo")
	if err != nil {
		return err
	}
	keys, made, err := o.adminKeys(ctx)
	if err != nil {
		return err
	}
	o.Keys = append(keys, public)
	if made != "" {
		fmt.Fprintf(p.out, "you have no SSH key, so one was made: %s\n", made)
	}
	o.logTo = filepath.Join(o.Data, "logs", "server.log")
	if err := os.MkdirAll(filepath.Dir(o.logTo), 0o755); err != nil {
		return err
	}
	return serve(ctx, p, o, func(ctx context.Context, s *server.Server) error {
		d := demonstration{
			printer: p,
			server:  s,
			admin:   o.Admin,
			key:     demoKey,
			public:  public,
			made:    made,
			data:    o.Data,
		}
		if err := d.run(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("demo: %w\nhint: the server's own log is %s", err, o.logTo)
		}
		return nil
	})
}

// demonstration is one run of the demo against a server that is up.
type demonstration struct {
	printer
	server *server.Server
	admin  string
	key    string // file of the demo's private key
	public string // its public half
	made   string // the user's private key, if the demo had to make it
	data   string
}

func (d *demonstration) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demonstration) run(ctx context.Context) error {
	about := d.server.Server(ctx)
	me, known := d.server.Operator(d.public)
	if !known {
		return fmt.Errorf(
			"%s is nobody's key on this server\nhint: headgate serve starts it as it is; another --data makes a new one", d.key)
	}
	d.say("headgate is up: ssh %s, console %s", about.SSH, about.HTTP)
	d.say("administrator: %s, host key %s", me.User, about.HostKey)
	r, err := d.server.Repository(ctx, me, sampleName)
	var e *show.Error
	switch {
	case errors.As(err, &e) && e.Kind == show.NotFound:
		if _, err := d.server.CreateRepository(ctx, me, sampleName, "A small web service, to try things on"); err != nil {
			return err
		}
		d.say("made the repository %s", sampleName)
	case err != nil:
		return err
	}
	if r.Tip != "" { // of an earlier demo; whatever was pushed since is the user's
		d.say("the repository %s is there already", sampleName)
		return d.resume(ctx, about, me)
	}
	if err := d.push(ctx, about); err != nil {
		return err
	}
	return d.watch(ctx, about, me)
}

// push pushes the sample with git, as a user would.
func (d *demonstration) push(ctx context.Context, about show.Server) error {
	work, err := filepath.Abs(filepath.Join(d.data, "demo", sampleName))
	if err != nil {
		return err
	}
	key, err := filepath.Abs(d.key)
	if err != nil {
		return err
	}
	git := func(out io.Writer, args ...string) error {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", work}, args...)...)
		// Nothing of the user's own git: they may sign commits, or have hooks.
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "GIT_") }),
			"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
			"GIT_SSH_COMMAND=ssh -F /dev/null -i "+shellQuote(key)+
				" -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes -o LogLevel=ERROR -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile="+shellQuote(filepath.Join(filepath.Dir(key), "known_hosts")))
		var output strings.Builder
		cmd.Stdout, cmd.Stderr = out, io.MultiWriter(out, &output)
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(output.String()))
		}
		return nil
	}
	// A demo that was interrupted may have left the sample without its commit.
	if git(io.Discard, "--git-dir=.git", "rev-parse", "--quiet", "--verify", "HEAD") != nil {
		if err := os.RemoveAll(work); err != nil {
			return err
		}
		if err := d.writeSample(work, about); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"init", "-q", "-b", "main"}, {"add", "-A"},
			{"-c", "user.name=" + d.admin, "-c", "user.email=" + d.admin + "@localhost", "commit", "-q", "-m", "Say hello"},
		} {
			if err := git(io.Discard, args...); err != nil {
				return err
			}
		}
	}
	d.say("\n$ git push origin main")
	return git(d.out, "push", about.CloneURL(sampleName), "main")
}

// writeSample lays the sample out, with ports beside the console's.
func (d *demonstration) writeSample(work string, about show.Server) error {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(about.HTTP, "http://"))
	if err != nil {
		return err
	}
	base, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	ports := strings.NewReplacer("${STAGING_PORT}", strconv.Itoa(base+1), "${PRODUCTION_PORT}", strconv.Itoa(base+2))
	return fs.WalkDir(sample, "sample", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(work, strings.TrimPrefix(path, "sample"))
		if e.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		content, err := sample.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, []byte(ports.Replace(string(content))), 0o644)
	})
}

// watch follows the release until staging answers and production waits, and
// says what to do next.
func (d *demonstration) watch(ctx context.Context, about show.Server, me access.Identity) error {
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	d.say("")
	var r show.Repository
	if err := d.until(limited, "a release", func() (ok bool, err error) {
		r, err = d.server.Repository(ctx, me, sampleName)
		return r.Release > 0, err
	}); err != nil {
		return err
	}
	d.say("main is at %.7s, release %d", r.Tip, r.Release)
	var staging, production show.Environment
	said := ""
	if err := d.until(limited, "a healthy staging", func() (ok bool, err error) {
		staging, err = d.server.Environment(ctx, me, sampleName, "staging")
		if staging.Reason != said && staging.State != show.Healthy && staging.State != show.Unknown {
			said = staging.Reason // a port that another program has, for one: it goes on when that is gone
			d.say("staging is %s: %s", staging.State, said)
		}
		return staging.State == show.Healthy && staging.Release == r.Release && len(staging.URLs) > 0, err
	}); err != nil {
		if staging.Reason != "" {
			err = fmt.Errorf(
				"%w: %s\nhint: the sample listens on the two ports after that of --http: give another one, and another --data", err, staging.Reason)
		}
		return err
	}
	if err := d.runs(limited, staging); err != nil {
		return err
	}
	if err := d.until(limited, "a proposal for production", func() (ok bool, err error) {
		production, err = d.server.Environment(ctx, me, sampleName, "production")
		return production.Promotion != nil, err
	}); err != nil {
		return err
	}
	d.invite(about, []show.Environment{production})
	return nil
}

// resume says what there is, whatever the user has made of the sample since.
func (d *demonstration) resume(ctx context.Context, about show.Server, me access.Identity) error {
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var r show.Repository
	err := d.until(limited, "a state of every environment", func() (settled bool, err error) {
		r, err = d.server.Repository(ctx, me, sampleName)
		for _, e := range r.Environments {
			if e.State == show.Converging || e.State == show.Unknown {
				return false, err
			}
		}
		return true, err
	})
	if err != nil && limited.Err() == nil {
		return err
	}
	d.say("\nmain is at %.7s, release %d", r.Tip, r.Release)
	for _, e := range r.Environments {
		switch {
		case e.Release == 0:
			d.say("%s runs nothing yet", e.Name)
		case e.State != show.Healthy || len(e.URLs) == 0 || d.runs(limited, e) != nil:
			d.say("%s is %s with release %d; why: env show %s", e.Name, e.State, e.Release, e.Name)
		}
	}
	d.invite(about, r.Environments)
	return nil
}

// until waits for something that changes of the sample bring about.
func (d *demonstration) until(ctx context.Context, what string, met func() (bool, error)) error {
	changed, stop := d.server.Watch(sampleName)
	defer stop()
	for {
		ok, err := met()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s did not come about in time", what)
		}
	}
}

// runs says what an environment runs, and how it answers.
func (d *demonstration) runs(ctx context.Context, e show.Environment) error {
	body, err := fetch(ctx, e.URLs[0])
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", e.Name, err)
	}
	d.say("%s runs release %d: %s", e.Name, e.Release, e.URLs[0])
	for line := range strings.Lines(body) {
		fmt.Fprintf(d.out, "  | %s", line)
	}
	return nil
}

// invite says what to do next, and that all of the above is true.
func (d *demonstration) invite(about show.Server, environments []show.Environment) {
	ssh := "ssh " + about.Login()
	if d.made != "" {
		d.say("\nyour key is not in ~/.ssh, so first:\n  export GIT_SSH_COMMAND='ssh -i %s'", d.made)
	}
	for _, e := range environments {
		if e.Promotion == nil {
			continue
		}
		d.say("\n%s waits for your approval of release %d; any of these gives it:", e.Name, e.Promotion.To)
		d.say("  %s approve %s", ssh, e.Name)
		d.say("  git push origin origin/promote/%s:env/%s    (in a clone)", e.Name, e.Name)
		d.say("  %s/%s/promote/%s    (sign in with: %s login)", about.HTTP, sampleName, e.Name, ssh)
	}
	d.say("\nnow change something:")
	d.say("  git clone %s && cd %s", about.CloneURL(sampleName), sampleName)
	d.say("  edit lib/Greeting.pm, git commit -a, git push origin main")
	d.say(
		"\nadd a repository of your own; in its directory, this writes what the server wants to find, and says how to push it:")
	d.say("  %s", d.initCommand(about))
	d.say("  by push:     %s repo create shop && git push %s HEAD:main", ssh, about.CloneURL("shop"))
	d.say("  by HTTP:     %s token create laptop --write, which is the password of: git push %s/shop HEAD:main",
		ssh, about.GitHTTP)
	d.say("  by webhook:  %s forge connect github owner/name (or gitlab, gitea, forgejo) says which token it takes, and then makes it",
		ssh)
	d.say("\nready: console %s, Ctrl-C stops the server and not what runs, your data is in %s", about.HTTP, d.data)
}

// initCommand is `headgate init` as it is to be typed elsewhere.
func (d *demonstration) initCommand(about show.Server) string {
	program, err := os.Executable()
	if err != nil {
		program = "headgate"
	}
	command := shellWord(program) + " init"
	if about.SSH != initServer {
		command += " --server " + about.SSH
	}
	if d.made != "" {
		command += " --key " + shellWord(d.made)
	}
	return command
}

func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// shellQuote makes s one word of the shell that GIT_SSH_COMMAND goes through.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
