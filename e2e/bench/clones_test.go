package bench

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// atOnce is how many clone at the same time.
const atOnce = 16

// BenchmarkClones: what sixteen clones at once take of memory, the server's and its
// git children's together, more than one clone does; and how long they take.
func BenchmarkClones(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("true"))
	c := w.headgate(b, "ours")
	noise := make([]byte, 256<<10)
	for i := range 16 { // 4 MiB that cannot be made smaller
		_, _ = rand.Read(noise) // never fails
		if err := os.WriteFile(path(c.dir, fmt.Sprintf("noise-%d", i)), noise, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	c.git(b, "add", "-A")
	c.git(b, "commit", "-q", "-m", "Make noise")
	c.git(b, "push", "-q", "origin", "HEAD:refs/heads/work")

	clones := func(n int) (took time.Duration, most float64) {
		var all, watching sync.WaitGroup
		ended := make(chan struct{})
		watching.Go(func() {
			for {
				most = max(most, w.memory())
				select {
				case <-ended:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
		began := time.Now()
		for i := range n {
			all.Go(func() {
				to := path(w.dir, "again", strconv.Itoa(i))
				cmd := exec.Command("git", "clone", "-q", "--bare", "ssh://"+w.SSH+"/hello", to)
				cmd.Env = w.env()
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Errorf("clone: %v\n%s", err, out)
				}
			})
		}
		all.Wait()
		took = time.Since(began)
		close(ended)
		watching.Wait()
		if err := os.RemoveAll(path(w.dir, "again")); err != nil {
			b.Fatal(err)
		}
		return took, most
	}

	t := newTable(fmt.Sprintf("%d clones of 4 MiB at once", atOnce))
	s := newSamples(2)
	var one, many float64
	for i := range max(2, min(5, *runs)) {
		for _, k := range turn(i, 2) {
			took, most := clones([]int{1, atOnce}[k])
			s.add(k, took)
			if k == 0 {
				one = max(one, most)
			} else {
				many = max(many, most)
			}
		}
	}
	t.row("one clone", s.of(0))
	t.row(fmt.Sprintf("%d clones, the last of them", atOnce), s.of(1))
	t.print()
	fmt.Printf(
		"  memory of the server and its git: %.0f MiB with one, %.0f MiB with %d: %.0f MiB more (goal: at most 64 MiB): %s\n",
		one, many, atOnce, many-one, met(many-one <= 64))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(many-one, "more-MiB")
}

// memory is what the server and its descendants have of their own, in MiB: what they
// share, such as files that several of them read, is of no account.
func (w *harness) memory() (sum float64) {
	parents := map[int][]int{}
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // it may have ended
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			parents[parent] = append(parents[parent], pid)
		}
	}
	for queue := []int{w.server}; len(queue) > 0; queue = queue[1:] {
		queue = append(queue, parents[queue[0]]...)
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", queue[0]))
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
				sum += n / 1024
			}
		}
	}
	return sum
}
