package repo

import "testing"

func TestHeadAndSyncObjects(t *testing.T) {
	_, r := testStore(t)
	if head, err := r.Head(); err != nil || head != "refs/heads/main" {
		t.Fatalf("%q, %v", head, err)
	}
	commit(t, r, "base", map[string]string{"f": "x"})
	if err := r.SyncObjects([]string{".", "pack", "info", "00"}); err != nil {
		t.Fatal(err)
	}
	if err := r.SyncObjects([]string{"../.."}); err == nil {
		t.Fatal("a directory outside was synced")
	}
}
