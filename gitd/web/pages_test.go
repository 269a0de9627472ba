package web

import (
	"flag"
	"html"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files of pages anew")

// pagesOf are the addresses of every page the full backend has.
var pagesOf = []string{
	"/", "/?new", "/checkout", "/checkout/queue", "/checkout/changes", "/checkout/changes?state=refused",
	"/checkout/changes?author=jun&before=390", "/checkout/env/production/history?outcome=failed",
	"/checkout/env/production/history?from=77e03b1",
	"/checkout/changes/411", "/checkout/changes/410", "/checkout/changes/409", "/checkout/changes/406",
	"/checkout/changes/415",
	"/checkout/env", "/checkout/env/production", "/checkout/env/production?rollback=182", "/checkout/env/staging",
	"/checkout/env/staging/logs", "/catalogue/env/production", "/catalogue/env/production/logs",
	"/catalogue/env/production/logs?service=worker", "/checkout/promote/production", "/checkout/releases",
	"/checkout/releases?author=jun&before=184",
	"/checkout/releases/186", "/checkout/schedules/nightly", "/checkout/schedules/soak",
	"/checkout/tests", "/checkout/tests?test=basket.TestVoucher", "/scratch/tests",
	"/checkout/changes/411/diff", "/checkout/changes/411/diff?from=2", "/checkout/commits", "/checkout/commits/9f1c2ab",
	"/checkout/compare/51aa0d3/9f1c2ab",
	"/checkout/tree/9f1c2ab", "/checkout/tree/9f1c2ab?path=basket/tax.go", "/checkout/tree/9f1c2ab?path=logo.png",
	"/checkout/env/production/77e03b1", "/checkout/env/production/8c3d0fa", "/checkout/env/production/b90d55e",
	"/checkout/env/production/history",
	"/checkout/decisions", "/checkout/decisions/d-5aa10e3",
	"/search", "/search?q=tax", "/search?q=nothing",
	"/scratch", "/scratch/queue", "/scratch/changes", "/scratch/env", "/scratch/releases", "/ledger/env/production",
	"/ledger/promote/production", "/catalogue/promote/production", "/web/env", "/web/env/production",
	"/web/promote/production", "/hello", "/terminal-agent", "/catalogue", "/headgate", "/headgate/agents",
	"/headgate/forge", "/catalogue/forge", "/ledger/forge",
}

var (
	tokens = regexp.MustCompile(`<input type="hidden" name="token"[^>]*>`)
	shapes = regexp.MustCompile(`<use href="#([a-z]+)"/>`)
	cells  = regexp.MustCompile(`</t[dh]>\s*<t[dh][^>]*>`)
	blocks = regexp.MustCompile(
		`</?(div|p|li|ol|ul|tr|h[1-4]|dt|dl|summary|details|section|article|pre|aside|nav|form|table|label|textarea)\b[^>]*>`)
	inputs  = regexp.MustCompile(`<(input|button|textarea)([^>]*)>`)
	links   = regexp.MustCompile(`<a [^>]*href="([^"]*)"[^>]*>`)
	anyTag  = regexp.MustCompile(`<[^>]*>`)
	spaces  = regexp.MustCompile(`[ \t]+`)
	empties = regexp.MustCompile(`\n\s*\n+`)
)

// textOf is what a page says inside main, with its shapes in brackets and its
// links' addresses in angles: what a reader who sees neither colours nor
// layout has.
func textOf(page string) string {
	_, page, _ = strings.Cut(page, "<main")
	page, _, _ = strings.Cut(page, "</main>")
	page = tokens.ReplaceAllString(page, "") // another one in each session
	_, page, _ = strings.Cut(page, ">")
	page = strings.ReplaceAll(strings.ReplaceAll(page, "\n", " "), "><", "> <")
	page = shapes.ReplaceAllString(page, "[$1] ")
	page = inputs.ReplaceAllString(page, " ⟦$1$2⟧ ")
	page = links.ReplaceAllString(page, "⟨$1⟩")
	page = cells.ReplaceAllString(page, " | ")
	page = blocks.ReplaceAllString(page, "\n")
	page = strings.ReplaceAll(page, "</dd>", "\n")
	page = html.UnescapeString(anyTag.ReplaceAllString(page, ""))
	page = spaces.ReplaceAllString(page, " ")
	page = empties.ReplaceAllString(page, "\n")
	var lines []string
	for line := range strings.Lines(page) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// TestPages compares what each page says with testdata; go test -update
// writes it, and a person reads the difference.
func TestPages(t *testing.T) {
	for _, c := range []struct {
		name, user string
		backend    *backend
		pages      []string
	}{
		{"full", "ada", fullBackend(), pagesOf},
		{"fresh", "ada", emptyBackend(), []string{"/", "/headgate", "/headgate/agents", "/headgate/forge"}},
		{"mirek", "mirek", fullBackend(), []string{"/", "/checkout/promote/production", "/catalogue/forge"}},
		{"damaged", "ada", damagedBackend(), []string{"/", "/archive"}},
		{"nobody", "", emptyBackend(), []string{"/sign-in?code=ABCDE-12345&to=/checkout"}},
	} {
		b := signedIn(t, console(c.backend), c.user)
		for _, path := range c.pages {
			a := b.get(path)
			want := http.StatusOK
			if path == "/archive" {
				want = http.StatusServiceUnavailable
			}
			if a.StatusCode != want {
				t.Errorf("%s: %s\n%s", path, a.Status, a.body)
				continue
			}
			name := strings.Trim(strings.NewReplacer("/", "-", "?", "-", "=", "-", "&", "-").Replace(path), "-")
			file := filepath.Join("testdata", "pages", strings.TrimSuffix(c.name+"-"+name, "-")+".txt")
			got := textOf(a.body)
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				continue
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(golden) {
				t.Errorf("%s differs from %s\ngot:\n%s", path, file, got)
			}
		}
	}
}
