package proof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// server is what a server has: repositories, and a key that signs.
type server struct {
	t      *testing.T
	dir    string
	key    string // file
	signer *repo.Signer
	*repo.Store
}

func newServer(t *testing.T, dir, key string) *server {
	t.Helper()
	s := &server{t: t, dir: dir, key: key}
	var err error
	if s.signer, err = repo.OpenSigner(filepath.Join(dir, key),
		repo.Person{Name: "Headgate", Email: "headgate@test"}); err != nil {
		t.Fatal(err)
	}
	if s.Store, _, err = repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"),
		s.signer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Store.Close)
	for _, name := range []string{access.Own, "shop", "other"} {
		if _, err := s.Repository(name); err != nil {
			if _, err := s.Create(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

func (s *server) repository(name string) *repo.Repository {
	s.t.Helper()
	r, err := s.Repository(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *server) keys() agent.Keys {
	return agent.Keys{Signing: ssh.FingerprintSHA256(s.signer.PublicKey())}
}

var digest = "sha256:" + strings.Repeat("a", 64)

// files are those of the directory that environments declare.
var files = target.Files{"appspec.yml": []byte("version: 0.0\nos: linux\n"), "extra/motd": []byte("hello\n")}

// declare has a repository release and promote what its directory holds, and returns what
// the reconciler would declare.
func (s *server) declare(repository, environment, word string) target.Declared {
	s.t.Helper()
	fatal := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	r := s.repository(repository)
	edits := map[string]repo.Edit{}
	var blobs []repo.Object
	for name, content := range map[string][]byte{
		"deploy/appspec.yml": files["appspec.yml"], "deploy/extra/motd": files["extra/motd"], "word": []byte(word),
	} {
		blob := repo.Blob(content)
		blobs = append(blobs, blob)
		edits[name] = repo.Edit{Mode: filemode.Regular, Hash: blob.Hash()}
	}
	fatal(r.Write(blobs...))
	tree, err := r.TreeWith(repo.Zero, edits)
	fatal(err)
	landed, err := r.WriteCommit(repo.NewCommit{Tree: tree, At: noon, Message: word})
	fatal(err)
	rel, err := release.Of(r).Make(s.t.Context(), release.Landing{
		Branch:  "main",
		Commit:  landed,
		Subject: word,
		Changes: []int{3},
		By:      "ada",
		At:      noon,
		Verdict: verdict.Verdict{
			Result:    verdict.Green,
			Key:       "sha256:k",
			Artifacts: []verdict.Artifact{{Name: repository, Digest: digest, Size: 3}},
			Started:   noon,
			Finished:  noon,
		},
	})
	fatal(err)
	return s.promote(repository, environment, ReleaseOf(rel, func(rel release.Release) error { return rel.Verify(r, s.signer.Signers()) }))
}

// promote makes a commit of the environment that declares a release.
func (s *server) promote(repository, environment string, rel record.Release) target.Declared {
	s.t.Helper()
	r := s.repository(repository)
	parent, err := r.Ref(record.EnvironmentRef(environment))
	if err != nil {
		s.t.Fatal(err)
	}
	place, base := 1, repo.Zero
	if parent != repo.Zero {
		history, err := record.History(r, repository, environment, 100)
		if err != nil {
			s.t.Fatal(err)
		}
		place, base = len(history)+1, history[0].Tree
	}
	tree, err := record.Render(r, base, repository, rel, "deploy")
	if err != nil {
		s.t.Fatal(err)
	}
	p := record.Promotion{
		ID:        record.PromotionID(repository, environment, parent, tree),
		Sequence:  place,
		Release:   rel.Number,
		Source:    rel.Commit,
		Path:      "deploy",
		Artifacts: rel.Artifacts,
		Decision:  record.Decision{Decision: policies.Auto, Commit: rel.Commit, Place: 1},
	}
	commit, err := r.WriteCommit(repo.NewCommit{
		Tree:    tree,
		Parents: record.Parents(parent),
		At:      noon,
		Message: p.Message(repository, environment),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.Move(s.t.Context(), record.EnvironmentRef(environment), parent, commit); err != nil {
		s.t.Fatal(err)
	}
	return target.Declared{
		Key:      target.Key{Repository: repository, Application: repository, Environment: environment},
		Commit:   commit.String(),
		Sequence: place,
		Files:    files,
		Release: target.Release{
			Number:    rel.Number,
			Commit:    rel.Commit.String(),
			Artifacts: map[string]string{repository: digest},
		},
	}
}

// sent is what goes over the line, as it comes out of it.
func (s *server) sent(d target.Declared) (target.Declared, agent.Proof) {
	s.t.Helper()
	p, err := Collect(s.Store, d)
	if err != nil {
		s.t.Fatal(err)
	}
	type both struct {
		D target.Declared
		P agent.Proof
	}
	data, err := json.Marshal(both{d, p})
	if err != nil {
		s.t.Fatal(err)
	}
	var out both
	if err := json.Unmarshal(data, &out); err != nil {
		s.t.Fatal(err)
	}
	return out.D, out.P
}

func refused(t *testing.T, keys agent.Keys, d target.Declared, p agent.Proof, fence int, want string) {
	t.Helper()
	if got, err := Verify(keys, &d, p, fence); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%+v, %v; want it refused: %q", got, err, want)
	}
}

// What is signed all the way is proven, with the objects that are sent alone; and what was
// good before it, too.
func TestProven(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), "key")
	first := s.declare("shop", "production", "one")
	second := s.declare("shop", "production", "two")
	if second.Sequence != 2 {
		t.Fatalf("place %d", second.Sequence)
	}
	second.Fallback = &first
	d, p := s.sent(second)
	keys, err := Verify(s.keys(), &d, p, 1)
	if err != nil || !keys.Equal(s.keys()) || d.Fallback == nil {
		t.Fatalf("%+v, %v, fallback %v", keys, err, d.Fallback)
	}
	// One that is not proven is of no use, and no harm.
	d.Fallback.Release.Artifacts = map[string]string{"shop": "sha256:" + strings.Repeat("b", 64)}
	if _, err := Verify(s.keys(), &d, p, 1); err != nil || d.Fallback != nil {
		t.Errorf("%v, fallback %v", err, d.Fallback)
	}
}

// Whatever is not what was signed is refused, and it says what that is.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), "key")
	older := s.declare("shop", "production", "one")
	good := s.declare("shop", "production", "two")
	elsewhere := s.declare("shop", "staging", "three")
	foreign := s.declare("other", "production", "four")
	thief := newServer(t, t.TempDir(), "key")
	thief.declare("shop", "production", "one")
	forged := thief.declare("shop", "production", "two")

	for name, change := range map[string]struct {
		of     target.Declared
		change func(d *target.Declared, p *agent.Proof)
		want   string
	}{
		"wrong digest": {good, func(d *target.Declared, _ *agent.Proof) {
			d.Release.Artifacts["shop"] = "sha256:" + strings.Repeat("b", 64)
		}, "the commit declares release 2 with shop@" + digest},
		"another artifact": {good, func(d *target.Declared, _ *agent.Proof) { d.Release.Artifacts["more"] = digest },
			"the commit declares release 2"},
		"an image": {good, func(d *target.Declared,
			_ *agent.Proof) {
			d.Release.Images = map[string]string{"x": digest}
		}, "the commit declares"},
		"another number": {good, func(d *target.Declared, _ *agent.Proof) { d.Release.Number = 7 },
			"the server says release 7"},
		"another file": {good, func(d *target.Declared, _ *agent.Proof) {
			d.Files["appspec.yml"] = []byte("version: 0.0\nos: linux\nhooks: {}\n")
		}, "files of the commit were not sent as they are"},
		"a file more": {good, func(d *target.Declared, _ *agent.Proof) { d.Files["run.sh"] = []byte("rm -rf /\n") },
			"the file run.sh is not one of the commit"},
		"files changed about": {good, func(d *target.Declared, _ *agent.Proof) {
			d.Files["appspec.yml"], d.Files["extra/motd"] = d.Files["extra/motd"], d.Files["appspec.yml"]
		}, "is not what the commit declares"},
		"a file less": {good, func(d *target.Declared, _ *agent.Proof) { delete(d.Files, "extra/motd") },
			"were not sent as they are"},

		"other environment": {elsewhere, func(d *target.Declared, _ *agent.Proof) { d.Environment = "production" },
			"is not one of the environment production"},
		"other application": {good, func(d *target.Declared, _ *agent.Proof) { d.Application = "web" },
			"is not one of the environment production of web"},
		"other repository": {foreign, func(d *target.Declared, _ *agent.Proof) { d.Repository = "shop" },
			"it is one of other"},
		"newer than it is": {older, func(d *target.Declared, _ *agent.Proof) { d.Sequence = 9 },
			"place is 1, and the server says 9"},

		"no proof": {good, func(_ *target.Declared, p *agent.Proof) { *p = agent.Proof{} }, "was not sent"},
		"no release": {good, func(_ *target.Declared, p *agent.Proof) { p.Release = "" },
			"release 2: its tag was not sent"},
		"release of another": {good, func(_ *target.Declared,
			p *agent.Proof) {
			swapTag(p, "tag releases/2\n", "tag releases/9\n")
		}, "release 2: its tag signed by"},
		"unsigned release": {good, func(_ *target.Declared, p *agent.Proof) {
			swapTag(p, "-----BEGIN SSH SIGNATURE", "-----BEGIN NO SIGNATURE")
		}, "release 2: its tag carries no signature"},
		"changed release": {good, func(_ *target.Declared,
			p *agent.Proof) {
			swapTag(p, strings.Repeat("a", 64), strings.Repeat("b", 64))
		}, "release 2: its tag signed by"},
		"wrong key": {forged, func(*target.Declared, *agent.Proof) {},
			"and the key of the server is " + s.keys().Signing},
		"no such kind": {good, func(_ *target.Declared, p *agent.Proof) { p.Objects[0].Kind = "exe" },
			"an object of the kind"},
		"a tree less":         {good, func(_ *target.Declared, p *agent.Proof) { drop(p, "tree") }, "not found"},
		"a commit for a tag":  {good, func(d *target.Declared, p *agent.Proof) { p.Release = d.Commit }, "release 2: "},
		"a commit of no kind": {good, func(d *target.Declared, _ *agent.Proof) { d.Commit = "main" }, "is no commit"},
	} {
		t.Run(name, func(t *testing.T) {
			from := s
			if name == "wrong key" {
				from = thief
			}
			d, p := from.sent(change.of)
			change.change(&d, &p)
			refused(t, s.keys(), d, p, -1, change.want)
		})
	}

	// A release by another key in a commit by the right one.
	d, p := s.sent(good)
	_, q := thief.sent(forged)
	p.Release, p.Objects = q.Release, append(p.Objects, q.Objects...)
	refused(t, s.keys(), d, p, -1, "release 2: its tag is signed by "+thief.keys().Signing)

	// One whose provenance is not signed, though its tag is.
	d, p = s.sent(good)
	r := s.repository("shop")
	rel, err := release.Of(r).Read(2)
	if err != nil {
		t.Fatal(err)
	}
	rel.Provenance.Signatures[0].Sig = "AAAA"
	text, err := json.Marshal(rel.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := r.WriteTag("releases/2", rel.Commit, noon, fmt.Sprintf("release 2\n\n%s", text))
	if err != nil {
		t.Fatal(err)
	}
	kind, raw, err := r.Raw(tag)
	if err != nil {
		t.Fatal(err)
	}
	p.Release, p.Objects = tag.String(), append(p.Objects, agent.Object{Kind: kind, Content: raw})
	refused(t, s.keys(), d, p, -1, "release 2: its provenance")

	// An environment's commit that an earlier version made says no place: it is taken where
	// none was acted on.
	d, p = s.sent(s.withoutPlace())
	if _, err := Verify(s.keys(), &d, p, -1); err != nil {
		t.Error(err)
	}
	refused(t, s.keys(), d, p, 2, "does not say its place")
}

// withoutPlace is a commit that says no place.
func (s *server) withoutPlace() target.Declared {
	s.t.Helper()
	d := s.declare("shop", "older", "five")
	r := s.repository("shop")
	at, _ := repo.ParseHash(d.Commit)
	c, err := r.Commit(at)
	if err != nil {
		s.t.Fatal(err)
	}
	commit, err := r.WriteCommit(repo.NewCommit{
		Tree:    c.TreeHash,
		At:      noon,
		Message: strings.Replace(c.Message, "Sequence: 1\n", "", 1),
	})
	if err != nil || commit == at {
		s.t.Fatal(err)
	}
	d.Commit = commit.String()
	return d
}

// swapTag changes the text of the release's tag, which is another object then.
func swapTag(p *agent.Proof, old, new string) {
	for i, o := range p.Objects {
		if o.Kind == "tag" {
			o.Content = bytes.ReplaceAll(o.Content, []byte(old), []byte(new))
			p.Objects[i] = o
			p.Release = repo.Object{Kind: plumbing.TagObject, Content: o.Content}.Hash().String()
		}
	}
}

func drop(p *agent.Proof, kind string) {
	i := slices.IndexFunc(p.Objects, func(o agent.Object) bool { return o.Kind == kind })
	p.Objects = slices.Delete(p.Objects, i, i+1)
}

// Another key counts once the former has signed for it; and what the former signed counts
// where it was when the other took over, and nothing else, whatever time it says.
func TestRotatedKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, dir, "key")
	s.declare("shop", "production", "one")
	d := s.declare("shop", "production", "two")
	rotate := func(by *repo.Signer, next *server) {
		t.Helper()
		for _, name := range []string{access.Own, "shop", "other"} {
			if err := s.repository(name).RecordRotation(t.Context(), by, s.signer.PublicKey(), next.signer.PublicKey(),
				noon); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := newServer(t, dir, "next")
	rotate(s.signer, next)
	want := agent.Keys{Signing: next.keys().Signing, Former: []string{s.keys().Signing}}

	// What was there is what it was, by the key that is known and by the new one.
	sent, p := next.sent(d)
	keys, err := Verify(s.keys(), &sent, p, 2)
	if err != nil || !keys.Equal(want) {
		t.Fatalf("%+v, %v", keys, err)
	}
	if keys, err = Verify(want, &sent, p, 2); err != nil || !keys.Equal(want) {
		t.Errorf("known: %+v, %v", keys, err)
	}
	// A machine that has enrolled since then, and was not told of the former key.
	refused(t, next.keys(), sent, p, 2, "is signed by "+s.keys().Signing)
	// The record of the repository was kept from it.
	kept := p
	kept.RepositoryKeys = ""
	refused(t, want, sent, kept, 2, "was not there when another took over")

	// Whoever has the old key signs as if it had been before.
	late := s.declare("shop", "production", "three")
	stolen, p := next.sent(late)
	refused(t, want, stolen, p, 2, "a former key of the server, and was not there when another took over")
	p.Keys, p.RepositoryKeys = "", ""
	refused(t, want, stolen, p, 2, "a former key of the server")

	// What the new key signs goes on, with a release that the old one signed.
	back, err := release.Of(next.repository("shop")).Read(1)
	if err != nil {
		t.Fatal(err)
	}
	r := next.repository("shop")
	was, err := r.Ref(record.EnvironmentRef("production"))
	if err != nil {
		t.Fatal(err)
	}
	at, _ := repo.ParseHash(d.Commit)
	if err := r.Move(t.Context(), record.EnvironmentRef("production"), was, at); err != nil {
		t.Fatal(err)
	}
	sent, p = next.sent(next.promote("shop", "production", ReleaseOf(back, verified)))
	if keys, err := Verify(s.keys(), &sent, p, 2); err != nil || !keys.Equal(want) {
		t.Errorf("%+v, %v", keys, err)
	}

	// A key that is lost has signed for nobody: people have to say so.
	lost := newServer(t, t.TempDir(), "key")
	declared := lost.declare("shop", "production", "one")
	finder := newServer(t, lost.dir, "found")
	for _, name := range []string{access.Own, "shop"} {
		if err := lost.repository(name).RecordRotation(t.Context(), finder.signer, lost.signer.PublicKey(),
			finder.signer.PublicKey(), noon); err != nil {
			t.Fatal(err)
		}
	}
	sent, p = finder.sent(declared)
	refused(t, lost.keys(), sent, p, -1, "headgate agent trust --signing-key "+finder.keys().Signing)
}
