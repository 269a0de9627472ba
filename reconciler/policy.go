package reconciler

import (
	"context"
	"errors"
	"strconv"
)

var errNoRelease = errors.New("there is no such release")

func itoa(n int) string { return strconv.Itoa(n) }

// answer asks the policy in force. Whatever keeps it from answering is a denial.
func (rc *Reconciler) answer(ctx context.Context, s *sight, f facts) *asked {
	return rc.judge(ctx, s.repo, f)
}
