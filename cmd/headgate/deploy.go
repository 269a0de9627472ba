package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/bundle"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/deploy"
)

func deployCommand() command {
	return command{
		name:  "deploy",
		args:  "local [bundle]",
		short: "deploy an appspec.yml on this machine, as an agent would",
		long: `
headgate deploy local                                 the revision in this directory
headgate deploy local app.zip --group shop
headgate deploy local --check                         only say what would fail
headgate deploy local --event BeforeInstall --event HealthCheck

Deploys the revision, a directory, .zip, .tar or .tgz, on this machine: files,
permissions and scripts of its appspec.yml, in CodeDeploy's order and with its
log. It takes the options of codedeploy-local. All that can be known to fail is
found before anything is touched; when it fails later (or at Ctrl-C), the files
of the revision that was deployed before are put back and that is started again.
Revisions of a group replace each other; what is kept of them is below --root.
Exit code 1 when the deployment fails.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			var l localDeployment
			l.flags(flags)
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) == 0 || args[0] != "local" || len(args) > 2 {
					return usageError{"usage: headgate deploy local [bundle]; agents deploy on other machines"}
				}
				if len(args) == 2 {
					if l.bundle != "" {
						return usageError{"the bundle is given twice"}
					}
					l.bundle = args[1]
				}
				return l.deploy(ctx, p)
			}
		},
	}
}

// localDeployment is one `headgate deploy local`.
type localDeployment struct {
	bundle, kind, spec, root   string
	group, application, exists string
	events                     list
	revisions                  int
	ignoreStop, keepFailed     bool
	strict, check, json        bool
}

// flags are those of codedeploy-local, by their names there, and some more.
func (l *localDeployment) flags(flags *flag.FlagSet) {
	both := func(into *string, long, short, value, usage string) {
		flags.StringVar(into, long, value, usage+" (short: "+short+")")
		flags.StringVar(into, short, value, "short for --"+long)
	}
	both(&l.bundle, "bundle-location", "l", "",
		"the revision: a directory or an archive (default: the operand, else this directory)")
	both(&l.kind, "type", "t", "", "directory, zip, tar or tgz (default: by its name)")
	both(&l.group, "deployment-group-id", "g", "local", "deployment group, whose revisions replace each other")
	flags.StringVar(&l.group, "group", "local", "the same")
	both(&l.exists, "file-exists-behavior", "b", "",
		"DISALLOW, OVERWRITE or RETAIN, when appspec.yml does not say (default: DISALLOW)")
	both(&l.spec, "appspec", "A", "", "name of the appspec.yml in the bundle, or path of one here (default: appspec.yml)")
	flags.Var(&l.events, "event",
		"lifecycle event to go through, instead of the usual ones; may be given again (short: e)")
	flags.Var(&l.events, "e", "short for --event")
	flags.StringVar(&l.application, "application", "", "APPLICATION_NAME of scripts (default: the group)")
	flags.StringVar(&l.root, "root", "",
		"directory for archives, logs and records (default: /var/lib/headgate-deploy, or your data directory)")
	flags.IntVar(&l.revisions, "max-revisions", deploy.DefaultRevisions, "how many archives of a group are kept")
	flags.BoolVar(&l.ignoreStop, "ignore-application-stop-failures", false,
		"go on when the previous revision cannot be stopped")
	flags.BoolVar(&l.keepFailed, "keep-failed", false, "leave what has failed as it is, to look at it")
	flags.BoolVar(&l.strict, "strict", false, "refuse what is only warned of in appspec.yml")
	flags.BoolVar(&l.check, "check", false, "only check, change nothing")
	flags.BoolVar(&l.json, "json", false, "print what happens and the result, one object a line")
}

// request checks the options.
func (l *localDeployment) request() (*deploy.Host, deploy.Request, error) {
	h := &deploy.Host{Root: l.root, MaxRevisions: l.revisions}
	if l.revisions < 1 {
		return nil, deploy.Request{}, usageError{"--max-revisions must be at least 1"}
	}
	var err error
	if h.Root == "" {
		if h.Root, err = deployRoot(); err != nil {
			return nil, deploy.Request{}, err
		}
	}
	if h.Root, err = filepath.Abs(h.Root); err != nil {
		return nil, deploy.Request{}, err
	}
	location := cmp.Or(l.bundle, ".")
	for _, remote := range []string{"s3://", "http://", "https://"} {
		if strings.HasPrefix(location, remote) {
			return nil, deploy.Request{},
				usageError{"--bundle-location " + location + " is not on this machine; download it first"}
		}
	}
	kind := bundle.Type(l.kind)
	if kind == "" {
		if kind, err = bundle.TypeOf(location); err != nil {
			return nil, deploy.Request{}, fmt.Errorf("%w\nhint: name it with its --type", err)
		}
	} else if !slices.Contains(bundle.Types, kind) {
		return nil, deploy.Request{}, usageError{fmt.Sprintf("--type %q is not one of directory, zip, tar and tgz", l.kind)}
	}
	suffix := make([]byte, 3)
	_, _ = rand.Read(suffix) // which never fails
	r := deploy.Request{
		ID:          "local-" + time.Now().UTC().Format("20060102-150405-") + hex.EncodeToString(suffix),
		Group:       l.group,
		Application: l.application,
		FileExists:  deploy.FileExists(strings.ToUpper(l.exists)),
		Spec:        l.spec,
		Strict:      l.strict,
		Unpack: func(ctx context.Context, dir string) error {
			return bundle.Unpack(ctx, location, kind, dir)
		},
		IgnoreStopFailures: l.ignoreStop,
		KeepFailed:         l.keepFailed,
	}
	for _, e := range l.events {
		for name := range strings.FieldsSeq(strings.ReplaceAll(e, ",", " ")) {
			r.Events = append(r.Events, appspec.Event(name))
		}
	}
	if err := l.declared(&r, location, kind); err != nil {
		return nil, deploy.Request{}, err
	}
	return h, r, nil
}

// deployRoot is where root and others keep what they deploy.
func deployRoot() (string, error) {
	if os.Getuid() == 0 {
		return "/var/lib/headgate-deploy", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "headgate", "deploy"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "headgate", "deploy"), err
}

// declared reads the appspec.yml from here if the bundle is a directory that does not
// have one of that name.
func (l *localDeployment) declared(r *deploy.Request, location string, kind bundle.Type) error {
	if l.spec == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(location, l.spec)); kind == bundle.Directory &&
		filepath.IsLocal(l.spec) && err == nil {
		return nil
	}
	data, err := os.ReadFile(l.spec)
	if errors.Is(err, fs.ErrNotExist) {
		if kind == bundle.Directory {
			return fmt.Errorf("there is no %s, neither here nor in %s", l.spec, location)
		}
		return nil // it may be in the archive
	}
	if err != nil {
		return err
	}
	options := appspec.Options{Strict: l.strict}
	if r.Events != nil {
		options.Events = append(slices.Clone(r.Events), appspec.Scriptable...)
	}
	r.Declared, _, err = appspec.Parse(l.spec, data, options)
	return err
}

func (l *localDeployment) deploy(ctx context.Context, p printer) error {
	h, r, err := l.request()
	if err != nil {
		return err
	}
	out := deployPrinter{out: p.out, json: l.json}
	r.Progress = out.progress
	if l.check {
		f, err := h.Check(ctx, r)
		if err != nil {
			return l.explain(err, h.Root)
		}
		return out.checked(p, f)
	}
	result, err := h.Run(ctx, r, nil)
	if err != nil {
		return l.explain(err, h.Root)
	}
	return out.result(p, result, h.LogFile(r.Group, r.ID))
}

func (l *localDeployment) explain(err error, root string) error {
	switch {
	case errors.Is(err, deploy.ErrBusy):
		return fmt.Errorf("%w\nhint: wait for it, or deploy to another --group", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w\nhint: name a directory of your own with --root instead of %s", err, root)
	}
	return err
}

// deployPrinter prints what happens in a deployment.
type deployPrinter struct {
	out  io.Writer
	json bool
}

func (d deployPrinter) progress(p deploy.Progress) {
	if d.json {
		_ = json.NewEncoder(d.out).Encode(p)
		return
	}
	restoring := ""
	if p.Restoring {
		restoring = " (putting the previous revision back)"
	}
	switch p.Kind {
	case deploy.EventStarted:
		fmt.Fprintf(d.out, "%s%s\n", p.Event, restoring)
	case deploy.ScriptBegun:
		fmt.Fprintf(d.out, "  %s\n", p.Script)
	case deploy.Output:
		fmt.Fprintf(d.out, "    %s\n", p.Text)
	case deploy.Warned:
		fmt.Fprintf(d.out, "  note: %s\n", p.Text)
	}
}

func (d deployPrinter) checked(p printer, f *deploy.Failure) error {
	if d.json {
		return errors.Join(json.NewEncoder(d.out).Encode(map[string]any{"kind": "checked", "failure": f}), failed(f != nil))
	}
	if f != nil {
		return f
	}
	fmt.Fprintln(p.err, "nothing speaks against it")
	return nil
}

func failed(is bool) error {
	if is {
		return exitCode{1}
	}
	return nil
}

func (d deployPrinter) result(p printer, r deploy.Result, log string) error {
	if d.json {
		return errors.Join(json.NewEncoder(d.out).Encode(struct {
			Kind string `json:"kind"`
			deploy.Result
			Log string `json:"log"`
		}{"result", r, log}), failed(r.Status != deploy.Succeeded))
	}
	took := r.Finished.Sub(r.Started).Round(10 * time.Millisecond)
	if r.Status == deploy.Succeeded {
		fmt.Fprintf(p.err, "deployed %s, in %s; log: %s\n", r.ID, took, log)
		return nil
	}
	fmt.Fprintf(p.err, "error: %v\n", r.Failure)
	fmt.Fprintf(p.err, "after %s; %s; log: %s\n", took, restoredText(r), log)
	return exitCode{1}
}

// restoredText says what a failed deployment has left.
func restoredText(r deploy.Result) string {
	previous := "what was there before"
	if r.Previous != "" {
		previous = "the previous revision (" + r.Previous + ")"
	}
	switch r.Restored {
	case deploy.NotTouched:
		return "nothing was touched"
	case deploy.PutBack:
		return previous + " is put back and was started again"
	case deploy.Emptied:
		return "what was installed is removed"
	case deploy.Left:
		return "it is left as it is"
	}
	return previous + " could not be put back whole"
}
