package attempts

import (
	"fmt"
	"testing"
	"time"
)

// TestLimiter: so many attempts a minute, of one network and of all.
func TestLimiter(t *testing.T) {
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var all, one Limiter
	for i := range All + 50 {
		if wait := all.Take(fmt.Sprintf("[2001:db8:%x::1]:5", i), noon); (wait > 0) != (i >= All) {
			t.Fatalf("attempt %d from another network: wait %v", i, wait)
		}
	}
	for i := range Each + 1 {
		if wait := one.Take(fmt.Sprintf("[2001:db8::%x]:5", i), noon); (wait > 0) != (i == Each) {
			t.Fatalf("attempt %d from one network: wait %v", i, wait)
		}
	}
	if wait := one.Take("[2001:db8::1]:5", noon.Add(time.Minute)); wait > 0 {
		t.Errorf("a minute later: wait %v", wait)
	}
}
