package forge

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/headgate-cd/headgate/hooks/delivery"
)

// undeliverer is a forge that keeps a log of what it has posted to a webhook (GitHub, for
// some days), and posts nothing again by itself.
type undeliverer interface {
	// Undelivered are the deliveries to the webhook for an address that have failed since a
	// time and did not arrive later, oldest first; and the time until which that is known.
	Undelivered(ctx context.Context, address string, since time.Time) ([]delivery.Delivery, time.Time, error)
}

// Bounds of one look at the log.
const (
	logPage      = 100
	logPages     = 20
	maxRecovered = 200
	// logOverlap is looked at again the next time: the log may be behind.
	logOverlap = 5 * time.Minute
)

// Undelivered implements undeliverer.
func (g *gitHub) Undelivered(ctx context.Context, address string, since time.Time) (list []delivery.Delivery,
	until time.Time, err error) {
	h, err := g.hook(ctx, address)
	if err != nil || h == nil {
		return nil, since, err
	}
	until = since
	arrived := map[string]bool{} // by the name that a delivery keeps when it is sent again
	var failed []*github.HookDelivery
	options := &github.ListCursorOptions{PerPage: logPage}
pages:
	for range logPages {
		page, resp, err := g.client.Repositories.ListHookDeliveries(ctx, g.owner, g.name, h.GetID(), options)
		if err != nil {
			return nil, since, gitHubError(err)
		}
		for _, d := range page {
			at := d.GetDeliveredAt().Time
			if !at.After(since) {
				break pages
			}
			if seen := at.Add(-logOverlap); seen.After(until) {
				until = seen
			}
			switch {
			case d.GetStatusCode()/100 == 2:
				arrived[d.GetGUID()] = true
			case !arrived[d.GetGUID()] && d.GetGUID() != "" && d.GetEvent() != "ping":
				arrived[d.GetGUID()] = true // once
				failed = append(failed, d)
			}
		}
		if resp.Cursor == "" {
			break
		}
		options.Cursor = resp.Cursor
	}

	slices.Reverse(failed)
	for _, d := range failed[max(0, len(failed)-maxRecovered):] {
		one, _, err := g.client.Repositories.GetHookDelivery(ctx, g.owner, g.name, h.GetID(), d.GetID())
		if err != nil {
			return nil, since, gitHubError(err)
		}
		if one.Request == nil || one.Request.RawPayload == nil || len(*one.Request.RawPayload) > MaxBody {
			continue // the poll has found what it told of
		}
		list = append(list, delivery.Delivery{
			ID:     d.GetGUID(),
			Event:  d.GetEvent(),
			Secret: delivery.FromLog,
			Body:   *one.Request.RawPayload,
		})
	}
	return list, until, nil
}

// recover puts what the forge's own log has of failed deliveries into the inbox, as if it
// had come: each was a webhook that was lost.
func (w *worker) recover(ctx context.Context, api API, address string) error {
	forge, ok := api.(undeliverer)
	if !ok {
		return nil
	}
	now := time.Now().UTC().Round(0)
	since := w.lost.read().Until
	if since.IsZero() { // what was posted before there was a connection was not lost
		return w.lost.change(func(k *keptLost) { k.Until = now })
	}
	list, until, err := forge.Undelivered(ctx, address, since)
	if err != nil {
		return fmt.Errorf("read the forge's log of deliveries: %w", err)
	}
	n := int64(0)
	for _, d := range list {
		d.At = now
		receipt, err := w.inbox.Put(d)
		if err != nil {
			return err
		}
		if !receipt.Duplicate {
			n++
		}
	}
	if n > 0 {
		w.hub.Log.Warn("took what the forge could not deliver from its log", "connection", w.name, "deliveries", n)
		w.noteLost(n, now)
		w.mail.Wake()
		w.requests.mail.Wake()
	}
	return w.lost.change(func(k *keptLost) { k.Until = until.UTC() })
}
