package deploy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Probe is a command that says whether what is deployed is well.
type Probe struct {
	Group       string
	Application string // as of the Request
	GroupName   string
	Command     []string
}

// Probe runs a command in the directory of the newest revision of a group, with the variables
// that scripts have but those of an event, and ends all of its process group with ctx. The
// error says how it ended, with the last line that it printed.
func (h *Host) Probe(ctx context.Context, p Probe) error {
	id, err := h.pointed(p.Group, mostRecent)
	if err != nil {
		return err
	}
	if id == "" {
		return errors.New("nothing is deployed")
	}
	var out tail
	cmd := exec.CommandContext(ctx, p.Command[0], p.Command[1:]...)
	cmd.Dir = archiveIn(h.deploymentDir(p.Group, id))
	cmd.Env = []string{
		"PATH=" + searchPath,
		"DEPLOYMENT_ID=" + id,
		"APPLICATION_NAME=" + cmp.Or(p.Application, p.Group),
		"DEPLOYMENT_GROUP_NAME=" + cmp.Or(p.GroupName, p.Group),
		"DEPLOYMENT_GROUP_ID=" + p.Group,
	}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for what holds its output
	err = cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	text := fmt.Sprintf("%s: %v", p.Command[len(p.Command)-1], err)
	lines := strings.Split(strings.TrimSpace(string(out.end)), "\n")
	if last := terminal.Plain(lines[len(lines)-1]); last != "" {
		text += ": " + last
	}
	return errors.New(text)
}

// tail keeps the end of what is written to it.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if over := len(t.end) - maxTail; over > 0 {
		t.end = bytes.Clone(t.end[over:])
	}
	return len(p), nil
}

const maxTail = 500
