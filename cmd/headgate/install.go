package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
)

func installCommand() command {
	return command{
		name:  "install",
		args:  "[-- flags of serve]",
		short: "have systemd run the server, and apart from it what environments declare",
		long: `
headgate install --data /var/lib/headgate --user headgate -- --ssh :22 --http :443 --acme git.example.org
headgate install --agent --data /var/lib/headgate-agent
headgate install --dry-run
headgate install --uninstall

Writes two units, headgate.service and headgate-agent.service, and says what it has done;
with --agent the second alone, for a machine that is the agent of a server elsewhere.
Restarting or upgrading the first touches nothing that runs; stopping the second
stops it. It overwrites and removes nothing that it has not written.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			i := &installation{}
			flags.StringVar(&i.data, "data", "/var/lib/headgate", "directory that holds everything the server keeps")
			flags.StringVar(&i.user, "user", "root", "user that both run as")
			flags.StringVar(&i.dir, "unit-dir", "/etc/systemd/system", "directory that the units are written to")
			flags.BoolVar(&i.agent, "agent", false,
				"write the agent's unit alone, for a machine on which \"headgate agent join\" was run")
			flags.BoolVar(&i.dry, "dry-run", false, "say what would be done, and do nothing")
			uninstall := flags.Bool("uninstall", false, "remove the units again, and nothing else")
			return func(ctx context.Context, p printer, args []string) error {
				if i.agent && len(args) > 0 {
					return usageError{fmt.Sprintf("with --agent there is no server, for which %q would be", args[0])}
				}
				i.p, i.serve = p, args
				if *uninstall {
					return i.uninstall(ctx)
				}
				return i.install(ctx)
			}
		},
	}
}

// installation is one run of install.
type installation struct {
	p          printer
	data, user string
	dir        string   // of units
	serve      []string // flags of serve
	agent      bool     // the agent's unit alone
	dry        bool
}

// names are the units that are written, the agent's first.
func (i *installation) names() []string {
	if i.agent {
		return []string{agentUnit}
	}
	return []string{agentUnit, serverUnit}
}

// The units. What is in the first one's cgroup is nobody's production; in the
// second one's is, so that its end ends the supervisor only, which stops the rest when
// it is asked to, and leaves it to the next when it is not.
const (
	serverUnit = "headgate.service"
	agentUnit  = "headgate-agent.service"
	ownMark    = "# Written by `headgate install`, which overwrites it, and removes it with --uninstall.\n"
)

func (i *installation) units(program string) (map[string]string, error) {
	line := func(words ...string) (string, error) {
		var quoted []string
		for _, word := range words {
			q, err := unitWord(word)
			if err != nil {
				return "", err
			}
			quoted = append(quoted, q)
		}
		return strings.Join(quoted, " "), nil
	}
	serve, err := line(append([]string{program, "serve", "--data", i.data, "--no-agent"}, i.serve...)...)
	if err != nil {
		return nil, err
	}
	agent, err := line(program, "agent", "--data", i.data)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		serverUnit: ownMark + `[Unit]
Description=Headgate, the Git server and what follows a push
After=network-online.target ` + agentUnit + `
Wants=network-online.target ` + agentUnit + `

[Service]
ExecStart=` + serve + `
User=` + i.user + `
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=60
LimitNOFILE=65536
AmbientCapabilities=CAP_NET_BIND_SERVICE

[Install]
WantedBy=multi-user.target
`,
		agentUnit: ownMark + `[Unit]
Description=Headgate, what environments declare on this machine
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=` + agent + `
ExecReload=/bin/kill -HUP $MAINPID
User=` + i.user + `
Restart=on-failure
RestartSec=1
KillMode=process
OOMPolicy=continue
TimeoutStopSec=15min
LimitNOFILE=65536
AmbientCapabilities=CAP_NET_BIND_SERVICE

[Install]
WantedBy=multi-user.target
`,
	}, nil
}

// unitWord writes a word as systemd reads it back.
func unitWord(word string) (string, error) {
	if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", usageError{fmt.Sprintf("%q holds a control character, which no unit may", word)}
	}
	word = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(word)
	if word == "" || strings.ContainsAny(word, " ;'\"\\") {
		word = `"` + word + `"`
	}
	return word, nil
}

func (i *installation) say(format string, args ...any) {
	would := ""
	if i.dry {
		would = "would have "
	}
	fmt.Fprintf(i.p.out, would+format+"\n", args...)
}

func (i *installation) install(ctx context.Context) error {
	var err error
	if i.data, err = filepath.Abs(i.data); err != nil {
		return err
	}
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	who, err := user.Lookup(i.user)
	if err != nil {
		return fmt.Errorf(
			"there is no user %q on this machine\nhint: make one: useradd --system --home-dir %s --shell /usr/sbin/nologin %s", i.user, i.data, i.user)
	}
	units, err := i.units(program)
	if err != nil {
		return err
	}
	for _, name := range i.names() {
		if err := i.mine(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := i.makeData(who); err != nil {
		return err
	}
	for _, name := range i.names() {
		path := filepath.Join(i.dir, name)
		if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, []byte(units[name])) {
			fmt.Fprintf(i.p.out, "%s is as it should be\n", path)
			continue
		}
		if !i.dry {
			if err := repo.WriteFile(path, []byte(units[name]), 0o644); err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		}
		i.say("written %s", path)
	}
	if err := i.reload(ctx); err != nil {
		return err
	}
	if i.agent {
		fmt.Fprintf(i.p.out, "start it, now and with the machine: systemctl enable --now %s\n", agentUnit)
		fmt.Fprintf(i.p.out, "to upgrade: put another program at %s, then: systemctl reload %s\n", program, agentUnit)
		return nil
	}
	fmt.Fprintf(i.p.out, "start both, now and with the machine: systemctl enable --now %s %s\n", agentUnit, serverUnit)
	fmt.Fprintf(i.p.out, "to upgrade: put another program at %s, then: systemctl restart %s\n", program, serverUnit)
	return nil
}

// makeData makes the data directory its user's, unless it is there.
func (i *installation) makeData(who *user.User) error {
	if _, err := os.Stat(i.data); err == nil {
		return nil
	}
	i.say("made %s, of user %s", i.data, i.user)
	if i.dry {
		return nil
	}
	if err := repo.MakeDir(i.data, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		return fmt.Errorf("user %s has the number %q: %w", i.user, who.Uid, err)
	}
	gid, err := strconv.Atoi(who.Gid)
	if err != nil {
		return fmt.Errorf("user %s has the group %q: %w", i.user, who.Gid, err)
	}
	return os.Chown(i.data, uid, gid)
}

// mine says why a unit may not be overwritten or removed.
func (i *installation) mine(name string) error {
	path := filepath.Join(i.dir, name)
	text, err := os.ReadFile(path)
	if err == nil && !bytes.HasPrefix(text, []byte(ownMark)) {
		return fmt.Errorf(
			"%s was not written by headgate install, and stays as it is\nhint: move it away, or give another --unit-dir", path)
	}
	return err
}

func (i *installation) uninstall(ctx context.Context) error {
	removed := 0
	for _, name := range []string{serverUnit, agentUnit} {
		switch err := i.mine(name); {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		path := filepath.Join(i.dir, name)
		if !i.dry {
			if err := repo.RemoveFile(path); err != nil {
				return fmt.Errorf("remove %s: %w", path, err)
			}
		}
		i.say("removed %s", path)
		removed++
	}
	if removed == 0 {
		fmt.Fprintf(i.p.out, "there is nothing to remove in %s\n", i.dir)
		return nil
	}
	if err := i.reload(ctx); err != nil {
		return err
	}
	fmt.Fprintf(i.p.out, "what runs goes on; to stop it: systemctl stop %s %s\n", serverUnit, agentUnit)
	return nil
}

// reload has systemd read its units again, where it runs.
func (i *installation) reload(ctx context.Context) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil || i.dir != "/etc/systemd/system" {
		fmt.Fprintln(
			i.p.out, "systemd does not run here, or reads other units: have it read these with `systemctl daemon-reload`")
		return nil
	}
	i.say("had systemd read its units: systemctl daemon-reload")
	if i.dry {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "daemon-reload").CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl daemon-reload: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
