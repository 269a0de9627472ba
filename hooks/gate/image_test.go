package gate

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// A tag is asked for once. What it stood for is what a build gets, what the verdict is
// for, and what verifies from a mirror when it stands for another by then.
func TestImageIsResolvedOnce(t *testing.T) {
	var asked atomic.Int32
	const digest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	w := newHarness(t, func(c *Config) {
		c.Image = func(_ context.Context, q ImageQuery) (string, error) {
			name := q.Name
			if name == "nobody/has:this" {
				return "", &build.ImageError{What: "there is no image " + name}
			}
			asked.Add(1)
			return name + digest, nil
		}
	})
	base := w.commit("begin", files("headgate.yaml", "build: {image: golang:1}\n"))
	w.land(ada, base)
	second := w.commit("more", files("headgate.yaml", "build: {image: golang:1}\n", "more", "1\n"), base)
	w.land(ada, second)
	w.build.mu.Lock()
	for _, j := range w.build.jobs {
		if j.Image != "golang:1"+digest {
			t.Errorf("built in %s", j.Image)
		}
	}
	w.build.mu.Unlock()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	vs, err := verdict.On(w.r, mustTree(t, w.r, second))
	if err != nil || len(vs) != 1 || vs[0].Image != "golang:1"+digest {
		t.Errorf("%+v, %v", vs, err)
	}
	// Services beside it are held to the same, and to what else they are made of.
	beside := w.commit("services", files("headgate.yaml",
		"build: {image: golang:1, services: {db: {image: postgres:17}}}\n"), second)
	w.land(ada, beside)
	again := w.commit("another", files("headgate.yaml",
		"build: {image: golang:1, services: {db: {image: postgres:17, environment: {A: b}}}}\n"), beside)
	w.land(ada, again)
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	for _, commit := range []repo.Hash{beside, again} {
		vs, err = verdict.On(w.r, mustTree(t, w.r, commit))
		if err != nil || len(vs) != 1 || len(vs[0].Services) != 1 || vs[0].Services[0].Image != "postgres:17"+digest {
			t.Errorf("%+v, %v", vs, err)
		}
	}
	w.build.mu.Lock()
	last := w.build.jobs[len(w.build.jobs)-1].Services
	w.build.mu.Unlock()
	if len(last) != 1 || last[0].Image != "postgres:17"+digest || last[0].Environment["A"] != "b" {
		t.Errorf("beside it runs %+v", last)
	}
	second = again
	if rep := w.verify(); len(rep.Findings) != 0 || rep.Verdicts != 4 {
		t.Errorf("%+v", rep)
	}

	wrong := w.commit("wrong", files("headgate.yaml", "build: {image: 'nobody/has:this'}\n", "more", "1\n"), second)
	if p := w.end(w.propose(ada, wrong).Change); p.Kind != Refused ||
		!strings.Contains(p.Reason, "there is no image nobody/has:this") {
		t.Errorf("%+v", p)
	}
	// Without the word of a build in that image there is no verdict for it.
	pinnedBy := verdict.List{{Image: "golang:10" + digest}, {Image: "other" + digest}, {Image: "golang:1" + digest}}
	var all []string
	for in := range pinned(verdict.Inputs{Image: "golang:1"}, pinnedBy) {
		all = append(all, in.Image)
	}
	if got := strings.Join(all, " "); got != "golang:1 golang:1"+digest {
		t.Errorf("may be verified as %s", got)
	}
	was := func(name, image, settings string) verdict.Verdict {
		return verdict.Verdict{Image: "golang:1" + digest,
			Services: []verdict.Service{{Name: name, Image: image, Settings: settings}}}
	}
	named := verdict.Inputs{
		Image:    "golang:1",
		Services: []verdict.Service{{Name: "db", Image: "postgres:17", Settings: "a"}},
	}
	count := 0
	for in := range pinned(named, verdict.List{was("db", "postgres:17"+digest, "b"), was("d", "postgres:17"+digest, "a"),
		was("db", "postgres:170"+digest, "a"), {Image: "golang:1" + digest}, was("db", "postgres:17"+digest, "a")}) {
		if count++; count == 2 && in.Services[0].Image != "postgres:17"+digest {
			t.Errorf("may be verified as %+v", in)
		}
	}
	if count != 2 {
		t.Errorf("may be verified in %d ways", count)
	}
}

// An image behind a login is fetched by it, for changes that somebody has vouched for.
func TestImagesBehindALogin(t *testing.T) {
	asked := make(chan ImageQuery, 10)
	w := newHarness(t, func(c *Config) {
		c.Image = func(_ context.Context, q ImageQuery) (string, error) {
			asked <- q
			return q.Name + "@sha256:" + strings.Repeat("c", 64), nil
		}
	})
	const file = "build: {image: ghcr.io/team/go:1, registries: {ghcr.io: ghcr/login}, " +
		"services: {db: {image: postgres:17}}}\n"
	base := w.commit("begin", files("headgate.yaml", file))
	w.land(ada, base)
	logins := map[string]string{}
	for range 2 {
		q := <-asked
		logins[q.Repository+" "+q.Name] = q.Login
	}
	if logins["hello ghcr.io/team/go:1"] != "ghcr/login" || logins["hello postgres:17"] != "" {
		t.Errorf("entered by %q", logins)
	}
	w.build.mu.Lock()
	for _, j := range w.build.jobs {
		if j.Registries["ghcr.io"] != "ghcr/login" {
			t.Errorf("built with %q", j.Registries)
		}
	}
	w.build.mu.Unlock()

	fork := w.commit("from a fork", files("headgate.yaml", file, "more", "1\n"), base)
	if p := w.end(w.request(fork, 1).Change); p.Kind != Refused ||
		!strings.Contains(p.Reason, "image ghcr.io/team/go:1 is behind a login of ghcr.io") {
		t.Errorf("%+v", p)
	}
	b := &TreeBuilder{Login: func(string, string) (build.Login, error) { return build.Login{User: "u"}, nil }}
	for _, outside := range []bool{true, false} {
		logins, err := b.logins(Job{Repository: w.r, Outside: outside, Registries: map[string]string{"ghcr.io": "l"}})
		if err != nil || (len(logins) == 0) != outside {
			t.Errorf("outside %v: %d logins, %v", outside, len(logins), err)
		}
	}
}

// What a forge brings is built in the image that it names, too, whoever looks on; one that
// there is not is said.
func TestImagesOfTips(t *testing.T) {
	const digest = "@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	answer := make(chan struct{})
	w := newHarness(t, func(c *Config) {
		c.Image = func(_ context.Context, q ImageQuery) (string, error) {
			name := q.Name
			if name == "nobody/has:this" {
				return "", &build.ImageError{What: "there is no image " + name}
			}
			<-answer
			return name + digest, nil
		}
	})
	base := w.commit("begin", files("headgate.yaml", "build: {image: golang:1}\n"))
	w.came(repo.Zero, base)
	w.tip(base, show.Queued)
	next := w.commit("next", files("headgate.yaml", "build: {image: golang:1}\n", "more", "1\n"), base)
	if tip, err := w.gate.Judge("hello", "main", next); err != nil || tip.State != show.Queued {
		t.Errorf("%+v, %v", tip, err)
	}
	close(answer)
	w.tip(base, show.Green)
	w.until("judged", func() bool {
		tip, err := w.gate.Judge("hello", "main", next)
		return err == nil && tip.State == show.Green
	})
	w.build.mu.Lock()
	for _, j := range w.build.jobs {
		if j.Image != "golang:1"+digest {
			t.Errorf("built in %s", j.Image)
		}
	}
	w.build.mu.Unlock()

	wrong := w.commit("wrong", files("headgate.yaml", "build: {image: 'nobody/has:this'}\n"), base)
	w.came(base, wrong)
	if tip := w.tip(wrong, show.Waits); !strings.Contains(tip.Reason, "there is no image nobody/has:this") {
		t.Errorf("%+v", tip)
	}
}
