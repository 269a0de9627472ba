package server

import (
	"slices"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

// TestSecretUses: of each secret of a webhook it is known whether anything is signed with it
// still.
func TestSecretUses(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	entries := []delivery.Entry{ // newest first
		{SecretName: "new", At: noon},
		{Secret: delivery.FromLog, At: noon.Add(-time.Minute)},
		{SecretName: "new", At: noon.Add(-time.Hour)},
		{At: noon.Add(-2 * time.Hour)}, // of an earlier version
		{SecretName: "gone", At: noon.Add(-3 * time.Hour)},
	}
	want := []show.SecretUse{{Name: "new", Used: 2, Last: noon}, {Name: "old"}}
	if got := secretUses([]string{"new", "old"}, entries); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
