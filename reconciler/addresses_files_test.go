package reconciler

import "testing"

func TestMayAddress(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"compose.yaml":           true,
		"parts/db/compose.yml":   true,
		".env":                   true,
		"parts/.env":             true,
		"queue.env":              true,
		"taskdef.json":           true,
		"node_modules/x/y.json":  false,
		"a/b/c/d/e/compose.yaml": false,
		"dump.sql":               false,
	} {
		if mayAddress(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
