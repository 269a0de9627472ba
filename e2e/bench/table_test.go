package bench

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// sample is what one thing took, run by run.
type sample []time.Duration

// p is a percentile by the nearest rank: p(50) is the median's upper one.
func (s sample) p(percent int) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := int(math.Ceil(float64(percent) / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// samples are several things measured in turn; the n-th runs are neighbours.
type samples []sample

func newSamples(n int) samples { return make(samples, n) }

func (s samples) add(i int, d time.Duration) { s[i] = append(s[i], d) }

func (s samples) of(i int) sample { return s[i] }

// ratio is the median of what a took divided by what its neighbour b took.
func (s samples) ratio(a, b int) float64 {
	var ratios []float64
	for i := range min(len(s[a]), len(s[b])) {
		if s[b][i] > 0 {
			ratios = append(ratios, float64(s[a][i])/float64(s[b][i]))
		}
	}
	if len(ratios) == 0 {
		return math.NaN()
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// turn is the order of n things in run i, so that none is always the first.
func turn(i, n int) []int {
	order := make([]int, n)
	for k := range order {
		order[k] = (i + k) % n
	}
	return order
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// table is one measure's table.
type table struct {
	text   strings.Builder
	writer *tabwriter.Writer
}

func newTable(title string) *table {
	t := &table{}
	t.writer = tabwriter.NewWriter(&t.text, 0, 0, 2, ' ', 0)
	load, _ := os.ReadFile("/proc/loadavg")
	now, _, _ := strings.Cut(string(load), " ")
	fmt.Fprintf(&t.text, "\n%s (load now %s)\n", title, now)
	fmt.Fprintf(t.writer, "  \truns\tp50\tp95\tgoal\t\n")
	return t
}

func (t *table) row(name string, s sample) { t.line(name, s, "") }

// goal is a row whose percentile should be under a limit.
func (t *table) goal(name string, s sample, percent int, limit time.Duration) {
	t.line(name, s, fmt.Sprintf("p%d under %d ms: %s", percent, limit.Milliseconds(), met(s.p(percent) < limit)))
}

func (t *table) line(name string, s sample, goal string) {
	fmt.Fprintf(t.writer, "  %s\t%d\t%.1f ms\t%.1f ms\t%s\t\n", name, len(s), ms(s.p(50)), ms(s.p(95)), goal)
}

// ratio is a row with a median of ratios; limit 0 is no goal.
func (t *table) ratio(name string, ratio, limit float64) {
	goal := ""
	if limit > 0 {
		goal = fmt.Sprintf("at most %g times: %s", limit, met(ratio <= limit))
	}
	fmt.Fprintf(t.writer, "  %s\t\t%.2f ×\t\t%s\t\n", name, ratio, goal)
}

func (t *table) print() {
	t.writer.Flush()
	fmt.Println(t.text.String())
}

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "missed"
}

func TestSample(t *testing.T) {
	var s sample
	for i := 20; i >= 1; i-- {
		s = append(s, time.Duration(i))
	}
	for percent, want := range map[int]time.Duration{1: 1, 50: 10, 95: 19, 100: 20} {
		if got := s.p(percent); got != want {
			t.Errorf("p%d of 1 to 20 is %d, want %d", percent, got, want)
		}
	}
	if got := (sample)(nil).p(50); got != 0 {
		t.Errorf("p50 of nothing is %d", got)
	}
}

func TestRatioIsOfNeighbours(t *testing.T) {
	s := newSamples(2)
	for i := range 9 { // the machine gets slower while it is measured
		s.add(0, time.Duration(100*(i+1)))
		s.add(1, time.Duration(50*(i+1)))
	}
	if got := s.ratio(0, 1); got != 2 {
		t.Errorf("ratio %v, want 2", got)
	}
	if got := newSamples(2).ratio(0, 1); !math.IsNaN(got) {
		t.Errorf("ratio of nothing is %v", got)
	}
}
