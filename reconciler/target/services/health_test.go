package services

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// TestPausesBetweenChecks: until the first success they are short and grow, or are
// those that are declared; then they are those of the service.
func TestPausesBetweenChecks(t *testing.T) {
	for _, c := range []struct {
		early time.Duration
		want  string
	}{
		{0, "[10ms 30ms 70ms 570ms 5.57s]"},
		{3 * time.Second, "[3s 6s 9s 9.5s 14.5s]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			began := time.Now()
			var at []time.Duration
			h := Health{Path: "/", Check: rollout.Check{Interval: 5 * time.Second, Timeout: time.Second, Passes: 2}}
			check := func(context.Context) error {
				if len(at) < 2 {
					return errors.New("not yet")
				}
				return nil
			}
			watch(ctx, h, c.early, check, func(error) {
				if at = append(at, time.Since(began)); len(at) == 5 {
					cancel()
				}
			})
			if got := fmt.Sprint(at); got != c.want {
				t.Errorf("checked at %s, want %s", got, c.want)
			}
		})
	}
}
