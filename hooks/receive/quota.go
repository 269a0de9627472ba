package receive

import (
	"fmt"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// quotaTime is the time in which a user may bring what their quota says.
const quotaTime = 24 * time.Hour

// brought remembers how many bytes users have brought lately, since the server was
// started. The zero value is ready.
type brought struct {
	mu sync.Mutex
	by map[string][]bytesAt // oldest first
}

type bytesAt struct {
	at time.Time
	n  int64
}

// add counts n bytes by user unless that is over most; then full is when enough of
// the others will be too old to count, or zero when n alone is over it. undo takes
// them back.
func (b *brought) add(user string, n, most int64, now time.Time) (has int64, full time.Time, undo func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lately := b.by[user]
	for len(lately) > 0 && !lately[0].at.Add(quotaTime).After(now) {
		lately = lately[1:]
	}
	for _, p := range lately {
		has += p.n
	}
	if has+n > most {
		left := has
		for _, p := range lately {
			if left -= p.n; left+n <= most {
				return has, p.at.Add(quotaTime), nil
			}
		}
		return has, time.Time{}, nil
	}
	if b.by == nil {
		b.by = map[string][]bytesAt{}
	}
	b.by[user] = append(lately, bytesAt{now, n})
	return has, time.Time{}, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, p := range b.by[user] {
			if p.at.Equal(now) && p.n == n {
				b.by[user][i].n = 0
				return
			}
		}
	}
}

// overQuota refuses what would make a repository larger than it may be, or is more
// than its pusher may bring in a day. A push that brings nothing, such as one that
// deletes, is no matter of that.
func (v *validation) overQuota() (*rejection, error) {
	declared, _ := v.access.Repository(v.r.Name())
	user, _ := v.access.User(v.push.actor.User)
	if declared.Quota == 0 && user.Quota == 0 || v.quarantine.Objects == "" {
		return nil, nil
	}
	brings, err := repo.BytesIn(v.quarantine.Objects)
	if err != nil || brings == 0 {
		return nil, err
	}
	if declared.Quota > 0 {
		holds, err := v.r.Bytes() // with what the push brings: its quarantine is there
		if err != nil {
			return nil, err
		}
		if name := v.r.Name(); holds > declared.Quota {
			return reject(fmt.Sprintf("%s would hold %s of objects, and its quota is %s", name, show.Bytes(holds),
				show.Bytes(declared.Quota)),
				fmt.Sprintf("push less, or ask an administrator for another quota of %s in server.yaml", name)), nil
		}
	}
	if user.Quota == 0 {
		return nil, nil
	}
	now := v.l.Now()
	has, full, undo := v.l.brought.add(user.Name, brings, user.Quota, now)
	if undo != nil {
		v.undo = undo
		return nil, nil
	}
	when := "push less"
	if !full.IsZero() {
		when = "push again after " + full.UTC().Format("2006-01-02 15:04 UTC")
	}
	return reject(
		fmt.Sprintf("%s has brought %s in the last 24 hours, this push brings %s, and the quota of %s is %s a day",
			user.Name, show.Bytes(has), show.Bytes(brings), user.Name, show.Bytes(user.Quota)),
		fmt.Sprintf("%s, or ask an administrator for another quota of %s in server.yaml", when, user.Name)), nil
}
