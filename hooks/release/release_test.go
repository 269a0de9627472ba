package release

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

func testRepository(t *testing.T) *repo.Repository {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func landing(t *testing.T, r *repo.Repository, message string) Landing {
	t.Helper()
	c, err := r.WriteCommit(repo.NewCommit{At: noon, Message: message})
	if err != nil {
		t.Fatal(err)
	}
	return Landing{
		Branch: "main", Commit: c, Subject: message, Changes: []int{7}, By: "ada", AlsoBy: []string{"jun"}, At: noon,
		Verdict: verdict.Verdict{
			Result: verdict.Green, Key: "sha256:k", Buildspec: "buildspec.yml", Image: "host", Log: "l", LogDigest: "d",
			Artifacts: []verdict.Artifact{{Name: "app", Digest: "sha256:" + strings.Repeat("a", 64), Size: 3}}, Started: noon,
			Finished: noon,
		},
	}
}

func TestReleasesAreNumberedAndVerify(t *testing.T) {
	r := testRepository(t)
	b := Of(r)
	signers := repo.Signers{r.Signer().PublicKey()}
	for n := 1; n <= 3; n++ {
		l := landing(t, r, fmt.Sprint("landing ", n))
		rel, err := b.Make(t.Context(), l)
		if err != nil || rel.Number != n || rel.Commit != l.Commit {
			t.Fatalf("%+v, %v", rel, err)
		}
		if again, err := b.Make(t.Context(), l); err != nil || again.Number != n {
			t.Fatalf("made twice: %+v, %v", again, err)
		}
		if again, err := Of(r).Make(t.Context(), l); err != nil || again.Number != n {
			t.Fatalf("made twice after a restart: %+v, %v", again, err)
		}
	}
	list, err := Of(r).List()
	if err != nil || len(list) != 3 {
		t.Fatalf("%d, %v", len(list), err)
	}
	rel := list[1]
	if rel.Branch != "main" || rel.By != "ada" || rel.AlsoBy[0] != "jun" || rel.Changes[0] != 7 ||
		rel.Artifacts[0].Name != "app" || rel.Verdict.Key != "sha256:k" || !rel.Manifest.At.Equal(noon) {
		t.Fatalf("%+v", rel)
	}
	if err := rel.Verify(r, signers); err != nil {
		t.Fatal(err)
	}
	other := testRepository(t)
	if err := rel.Verify(r, repo.Signers{other.Signer().PublicKey()}); err == nil {
		t.Fatal("verifies with another key")
	}
	for _, b := range []*Store{b, Of(r)} {
		for range 2 {
			if err := b.Verify(rel); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := b.Read(9); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
}

// TestListRemembers: another process reads what is remembered instead of the tags, and
// it is the same: releases are verified against their tags.
func TestListRemembers(t *testing.T) {
	r := testRepository(t)
	b := Of(r)
	b.after = 3
	for n := range 3 {
		l := landing(t, r, fmt.Sprint("landing ", n))
		if n == 1 {
			l.Verdict.Artifacts, l.AlsoBy = nil, nil
		}
		if _, err := b.Make(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	want, err := b.List()
	if err != nil {
		t.Fatal(err)
	}
	again := Of(r)
	again.recall()
	if len(again.byTag) != 3 {
		t.Fatalf("recalled are %+v", again.byTag)
	}
	got, err := again.List()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v, want\n%+v", err, got, want)
	}
	for _, rel := range got {
		if err := again.Verify(rel); err != nil {
			t.Error(err)
		}
	}
	if rel, err := again.Make(t.Context(), landing(t, r, "one more")); err != nil || rel.Number != 4 {
		t.Errorf("%+v, %v", rel, err)
	}
}

// TestGitReadsTheTag: git itself verifies the tag with the published signers.
func TestGitReadsTheTag(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Fatal("ssh-keygen is not installed; run: apt-get install openssh-client")
	}
	r := testRepository(t)
	rel, err := Of(r).Make(t.Context(), landing(t, r, "landing"))
	if err != nil {
		t.Fatal(err)
	}
	signers := filepath.Join(t.TempDir(), "signers")
	if err := os.WriteFile(signers, []byte(r.Signer().AllowedSigners()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "--git-dir="+r.Dir(), "-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+signers,
		"verify-tag", rel.Tag.String())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Good") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestForgeriesDoNotVerify: each was signed by the server's own key, and is
// wrong in one place.
func TestForgeriesDoNotVerify(t *testing.T) {
	r := testRepository(t)
	signers := repo.Signers{r.Signer().PublicKey()}
	good, err := Of(r).Make(t.Context(), landing(t, r, "landing"))
	if err != nil {
		t.Fatal(err)
	}
	statement := func(edit func(s map[string]any)) *Envelope {
		payload, err := base64.StdEncoding.DecodeString(good.Provenance.Payload)
		if err != nil {
			t.Fatal(err)
		}
		var s map[string]any
		if err := json.Unmarshal(payload, &s); err != nil {
			t.Fatal(err)
		}
		edit(s)
		if payload, err = json.Marshal(s); err != nil {
			t.Fatal(err)
		}
		sig, err := r.Signer().SignRaw(encoded(payloadType, payload))
		if err != nil {
			t.Fatal(err)
		}
		return &Envelope{payloadType, base64.StdEncoding.EncodeToString(payload),
			[]Signature{{"", base64.StdEncoding.EncodeToString(sig)}}}
	}
	for name, forge := range map[string]func(m *Manifest) (tagName string){
		"another artifact": func(m *Manifest) string {
			m.Artifacts[0].Digest = "sha256:" +
				strings.Repeat("b", 64)
			return ""
		},
		"one artifact more":     func(m *Manifest) string { m.Artifacts = append(m.Artifacts, m.Artifacts[0]); return "" },
		"no artifact":           func(m *Manifest) string { m.Artifacts = nil; return "" },
		"another tree":          func(m *Manifest) string { m.Tree = strings.Repeat("1", 40); return "" },
		"no provenance":         func(m *Manifest) string { m.Provenance = nil; return "" },
		"provenance not signed": func(m *Manifest) string { m.Provenance.Signatures = nil; return "" },
		"another payload type":  func(m *Manifest) string { m.Provenance.PayloadType = "text/plain"; return "" },
		"a signature of its own": func(m *Manifest) string {
			m.Provenance.Signatures[0].Sig = base64.StdEncoding.EncodeToString(make([]byte, 64))
			return ""
		},
		"another name": func(m *Manifest) string { return "releases/9" },
		"another predicate": func(m *Manifest) string {
			m.Provenance = statement(func(s map[string]any) { s["predicateType"] = "https://example.com" })
			return ""
		},
		"built from elsewhere": func(m *Manifest) string {
			m.Provenance = statement(func(s map[string]any) {
				s["predicate"].(map[string]any)["buildDefinition"].(map[string]any)["resolvedDependencies"] = nil
			})
			return ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m Manifest
			text, err := json.Marshal(good.Manifest)
			if err == nil {
				err = json.Unmarshal(text, &m)
			}
			if err != nil {
				t.Fatal(err)
			}
			m.Release = 2
			tagName := forge(&m)
			if tagName == "" {
				tagName = "releases/2"
			}
			text, err = json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			tag, err := r.WriteTag(tagName, good.Commit, noon, "release 2\n\n"+string(text))
			if err != nil {
				t.Fatal(err)
			}
			rel, err := Of(r).read(2, tag)
			if err != nil {
				t.Fatal(err)
			}
			if err := rel.Verify(r, signers); err == nil {
				t.Fatal("it verifies")
			} else {
				t.Log(err)
			}
		})
	}
	altered := good
	altered.Artifacts = nil
	if altered.Verify(r, signers) == nil {
		t.Fatal("a manifest altered in memory verifies")
	}
}

// TestWhatIsThereIsKnown: who sees the ref of a release, and asks what release its commit
// is, is told, however soon.
func TestWhatIsThereIsKnown(t *testing.T) {
	t.Parallel()
	r := testRepository(t)
	b := Of(r)
	var landings []Landing
	for n := range 30 {
		landings = append(landings, landing(t, r, fmt.Sprint("landing ", n)))
	}
	done := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for seen := 0; seen < len(landings); {
			if at, err := r.Ref(Ref(seen + 1)); err != nil || at == repo.Zero {
				select {
				case <-done:
					return
				default:
					continue
				}
			}
			if n, err := b.NumberAt(landings[seen].Commit); err != nil || n != seen+1 {
				t.Errorf("release %d is there, and not known: %d, %v", seen+1, n, err)
			}
			seen++
		}
	})
	for _, l := range landings {
		if _, err := b.Make(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
	close(done)
	asking.Wait()
}
