package executortest

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/hooks/build"
)

// service is one of the suite's image, which runs a script.
func (s Suite) service(name, script string, check ...string) build.Service {
	return build.Service{
		Name:       name,
		Image:      s.Image,
		Entrypoint: []string{"sh", "-c", script},
		Health: buildsettings.Health{
			Test:     check,
			Interval: 20 * time.Millisecond,
			Timeout:  deadline,
			Retries:  1000,
		},
	}
}

// services are what an executor has beside a build, or says that it has not.
func (s Suite) services(t *testing.T) {
	const web = `echo "$GREETING" >/www/hello; exec httpd -f -p 8080 -h /www`
	if !s.Services {
		b := s.sandbox(t, buildsettings.Limits{}, nil)
		b.dirs.Services = []build.Service{s.service("web", web)}
		session, err := s.Executor.Start(b.ctx, b.dirs)
		var unable build.UnableError
		if !errors.As(err, &unable) {
			t.Errorf("it starts with a service: %v, %v", session, err)
		}
		return
	}

	t.Run("they are there by name, and the network is theirs alone", func(t *testing.T) {
		t.Parallel()
		of := s.service("web", web, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/hello")
		of.Environment = map[string]string{"GREETING": "good morning"}
		const copies = "until wget -q -O /www/seen http://web:8080/hello; do sleep 0.1; done; exec httpd -f -p 81 -h /www"
		other := s.service("other-one", copies, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:81/seen")
		b := s.start(t, buildsettings.Limits{}, nil, of, other)
		if err := b.session.(build.Attended).Await(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.wants(0, "good morning", "wget -q -O - http://web:8080/hello")
		b.wants(0, "good morning", "wget -q -O - http://other-one:81/seen; grep -v lo: /proc/net/dev | grep :; true")
		if fallen := b.session.(build.Attended).Fallen(b.ctx); len(fallen) != 0 {
			t.Errorf("fallen: %+v", fallen)
		}
	})

	t.Run("one that never is healthy, or ends, says what it printed", func(t *testing.T) {
		t.Parallel()
		never := s.service("never", "echo not today; exec sleep 100000", "sh", "-c", "echo no answer; exit 9")
		never.Health.Retries = 3
		for want, of := range map[string]build.Service{
			"service never was not healthy after 3 checks: its check exited 9: no answer": never,
			"service short exited with 7": s.service("short", "echo not today; exit 7", "false"),
		} {
			b := s.start(t, buildsettings.Limits{}, nil, of)
			err := b.session.(build.Attended).Await(b.ctx)
			var no *build.ServiceError
			if !errors.As(err, &no) || err.Error() != want || !slices.Equal(no.Printed, []string{"not today"}) {
				t.Errorf("%v (%+v), not %q", err, no, want)
			}
			b.close()
		}
	})

	t.Run("one whose program is not there says so", func(t *testing.T) {
		t.Parallel()
		of := s.service("none", "", "true")
		of.Entrypoint = []string{"/no/such/program"}
		services := s.start(t, buildsettings.Limits{}, nil, of).session.(build.Attended)
		err := services.Await(t.Context())
		var no *build.ServiceError
		if !errors.As(err, &no) || !strings.HasPrefix(err.Error(), "service none does not start: ") ||
			!strings.Contains(err.Error(), "/no/such/program") {
			t.Errorf("%v", err)
		}
		if fallen := services.Fallen(t.Context()); len(fallen) != 0 {
			t.Errorf("fallen: %+v", fallen)
		}
	})

	t.Run("one that is gone later is told of", func(t *testing.T) {
		t.Parallel()
		const listens = "cat /proc/net/tcp /proc/net/tcp6 | grep -q :2328" // on port 9000
		b := s.start(t, buildsettings.Limits{}, nil, s.service("short", "nc -l -p 9000 >/dev/null; echo enough; exit 3",
			"sh", "-c", listens))
		services := b.session.(build.Attended)
		if err := services.Await(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.wants(0, "", "echo x | nc short 9000")
		var fallen []*build.ServiceError
		for b.ctx.Err() == nil && len(fallen) == 0 {
			fallen = services.Fallen(b.ctx)
		}
		if len(fallen) != 1 || fallen[0].Error() != "service short exited with 3" ||
			!slices.Equal(fallen[0].Printed, []string{"enough"}) {
			t.Errorf("%+v", fallen)
		}
	})

	t.Run("they end with the sandbox", func(t *testing.T) {
		t.Parallel()
		mark := "876543" + strconv.Itoa(os.Getpid())
		b := s.start(t, buildsettings.Limits{}, nil,
			s.service("web", `setsid sh -c '(trap "" TERM HUP; exec sleep `+mark+`) &'; exec sleep 100000`))
		for !alive(mark) && b.ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		ctx, cancel := context.WithCancel(b.ctx)
		said := writer(func([]byte) { cancel() })
		if _, err := b.session.Run(ctx, b.script("echo begun; sleep 100000"), said); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		for alive(mark) && b.ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		b.close()
		if alive(mark) {
			t.Error("a process of a service goes on")
		}
	})

	t.Run("they are held to the limits", func(t *testing.T) {
		t.Parallel()
		b := s.start(t, buildsettings.Limits{Memory: 64 << 20}, nil,
			s.service("big", "exec dd if=/dev/zero of=/dev/null bs=200M count=1", "false"))
		err := b.session.(build.Attended).Await(b.ctx)
		if err == nil || !strings.HasPrefix(err.Error(), "service big ") ||
			!strings.HasSuffix(err.Error(), "over its limit of 64 MiB of memory") {
			t.Errorf("%v", err)
		}
	})
}
