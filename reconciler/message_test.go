package reconciler

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// TestMessageReadsBack writes and reads promotions and rollbacks, whatever
// people put into subjects and reasons.
func TestMessageReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 60, -1)
		tree := hashOf("tree", rapid.Int().Draw(t, "tree"))
		p := Promotion{
			Release: rapid.IntRange(1, 1e6).Draw(t, "release"), Source: hashOf("source"), Path: "deploy/staging",
			Artifacts: []string{"web@sha256:aa"}, PromotedFrom: "env/staging@" + hashOf("up").String(),
			Policy: "sha256:p", Decision: "auto d-1234567 " + hashOf("d").String(), ID: "p-123",
			subject: text.Draw(t, "subject"), includesFrom: hashOf("from"),
		}
		why := text.Draw(t, "why")
		a := Approval{User: "ada", Email: "ada@example.com", Tree: tree, At: noon, Via: "ssh", Why: why}
		if rapid.Bool().Draw(t, "rollback") {
			p.RollbackOf, p.Restores, p.By, p.Reason, p.Hold = hashOf("of"), hashOf("restores"), "jun", strings.Join(strings.Fields(strings.ToValidUTF8(text.Draw(t, "reason"), "")), " "), "hello until promoted forward"
			p.includesFrom = repo.Zero
		} else {
			p.Approvals = []Approval{a}
		}
		got, ok := parsePromotion(p.message("hello", "staging"), tree)
		if !ok {
			t.Fatalf("not read back:\n%s", p.message("hello", "staging"))
		}
		if len(got.Approvals) != len(p.Approvals) || len(got.Former) != 0 {
			t.Fatalf("approvals %+v of\n%s", got.Approvals, p.message("hello", "staging"))
		}
		got.Approvals, p.Approvals = nil, nil
		got.subject, p.subject = "", ""
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("wrote %+v\nread  %+v", p, got)
		}
	})
}

// TestOnlyWholeApprovalsCount reads trailers that are nearly approvals.
func TestOnlyWholeApprovalsCount(t *testing.T) {
	tree := hashOf("tree")
	good := "ada <ada@example.com> tree=" + tree.String() + " at=2026-11-24T12:00:00Z via=ssh"
	for value, want := range map[string]bool{
		good:                       true,
		good + ` why="fine by me"`: true,
		strings.Replace(good, "<ada@example.com>", "<>", 1): true,
		good + ` why=fine`:                                            false,
		good + " ":                                                    false,
		good + " tree=" + tree.String():                               false,
		strings.Replace(good, "ada ", "", 1):                          false,
		strings.Replace(good, "tree=", "", 1):                         false,
		strings.Replace(good, tree.String(), tree.String()[:39], 1):   false,
		strings.Replace(good, "2026-11-24T12:00:00Z", "yesterday", 1): false,
		"policy": false,
		"":       false,
	} {
		if _, ok := parseApproval(value); ok != want {
			t.Errorf("%q: %t", value, ok)
		}
	}
	// Of another tree, and a second time by the same user: neither counts.
	message := repo.Message("promote", "", repo.Trailer{Key: "Release", Value: "1"}, repo.Trailer{Key: "Source-Commit", Value: hashOf("s").String()},
		repo.Trailer{Key: "Promotion-Id", Value: "p-1"}, repo.Trailer{Key: "Approved-by", Value: good}, repo.Trailer{Key: "Approved-by", Value: good},
		repo.Trailer{Key: "Approved-by", Value: strings.Replace(strings.Replace(good, "ada ", "jun ", 1), tree.String(), hashOf("other").String(), 1)})
	p, ok := parsePromotion(message, tree)
	if !ok || len(p.Approvals) != 1 || p.Approvals[0].User != "ada" {
		t.Fatalf("%+v, %t", p.Approvals, ok)
	}
}

// FuzzParsePromotion reads messages from anywhere: no panic, and nothing that
// counts without saying which content it is about.
func FuzzParsePromotion(f *testing.F) {
	p := Promotion{Release: 1, Source: hashOf("s"), ID: "p-1", Approvals: []Approval{{User: "ada", Tree: hashOf("tree"), At: noon, Via: "ssh"}}}
	f.Add(p.message("hello", "staging"))
	f.Add("a\n\nApproved-by: ada <a> tree=0 at=x via=y")
	f.Fuzz(func(t *testing.T, message string) {
		p, ok := parsePromotion(message, hashOf("tree"))
		for _, a := range p.Approvals {
			if a.Tree != hashOf("tree") || a.User == "" {
				t.Fatalf("%+v", a)
			}
		}
		if ok && (p.Release < 1 || p.ID == "") {
			t.Fatalf("%+v", p)
		}
	})
}

// TestDiffIsBounded reads diffs that are long, wide, binary and hostile.
func TestDiffIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("diff --git a/apps/hello/long b/apps/hello/long\nnew file mode 100644\n--- /dev/null\n+++ b/apps/hello/long\n@@ -0,0 +1,900 @@\n")
	for range 900 {
		b.WriteString("+line\n")
	}
	b.WriteString("diff --git a/apps/hello/gone b/apps/hello/gone\ndeleted file mode 100644\n--- a/apps/hello/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n--- a line that begins with two dashes\n")
	b.WriteString("diff --git a/apps/hello/wide b/apps/hello/wide\n--- a/apps/hello/wide\n+++ b/apps/hello/wide\n@@ -1 +1 @@\n-\x1b[31m\xff" + strings.Repeat("x", 1<<20) + "\n+y\n\\ No newline at end of file\n")
	b.WriteString("diff --git a/apps/hello/logo b/apps/hello/logo\nindex 1..2 100644\nBinary files a/apps/hello/logo and b/apps/hello/logo differ\n")
	files, whole, err := readDiff(strings.NewReader(b.String()))
	if err != nil || !whole || len(files) != 4 {
		t.Fatalf("%d files, %t, %v", len(files), whole, err)
	}
	long, gone, wide, logo := files[0], files[1], files[2], files[3]
	if !long.Cut || len(long.Lines) != maxDiffLines || long.State != "added" {
		t.Errorf("long: %d lines, %t, %s", len(long.Lines), long.Cut, long.State)
	}
	if gone.State != "removed" || gone.Path != "apps/hello/gone" || gone.Lines[1].Text != "-- a line that begins with two dashes" {
		t.Errorf("gone: %+v", gone)
	}
	if len(wide.Lines) != 3 || len(wide.Lines[1].Text) > maxDiffWidth+10 || !utf8.ValidString(wide.Lines[1].Text) || strings.ContainsRune(wide.Lines[1].Text, 0x1b) {
		t.Errorf("wide: %d lines, %q", len(wide.Lines), terminal.Cut(wide.Lines[1].Text, 40))
	}
	if logo.Lines[0].Text != "binary file" {
		t.Errorf("logo: %+v", logo)
	}
	many := strings.Repeat("diff --git a/f b/f\n@@ -1 +1 @@\n+x\n", maxDiffFiles+1)
	if files, whole, err = readDiff(strings.NewReader(many)); err != nil || whole || len(files) != maxDiffFiles || !files[maxDiffFiles-1].Cut {
		t.Errorf("many: %d files, %t, %v", len(files), whole, err)
	}
}
