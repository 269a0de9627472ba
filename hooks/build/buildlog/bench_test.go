package buildlog

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// BenchmarkFollowed is how fast a build's output reaches the disk with fifty who follow it,
// and one who never reads.
func BenchmarkFollowed(b *testing.B) {
	const followers, size = 50, 32 << 20
	line := append(bytes.Repeat([]byte("=== RUN   TestSomething/of_a_build_that_prints_much "), 2), '\n')
	chunk := bytes.Repeat(line, 32<<10/len(line))
	for b.Loop() {
		d, err := OpenDir(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		w, err := d.Create("long", nil)
		if err != nil {
			b.Fatal(err)
		}
		var following sync.WaitGroup
		asleep := make(chan struct{})
		for i := range followers + 1 {
			following.Go(func() {
				for _, err := range d.Follow(b.Context(), "long", true) {
					if err != nil {
						b.Error(err)
					}
					if i == followers { // the slowest that there can be
						<-asleep
					}
				}
			})
		}
		began := time.Now()
		out := w.Output(w.Begin("build", "make"))
		for written := 0; written < size; written += len(chunk) {
			if _, err := out.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		out.Close()
		took := time.Since(began)
		if _, err := w.Finish("SUCCEEDED"); err != nil {
			b.Fatal(err)
		}
		close(asleep)
		following.Wait()
		b.ReportMetric(size/1e6/took.Seconds(), "MB/s")
	}
}
