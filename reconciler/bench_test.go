package reconciler

import (
	"context"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// BenchmarkLandedToTold measures from the move that makes a release to the
// target being told of it: the reconciler's part of landing to converged.
func BenchmarkLandedToTold(b *testing.B) {
	h, err := openHarness(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer h.store.Close()
	h.target.obedient = true
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.rc.Run(ctx) }()
	told, end := h.target.Watch(target.Key{})
	defer end()
	version := 0
	for b.Loop() {
		version++
		b.StopTimer()
		files := helloFiles("x")
		files["deploy/staging/compose.yaml"] += "# " + time.Duration(version).String() + "\n"
		n, err := h.land(ctx, version1("ada", "x"), files)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for h.target.last("staging").Release.Number != n {
			<-told
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
