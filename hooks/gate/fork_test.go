package gate

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/cache"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// request proposes what is at a forge's request of a fork, to whose author nobody here
// has given anything.
func (w *harness) request(commit repo.Hash, number int, options ...string) Accepted {
	w.t.Helper()
	a, err := w.gate.ProposeRequest(w.t.Context(), Proposal{
		Repository: "hello",
		Branch:     "main",
		Commit:     commit,
		By:         access.ByForge("hub", "mallory"),
		Options:    append([]string{"request=1", OptionFork}, options...),
	}, number)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// waitsForLand waits until a request is green, and waits for who asks it to land.
func (w *harness) waitsForLand(number int) {
	w.t.Helper()
	w.until("green", func() bool {
		s, _, err := w.gate.Change("hello", number)
		return err == nil && Green(s)
	})
}

// TestForksAreBuiltAsTheirTargetSays: what a fork's own headgate.yaml says of its build
// counts for nothing, nor does what the server gives to those who may write.
func TestForksAreBuiltAsTheirTargetSays(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		name   string
		branch string // what the branch says besides
		server *bool
		want   bool
	}{
		{"nothing is said", "", nil, false},
		{"the branch's own builds have it", ", network: true", nil, false},
		{"the server gives it", "", &yes, false},
		{"forks have it", ", forks: {network: true}", nil, true},
		{"forks have it, and the server takes it", ", network: true, forks: {network: true}", &no, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newHarness(t, func(config *Config) {
				config.Server = func(string) ServerSettings {
					return ServerSettings{
						Variables: map[string]string{"AWS_REGION": "eu-north-1"},
						Network:   c.server,
						Limits:    buildsettings.Limits{Memory: 4 << 30, Processes: 500},
					}
				}
			})
			base := w.commit("base", files("headgate.yaml",
				"build: {timeout: 5m, variables: {A: ours}, limits: {memory: 1 GiB}"+c.branch+"}\n"))
			w.land(ada, base)
			theirs := w.commit("theirs", files("evil.yml", buildspec, "headgate.yaml",
				"build: {buildspec: evil.yml, timeout: 36h, network: true, forks: {network: true}, "+
					"variables: {A: theirs, LEAK: x}, limits: {memory: 900 GiB, processes: 100000}}\n"), base)
			a := w.request(theirs, 0)
			w.waitsForLand(a.Change)
			w.build.mu.Lock()
			j := w.build.jobs[len(w.build.jobs)-1]
			w.build.mu.Unlock()
			if !j.Outside || j.Cache != NoCache || j.Network != c.want {
				t.Errorf("outside %v, cache %v, network %v", j.Outside, j.Cache, j.Network)
			}
			if want := map[string]string{"A": "ours", "AWS_REGION": "eu-north-1"}; !maps.Equal(j.Variables, want) {
				t.Errorf("variables %v", j.Variables)
			}
			if want := (buildsettings.Limits{Memory: 1 << 30, Processes: 500}); j.Limits != want {
				t.Errorf("limits %+v", j.Limits)
			}
			if j.Buildspec != "buildspec.yml" || j.Timeout != 5*time.Minute {
				t.Errorf("buildspec %s, timeout %v", j.Buildspec, j.Timeout)
			}
			vs, err := verdict.On(w.r, j.Tree)
			if err != nil || len(vs) != 1 || vs[0].Network != c.want {
				t.Errorf("%+v, %v", vs, err)
			}

			// Who may write has it land: the policy that is asked is the branch's own.
			w.request(theirs, a.Change, OptionLand)
			if p := w.end(a.Change); p.Kind != Landed {
				t.Fatalf("%+v", p)
			}
			w.policy.mu.Lock()
			asked := w.policy.asked[len(w.policy.asked)-1]
			w.policy.mu.Unlock()
			if asked.Tip != base {
				t.Errorf("the policy of %s was asked", asked.Tip)
			}
		})
	}
}

// TestRealBuildOfAFork: in a real sandbox there is no secret for it, nothing that others'
// builds have left, and what it leaves nobody finds, even when it lands.
func TestRealBuildOfAFork(t *testing.T) {
	t.Parallel()
	b := newRealBuilder(t)
	var err error
	if b.Cache, err = cache.Open(filepath.Join(t.TempDir(), "cache"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	b.Secrets = func(string) build.Secrets {
		return func(context.Context, build.Secret) (string, error) { return "the-canary", nil }
	}
	w := newHarness(t, func(c *Config) {
		c.Builder = b
		c.Landed = func(_ context.Context, repository, build string) {
			b.Cache.Landed(repository, build)
			b.Cache.Close() // for the test, at once
		}
	})
	const spec = `version: 0.2
env: {secrets-manager: {TOKEN: 'app:token'}}
phases:
  build:
    commands:
      - mkdir -p $GOCACHE && echo "found $(ls $GOCACHE | xargs), token of ${#TOKEN}, $(sed -n '3,$s/:.*//p' /proc/net/dev | xargs)"
      - sh ./make
`
	var log string
	read := func() {
		t.Helper()
		log = ""
		for e, err := range b.Logs.Follow(t.Context(), <-b.started, false) {
			if err != nil {
				t.Fatal(err)
			}
			log += e.Text + "\n"
		}
	}
	wants := func(line string) {
		t.Helper()
		if !strings.Contains(log, "\n"+line+"\n") || strings.Contains(log, "the-canary") {
			t.Errorf("no %q, or a secret, in\n%s", line, log)
		}
	}
	tree := func(script string) map[string]string {
		return map[string]string{"buildspec.yml": spec, "make": script + "\n"}
	}
	base := w.commit("first", tree("echo 1 >$GOCACHE/ours"))
	w.land(ada, base)
	read()
	wants("found , token of 10, lo")

	theirs := w.commit("theirs", tree("echo evil >$GOCACHE/theirs"), base)
	a := w.request(theirs, 0)
	w.waitsForLand(a.Change)
	read()
	wants("found , token of 0, lo")
	if !strings.Contains(
		log, "TOKEN is not set: this build gets no secrets: nobody who may write here has vouched for it") {
		t.Errorf("it does not say why:\n%s", log)
	}
	w.request(theirs, a.Change, OptionLand)
	if p := w.end(a.Change); p.Kind != Landed {
		t.Fatalf("%+v", p)
	}

	w.land(ada, w.commit("third", tree("true"), theirs))
	read()
	wants("found ours, token of 10, lo")
}
