package build_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
)

var cacheMB = flag.Int("cache-mb", 1024, "size of the cache that BenchmarkCacheRestore restores")

// firstCommand measures how long the first command of a build takes, which is that which
// restores its cache.
type firstCommand struct {
	build.Executor
	took *time.Duration
}

func (x firstCommand) Start(ctx context.Context, s build.Sandbox) (build.Session, error) {
	n, err := x.Executor.Start(ctx, s)
	return &timedSession{Session: n, took: x.took}, err
}

type timedSession struct {
	build.Session
	took *time.Duration // nil: the first one was timed
}

func (m *timedSession) Run(ctx context.Context, s build.Script, out io.Writer) (int, error) {
	if m.took == nil {
		return m.Session.Run(ctx, s, out)
	}
	began := time.Now()
	exit, err := m.Session.Run(ctx, s, out)
	*m.took += time.Since(began)
	m.took = nil
	return exit, err
}

// BenchmarkCacheRestore is how fast a buildspec's cache is restored, as a part of how fast tar
// unpacks it; and how fast a whole build with it is.
func BenchmarkCacheRestore(b *testing.B) {
	const spec = `version: 0.2
phases: {build: {commands: ['test -e kept/0 || mv made kept']}}
cache: {key: all, paths: ['kept/**/*']}
`
	kept := b.TempDir()
	var restored, ours, theirs time.Duration
	one := func(files map[string]string, fill func(source string)) {
		of := prepare(b, files)
		of.executor = firstCommand{Executor: of.executor, took: &restored}
		if fill != nil {
			fill(of.req.Source)
		}
		of.req.Cache.Upper = kept
		if of.run(b.Context()); of.result.Status != build.Succeeded {
			b.Fatalf("%s\n%s", of.result.Reason, of.log)
		}
	}
	one(map[string]string{"buildspec.yml": spec}, func(source string) {
		if err := os.Mkdir(filepath.Join(source, "made"), 0o755); err != nil {
			b.Fatal(err)
		}
		data := make([]byte, 1<<20)
		for i := range *cacheMB {
			copy(data, fmt.Sprint(i))
			if err := os.WriteFile(filepath.Join(source, "made", fmt.Sprint(i)), data, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	})
	archives, err := filepath.Glob(filepath.Join(kept, "paths", "*.tar"))
	if err != nil || len(archives) != 1 {
		b.Fatalf("kept are %q, %v", archives, err)
	}

	restored = 0 // there was nothing yet
	for b.Loop() {
		began := time.Now()
		one(map[string]string{"buildspec.yml": spec}, nil)
		ours += time.Since(began)

		tar := exec.Command("tar", "-xf", archives[0])
		tar.Dir = b.TempDir()
		began = time.Now()
		if out, err := tar.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		theirs += time.Since(began)
	}
	b.ReportMetric(float64(*cacheMB)*float64(b.N)/restored.Seconds(), "MiB/s")
	b.ReportMetric(float64(theirs)/float64(restored), "x-tar")
	b.ReportMetric(float64(theirs)/float64(ours), "x-tar/build")
}
