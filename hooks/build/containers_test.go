package build_test

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/container"
)

// TestInContainers: the same projects come to the same in containers, of an image that has
// what they need of this machine; and builds with services beside them.
func TestInContainers(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t *testing.T, d *enginetest.Daemon) {
		const image = "headgate.test/programs:1"
		d.ImportPrograms(t, image, "sh", "bash", "git", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dirname",
			"echo", "env", "expr", "false", "find", "grep", "gzip", "head", "id", "ln", "ls", "mkdir", "mv", "nohup", "printf",
			"pwd", "rm", "sed", "sha256sum", "sleep", "sort", "stat", "tail", "tar", "tee", "test", "touch", "tr", "true", "uname", "wc",
			"xargs")
		executor := &container.Executor{Open: func() (*engine.Engine, error) { return engine.Open(d.Host) }}
		archives, err := filepath.Glob("testdata/projects/*.txtar")
		if err != nil || len(archives) < 15 {
			t.Fatalf("%d projects, %v", len(archives), err)
		}
		for _, file := range archives {
			name := strings.TrimSuffix(filepath.Base(file), ".txtar")
			if name == "packages" {
				continue // it installs a package of Debian's, for which the image is no system
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				project(t, file, executor, image)
			})
		}

		beside := func(script string, check ...string) build.Service {
			return build.Service{
				Name:       "db",
				Image:      enginetest.Image,
				Entrypoint: []string{"sh", "-c", script},
				Health: buildsettings.Health{
					Test:     check,
					Interval: 20 * time.Millisecond,
					Timeout:  time.Minute,
					Retries:  1000,
				},
			}
		}
		const listens = "cat /proc/net/tcp* | grep -q :1F90" // on port 8080
		for name, c := range map[string]struct {
			service build.Service
			command string
			falls   bool // the service ends by it
			status  build.Status
			reason  string
			log     []string
		}{
			"a service serves": {
				service: beside("exec httpd -f -p 8080 -h /www", "sh", "-c", listens),
				command: "wget -q -O - http://db:8080/ 2>&1 | head -n 1; true",
				status:  build.Succeeded,
				log:     []string{"service db: image " + enginetest.Image, "services are up after ", "404"},
			},
			"a service fails at once": {
				service: beside("echo cannot open /data; exit 5", "false"),
				command: "echo never run",
				status:  build.Failed,
				reason:  "service db exited with 5",
				log:     []string{"cannot open /data", "service db exited with 5"},
			},
			"a service is gone when a command fails": {
				service: beside("nc -l -p 8080 >/dev/null; echo out of space; exit 6", "sh", "-c", listens),
				command: "echo x | nc db 8080; exit 1",
				falls:   true,
				status:  build.Failed,
				reason:  "exited 1",
				log:     []string{"out of space", "service db exited with 6"},
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				spec := "version: 0.2\nphases: {build: {commands: ['" + c.command + "']}}"
				b := prepare(t, map[string]string{"buildspec.yml": spec})
				b.executor, b.req.Image, b.req.Services = executor, enginetest.Image, []build.Service{c.service}
				if c.falls {
					b.executor = falling{executor}
				}
				b.run(t.Context()).wants(c.status, c.log...)
				if !strings.Contains(b.result.Reason, c.reason) || strings.Contains(b.log, "never run") {
					t.Errorf("%s\n%s", b.result.Reason, b.log)
				}
			})
		}
	})
}

// falling is an executor whose scripts end when the engine has heard that a service has:
// it hears of that later than what is inside.
type falling struct{ build.Executor }

func (x falling) Start(ctx context.Context, s build.Sandbox) (build.Session, error) {
	n, err := x.Executor.Start(ctx, s)
	return fallingSession{n, n.(build.Attended)}, err
}

type fallingSession struct {
	build.Session
	build.Attended
}

func (n fallingSession) Run(ctx context.Context, s build.Script, out io.Writer) (int, error) {
	exit, err := n.Session.Run(ctx, s, out)
	for ctx.Err() == nil && len(n.Fallen(ctx)) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	return exit, err
}
