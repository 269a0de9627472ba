package server

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
)

// What headgate.yaml may name is what this program has: the schema that editors
// read, the checker of pushes and the server know the same targets.
func TestTargetsAreOneList(t *testing.T) {
	t.Parallel()
	var schema struct {
		Defs map[string]struct {
			Properties           map[string]struct{ Enum []string }
			AdditionalProperties struct {
				Properties map[string]struct{ Enum []string }
			}
		} `json:"$defs"`
	}
	if err := json.Unmarshal(headgateyaml.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	published := schema.Defs["environments"].AdditionalProperties.Properties["target"].Enum
	checked := slices.Sorted(maps.Keys(Checker(nil).Targets))
	served := slices.Sorted(maps.Keys(targets(nil, nil, nil)))
	if !slices.Equal(published, checked) || !slices.Equal(checked, served) {
		t.Errorf("schema.json has %q, the checker %q, the server %q", published, checked, served)
	}
}
