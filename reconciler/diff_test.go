package reconciler

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// TestDiffIsBounded reads diffs that are long, wide, binary and hostile.
func TestDiffIsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(
		"diff --git a/apps/hello/long b/apps/hello/long\nnew file mode 100644\n--- /dev/null\n+++ b/apps/hello/long\n@@ -0,0 +1,900 @@\n")
	for range 900 {
		b.WriteString("+line\n")
	}
	b.WriteString(
		"diff --git a/apps/hello/gone b/apps/hello/gone\ndeleted file mode 100644\n--- a/apps/hello/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n--- a line that begins with two dashes\n")
	b.WriteString(
		"diff --git a/apps/hello/wide b/apps/hello/wide\n--- a/apps/hello/wide\n+++ b/apps/hello/wide\n@@ -1 +1 @@\n-\x1b[31m\xff" + strings.Repeat("x", 1<<20) + "\n+y\n\\ No newline at end of file\n")
	b.WriteString(
		"diff --git a/apps/hello/logo b/apps/hello/logo\nindex 1..2 100644\nBinary files a/apps/hello/logo and b/apps/hello/logo differ\n")
	files, whole, err := readDiff(strings.NewReader(b.String()))
	if err != nil || !whole || len(files) != 4 {
		t.Fatalf("%d files, %t, %v", len(files), whole, err)
	}
	long, gone, wide, logo := files[0], files[1], files[2], files[3]
	if !long.Cut || len(long.Lines) != maxDiffLines || long.State != "added" {
		t.Errorf("long: %d lines, %t, %s", len(long.Lines), long.Cut, long.State)
	}
	if gone.State != "removed" || gone.Path != "apps/hello/gone" ||
		gone.Lines[1].Text != "-- a line that begins with two dashes" {
		t.Errorf("gone: %+v", gone)
	}
	if len(wide.Lines) != 3 || len(wide.Lines[1].Text) > maxDiffWidth+10 || !utf8.ValidString(wide.Lines[1].Text) ||
		strings.ContainsRune(wide.Lines[1].Text, 0x1b) {
		t.Errorf("wide: %d lines, %q", len(wide.Lines), terminal.Cut(wide.Lines[1].Text, 40))
	}
	if logo.Lines[0].Text != "binary file" {
		t.Errorf("logo: %+v", logo)
	}
	many := strings.Repeat("diff --git a/f b/f\n@@ -1 +1 @@\n+x\n", maxDiffFiles+1)
	if files, whole, err = readDiff(strings.NewReader(many)); err != nil || whole || len(files) != maxDiffFiles ||
		!files[maxDiffFiles-1].Cut {
		t.Errorf("many: %d files, %t, %v", len(files), whole, err)
	}
}
