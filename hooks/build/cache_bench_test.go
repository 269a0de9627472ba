package build_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
)

var cacheMB = flag.Int("cache-mb", 1024, "size of the cache that BenchmarkCacheRestore restores")

// BenchmarkCacheRestore is how fast a buildspec's cache is restored, as a part of how fast tar
// unpacks it.
func BenchmarkCacheRestore(b *testing.B) {
	const spec = `version: 0.2
phases: {build: {commands: ['test -e kept/0 || mv made kept']}}
cache: {key: all, paths: ['kept/**/*']}
`
	kept := b.TempDir()
	one := func(files map[string]string, fill func(source string)) {
		of := prepare(b, files)
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

	var ours, theirs time.Duration
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
	b.ReportMetric(float64(*cacheMB)*float64(b.N)/ours.Seconds(), "MiB/s")
	b.ReportMetric(float64(theirs)/float64(ours), "x-tar")
}
