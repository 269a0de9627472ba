package services

import "testing"

// TestPortsAreGivenOnce asks for more ports than chance would keep apart: that
// the same one comes again among 2000 of 28,000 is as good as certain.
func TestPortsAreGivenOnce(t *testing.T) {
	var f freePorts
	given := map[int]bool{}
	for range 2000 {
		port, err := f.take()
		if err != nil {
			t.Fatal(err)
		}
		if given[port] {
			t.Fatalf("port %d was given twice", port)
		}
		given[port] = true
	}
	for port := range given {
		f.leave(port)
	}
	if len(f.given) != 0 {
		t.Fatalf("%d ports are never free again", len(f.given))
	}
}
