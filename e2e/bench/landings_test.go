package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
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
	// What the server and its git children compute says more than a clock on a machine
	// that has much else to do.
	const starting, first, pushing, landing, listing, pushingCPU, landingCPU, listingCPU = 0, 1, 2, 3, 4, 5, 6, 7
	names := []string{
		"start, until it answers", "first landing after a start", "push to an ungated branch",
		"push, built and landed", "change list",
		"processor time of the push", "processor time of the landing", "processor time of the listing",
	}
	count := max(2, min(15, *runs))
	var results []samples
	had := 1
	for _, n := range []int{few, *landings} {
		w.stop()
		w.imitate(b, n-had)
		had = n
		c.fetchMain(b, w)
		s := newSamples(len(names))
		land := func(i int) time.Duration {
			c.commit(b, n+i)
			had++
			return c.push(b, "HEAD:main").took
		}
		for i := range count/3 + 1 {
			w.stop()
			s.add(starting, w.launch(b))
			s.add(first, land(i))
		}
		for i := range count + warm {
			c.commit(b, n+count+2*i)
			cpu := w.cpu(b)
			pushed, pushedCPU := c.push(b, "HEAD:refs/heads/work").took, w.cpu(b)
			landed := land(count + 2*i + 1)
			landedCPU := w.cpu(b)
			began := time.Now()
			w.run(b, w.dir, "ssh", w.login(w.SSH, "change", "list", "hello")...)
			listed := time.Since(began)
			if i < warm {
				continue
			}
			s.add(pushing, pushed)
			s.add(landing, landed)
			s.add(listing, listed)
			s.add(pushingCPU, pushedCPU-cpu)
			s.add(landingCPU, landedCPU-pushedCPU)
			s.add(listingCPU, w.cpu(b)-landedCPU)
		}
		for i, name := range names {
			t.row(fmt.Sprintf("%s, after %d", name, n), s.of(i))
		}
		results = append(results, s)
	}
	for i, name := range names {
		ratio := mean(results[1].of(i)) / mean(results[0].of(i))
		t.ratio(fmt.Sprintf("%s: after %d / after %d", name, *landings, few), ratio, 1.5)
	}
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(results[1].of(landing).p(50)), "landing-p50-ms")
	b.ReportMetric(ms(results[1].of(starting).p(50)), "start-p50-ms")
}

// mean is of what the kernel counts in hundredths of a second, as processor time.
func mean(s sample) float64 {
	var sum time.Duration
	for _, d := range s {
		sum += d
	}
	return float64(sum) / float64(max(1, len(s)))
}

// fetchMain brings a clone to where main is now; the server is started for it.
func (c *clone) fetchMain(b *testing.B, w *harness) {
	b.Helper()
	w.launch(b)
	c.git(b, "fetch", "-q", "origin")
	c.git(b, "reset", "-q", "--hard", "origin/main")
}

// cpu is the processor time that the server and its children have taken.
func (w *harness) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.server))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name may hold anything
	for _, field := range strings.Fields(after)[11:15] {
		ticks, _ := strconv.Atoi(field) // the kernel wrote it
		sum += time.Duration(ticks) * time.Second / 100
	}
	return sum
}

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
