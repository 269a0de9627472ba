package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// packAfter is the server's own default of --pack-after.
const packAfter = "1000"

// few is how many landings a young repository has had.
const few = 100

// BenchmarkLandings: what a push, a landing, a listing and a start cost in a
// repository that has had a hundred landings, and in one that has had ten thousand.
// Only records are made quickly (see landings); what is measured is real.
func BenchmarkLandings(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("true"))
	c := w.headgate(b, "ours")
	c.push(b, "HEAD:main")
	c.git(b, "push", "-q", "origin", "HEAD:refs/heads/work")

	t := newTable(fmt.Sprintf("after %d and after %d landings", few, *landings))
	const starting, pushing, landing, listing = 0, 1, 2, 3
	names := []string{"start", "push to an ungated branch", "push, built and landed", "change list"}
	count := max(2, min(15, *runs))
	var measured []samples
	had := 1
	for _, n := range []int{few, *landings} {
		w.stop()
		w.imitate(b, n-had)
		had = n
		w.launch(b) // it packs, and reads what it has not seen
		c.git(b, "fetch", "-q", "origin")
		c.git(b, "reset", "-q", "--hard", "origin/main")
		s := newSamples(len(names))
		for i := range count + warm {
			c.commit(b, n+i)
			pushed := c.push(b, "HEAD:refs/heads/work").took
			landed := c.push(b, "HEAD:main").took
			had++
			began := time.Now()
			w.run(b, w.dir, "ssh", w.login(w.SSH, "change", "list", "hello")...)
			listed := time.Since(began)
			w.stop()
			started := w.launch(b)
			if i < warm {
				continue
			}
			s.add(pushing, pushed)
			s.add(landing, landed)
			s.add(listing, listed)
			s.add(starting, started)
		}
		for i, name := range names {
			t.row(fmt.Sprintf("%s, after %d", name, n), s.of(i))
		}
		measured = append(measured, s)
	}
	for i, name := range names {
		t.ratio(fmt.Sprintf("%s: after %d / after %d", name, *landings, few), median(measured[1].of(i))/median(measured[0].of(i)), 1.5)
	}
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(measured[1].of(landing).p(50)), "landing-p50-ms")
	b.ReportMetric(ms(measured[1].of(starting).p(50)), "start-p50-ms")
}

func median(s sample) float64 { return float64(s.p(50)) }

// imitate gives the repository of the stopped server the records of further
// landings. They are written in memory where that can be: there is no power to lose.
func (w *harness) imitate(b *testing.B, n int) {
	b.Helper()
	program := path(w.dir, "landings")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", program, "./landings").CombinedOutput(); err != nil {
		b.Fatalf("build the program that makes landings: %v\n%s", err, out)
	}
	data := path(w.dir, "data")
	fast, err := os.MkdirTemp("/dev/shm", "headgate-bench-")
	if err != nil {
		if fast, err = os.MkdirTemp(w.dir, "landings-"); err != nil {
			b.Fatal(err)
		}
	}
	defer os.RemoveAll(fast)
	w.run(b, w.dir, "cp", "-a", path(data, "repositories"), path(data, "keys"), fast)
	w.within(b, b.Context(), w.dir, program, fast, "hello", strconv.Itoa(n), packAfter)
	if err := os.RemoveAll(path(data, "repositories")); err != nil {
		b.Fatal(err)
	}
	w.run(b, w.dir, "cp", "-a", path(fast, "repositories"), data)
}
