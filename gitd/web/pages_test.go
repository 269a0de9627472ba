package web

import (
	"net/http"
	"testing"
)

// pagesOf are the addresses of every page the full house has.
var pagesOf = []string{
	"/", "/?new", "/checkout", "/checkout/queue", "/checkout/changes", "/checkout/changes?state=refused", "/checkout/changes/411", "/checkout/changes/410", "/checkout/changes/409", "/checkout/changes/406", "/checkout/changes/415",
	"/checkout/env", "/checkout/env/production", "/checkout/env/production?rollback=182", "/checkout/env/staging", "/checkout/promote/production", "/checkout/releases", "/checkout/releases/186",
	"/scratch", "/scratch/queue", "/scratch/changes", "/scratch/env", "/scratch/releases", "/ledger/env/production", "/hello", "/terminal-agent", "/catalogue", "/headgate",
}

func TestPagesAnswer(t *testing.T) {
	b := visitAs(t, console(fullHouse()), "ada")
	for _, path := range pagesOf {
		if a := b.get(path); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s\n%s", path, a.Status, a.body)
		}
	}
}
