package forge

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/forges"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// environmentsAre are environments as a test has them.
type environmentsAre map[string]show.Environment

func (e environmentsAre) Environments(context.Context, string) (names []string, err error) {
	for name := range e {
		names = append(names, name)
	}
	return names, nil
}

func (e environmentsAre) Environment(_ context.Context, _, name string) (show.Environment, error) {
	one, ok := e[name]
	if !ok {
		return one, &show.Error{Kind: show.NotFound, What: "there is none"}
	}
	return one, nil
}

func (e environmentsAre) Promotion(context.Context, string, string) (show.Promotion, error) {
	return show.Promotion{}, &show.Error{Kind: show.NotFound, What: "nothing is open"}
}

func (e environmentsAre) Approve(context.Context, string, string, access.Identity, repo.Hash) ([]string, error) {
	return nil, &show.Error{Kind: show.NotFound, What: "nothing is open"}
}

// newPass is a pass over a mirror of a stand-in.
func newPass(t *testing.T, kind Kind, environments environmentsAre) (*pass, forged, repo.Hash) {
	t.Helper()
	f := newForged(t, kind)
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	store, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r, err := store.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	m := remote{kind: kind, url: f.URL, credential: fixed{secret.NewValue([]byte(fetchToken))}}
	if _, _, err := m.sync(t.Context(), r, func(Move) error { return nil }); err != nil {
		t.Fatal(err)
	}
	main, err := r.Ref("refs/heads/main")
	if err != nil {
		t.Fatal(err)
	}
	hub := &Hub{
		Store:      store,
		Gate:       gate.New(gate.Config{Store: store, Settings: gate.FileSettings}),
		Promotions: environments,
		Page:       func(string, int) string { return "http://here/hello" },
		Log:        slog.New(slog.DiscardHandler),
	}
	q := &requests{w: &worker{hub: hub, name: "hub"}, lookAt: map[int]time.Time{}}
	if q.memory, err = openMemory(filepath.Join(dir, "memory.json")); err != nil {
		t.Fatal(err)
	}
	p := &pass{requests: q, conf: access.Connection{Name: "hub", Mirror: "hello", Deployments: true}, remote: m, r: r}
	if p.api, err = openAPI(kind, f.URL, forges.Name, m.credential, nil); err != nil {
		t.Fatal(err)
	}
	return p, f, main
}

// TestDeploymentsAreShown: what an environment declares is one deployment, said once how
// it is, with its address; what is declared next is another one. A kill before it was noted
// makes no second one where the forge can be asked.
func TestDeploymentsAreShown(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{GitHub, GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			environments := environmentsAre{"staging": {State: show.Unknown}}
			p, f, main := newPass(t, kind, environments)
			say := func(e show.Environment) []forges.Deployment {
				t.Helper()
				environments["staging"] = e
				for range 2 { // the second time changes nothing
					if err := p.sayDeployments(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				return f.Deployments()
			}
			if all := say(show.Environment{State: show.Unknown}); len(all) != 0 {
				t.Fatalf("%+v", all)
			}
			e := show.Environment{Declared: strings.Repeat("a", 40), Commit: main.String(), Release: 1, State: show.Converging}
			all := say(e)
			if len(all) != 1 || all[0].Environment != "staging" || all[0].Commit != main.String() ||
				!strings.HasSuffix(all[0].State, map[Kind]string{GitHub: "in_progress", GitLab: "running"}[kind]) {
				t.Fatalf("%+v", all)
			}
			delete(p.memory.deployments, "staging")
			e.State, e.URLs = show.Healthy, []string{"http://there/"}
			all = say(e)
			if kind == GitHub && len(all) != 1 {
				t.Errorf("a kill made another: %+v", all)
			}
			if last := all[len(all)-1]; last.State != "success" || last.URL != "http://there/" {
				t.Errorf("%+v", last)
			}
			before := len(all)
			e.Declared, e.Release, e.State, e.Reason = strings.Repeat("b", 40), 2, show.Failed, "it ended"
			if all = say(e); len(all) != before+1 || !strings.HasPrefix(all[before].State, "fail") {
				t.Errorf("%+v", all)
			}
		})
	}
}

// TestProtectionRules: a run is let go to an environment when the policies have promoted
// its commit there, refused when they deny it or there is no such environment, and waits
// else, over a restart; a run that is gone is forgotten.
func TestProtectionRules(t *testing.T) {
	t.Parallel()
	environments := environmentsAre{}
	p, f, main := newPass(t, GitHub, environments)
	for key, one := range map[string]protection{
		"1/promoted": {Run: 1, Environment: "promoted"}, "2/waits": {Run: 2, Environment: "waits"},
		"3/denied": {Run: 3, Environment: "denied"},
		"4/none":   {Run: 4, Environment: "none"}, "4040/promoted": {Run: 4040, Environment: "promoted"},
	} {
		one.Asked = time.Now()
		p.memory.protections[key] = &one
	}
	environments["promoted"] = show.Environment{Commit: main.String(), Release: 1}
	environments["waits"] = show.Environment{Promotion: &show.Promotion{Source: main.String(), Decision: "manual"}}
	environments["denied"] = show.Environment{Promotion: &show.Promotion{Source: main.String(), Decision: "deny",
		Summary: "is frozen"}}
	answer := func() string {
		t.Helper()
		if err := p.answerProtections(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, a := range f.Protections() {
			b.WriteString(a.Environment + " " + a.State + ": " + a.Comment + "\n")
		}
		return b.String()
	}
	want := "promoted approved: release 1 was promoted to promoted\ndenied rejected: is frozen\nnone rejected: headgate.yaml declares no environment none\n"
	for range 2 {
		if got := answer(); got != want {
			t.Errorf("%s", got)
		}
	}
	again, err := openMemory(p.memory.path)
	if err != nil || len(again.protections) != 1 || again.protections["2/waits"] == nil {
		t.Fatalf("%+v, %v", again.protections, err)
	}
	p.memory = again
	environments["waits"] = show.Environment{Commit: main.String(), Release: 1}
	if got := answer(); got != want+"waits approved: release 1 was promoted to waits\n" {
		t.Errorf("%s", got)
	}
	if len(p.memory.protections) != 0 {
		t.Errorf("%+v", p.memory.protections)
	}
}
