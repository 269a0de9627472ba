package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestObjectsOfAPromotion: what is written to bring a release into an environment
// that takes what lands, until it is noted to be healthy there. What the landing itself
// writes is counted by hooks/gate, TestObjectsOfALanding.
func TestObjectsOfAPromotion(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	for i := range 4 {
		h.clock.add(time.Second)
		before := h.objects(t)
		n, err := h.land(t.Context(), version1("ada", fmt.Sprint(i)), map[string]string{
			"headgate.yaml":               "environments:\n  staging: {target: services, path: deploy/staging}\n",
			"deploy/staging/compose.yaml": fmt.Sprintf("services: {web: {command: hello %d}}\n", i),
		})
		if err != nil {
			t.Fatal(err)
		}
		h.healthy(t, "staging", n)
		if i == 0 {
			continue // begins the environment
		}
		landed, err := h.hello.Git(t.Context(), "rev-list", "--objects", "--no-object-names", "refs/releases/"+fmt.Sprint(n))
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for hash, kind := range h.objects(t) {
			if before[hash] == "" && !strings.Contains(string(landed), hash) {
				kinds = append(kinds, kind)
			}
		}
		slices.Sort(kinds)
		// Commits: the policy's decision, the promotion, the note's. Trees: of the
		// application, of all applications, of the environment; of the notes.
		want := "blob blob commit commit commit tree tree tree tree"
		if got := strings.Join(kinds, " "); got != want {
			t.Errorf("promotion of release %d writes %s, want %s", n, got, want)
		}
	}
}

// objects are all objects of the repository and what they are.
func (h *harness) objects(t *testing.T) map[string]string {
	t.Helper()
	out, err := h.hello.Git(t.Context(), "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(out)) {
		hash, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[hash] = kind
	}
	return all
}
