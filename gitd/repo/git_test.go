package repo

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every line of the fixed configuration counts for a git child, whatever stands
// in the repository's own file.
func TestFixedConfigurationCounts(t *testing.T) {
	_, r := testStore(t)
	f, err := os.OpenFile(filepath.Join(r.Dir(), "config"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range config {
		section, key, _ := strings.Cut(kv[0], ".")
		if sub, name, ok := strings.Cut(key, "."); ok {
			section, key = section+` "`+sub+`"`, name
		}
		if _, err := f.WriteString("[" + section + "]\n\t" + key + " = 1\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, kv := range config {
		out, err := r.Git(t.Context(), "config", "--get-all", kv[0])
		if err != nil {
			t.Fatal(err)
		}
		values := strings.Split(strings.TrimSpace(string(out)), "\n")
		if kv[0] == "receive.hideRefs" || kv[0] == "safe.directory" || kv[0] == "receive.procReceiveRefs" { // lists
			if !slices.Contains(values, kv[1]) {
				t.Errorf("%s holds %q, without %q", kv[0], values, kv[1])
			}
			continue
		}
		if got := values[len(values)-1]; got != kv[1] {
			t.Errorf("%s is %q, want %q", kv[0], got, kv[1])
		}
	}
}
