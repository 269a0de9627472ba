package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestForgeAnyOrder: however the webhooks of requests are dropped, doubled and shuffled,
// and the server is started again meanwhile, the end is what the forge has.
func TestForgeAnyOrder(t *testing.T) {
	t.Parallel()
	j, f, sh := forgeConnected(t)
	h := j.harness

	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d\n%s", seed, h.tail())
		}
	}()
	type webhook struct {
		request int
		comment int64
	}
	var late []webhook // that have not come yet
	tell := func(w webhook) {
		for range random.IntN(3) { // never, once or twice
			late = append(late, w)
		}
		random.Shuffle(len(late), func(a, b int) { late[a], late[b] = late[b], late[a] })
		for len(late) > 0 && random.IntN(2) == 0 {
			id := fmt.Sprint("id-", late[0].request, "-", late[0].comment, "-", random.IntN(6))              // some are the same again
			_, _, _ = f.Hook(h.HTTP+"/webhooks/hub", id, "sign-with-this", late[0].request, late[0].comment) // it may be lost
			late = late[1:]
		}
	}

	requests := map[string]int{} // open ones, by branch
	heads := map[int]string{}    // of all
	for i := range 12 {
		branch := fmt.Sprint("b", random.IntN(3))
		if number := requests[branch]; number > 0 && random.IntN(3) == 0 {
			j.must(f.CloseRequest(number))
			delete(requests, branch)
			tell(webhook{request: number})
			continue
		}
		head := sh(fmt.Sprintf(`cd there; git switch -qC %s main; echo %d >%s; git add .; git commit -qm "number %d"
			git push -qf $FORGE_DIR HEAD:refs/heads/%s; git rev-parse HEAD`, branch, i, branch, i, branch))
		r, err := f.Propose("ann", branch, false)
		j.must(err)
		requests[branch], heads[r.Number] = r.Number, head
		tell(webhook{request: r.Number})
		if random.IntN(4) == 0 {
			comment, err := f.Say("ann", r.Number, "/why")
			j.must(err)
			tell(webhook{request: r.Number, comment: comment})
		}
		if i == 5 {
			j.must(h.stop(false))
			j.must(h.start(nil))
		}
	}
	j.must(h.stop(false)) // what was dropped is found by the next start's poll
	j.must(h.start(nil))

	open := map[int]bool{}
	for _, number := range requests {
		open[number] = true
	}
	for number, head := range heads {
		want := "withdrawn"
		if open[number] {
			want = "green"
		}
		j.until(fmt.Sprintf("request %d at %s is %s", number, head, want), func() bool {
			all := f.Statuses(head)
			if len(all) == 0 {
				return want == "withdrawn" // it was closed before it was heard of
			}
			return strings.Contains(all[len(all)-1].Description, want)
		})
	}
	out, err := h.ask("ada", "change", "list", "copy", "--json")
	j.must(err)
	if n := strings.Count(out, `"state":"waits"`); n != len(requests) {
		t.Errorf("%d changes wait, and %d requests are open:\n%s", n, len(requests), out)
	}
	for number := range heads {
		ours := 0
		for _, c := range f.Comments(number) {
			if strings.Contains(c.Body, "<!-- headgate -->") {
				ours++
			}
		}
		if ours > 1 {
			t.Errorf("%d comments on request %d are ours", ours, number)
		}
	}
}
