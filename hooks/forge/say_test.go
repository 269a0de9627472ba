package forge

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// TestCheckOf: what a check says while its change waits, is built and has ended.
func TestCheckOf(t *testing.T) {
	at := time.Date(2026, time.November, 28, 12, 4, 0, 0, time.UTC)
	of := func(events ...change.Event) change.Change {
		s := change.Change{Number: 7, Branch: "main", Revisions: []change.Revision{{Number: 1}},
			Events: []change.Event{{Kind: change.Pushed, Revision: 1}}}
		for _, e := range events {
			e.Revision = 1
			s.Events = append(s.Events, e)
		}
		return s
	}
	lands := show.Estimate{LandsAt: at}
	for name, c := range map[string]struct {
		change change.Change
		entry  *gate.Entry
		want   Check
	}{
		"accepted a moment ago": {of(), nil, Check{State: CheckPending, Text: "queued"}},
		"first in line": {of(), &gate.Entry{State: show.Queued, Place: 1, Estimate: lands},
			Check{State: CheckPending, Text: "queued, ready ~12:04 UTC"}},
		"third in line": {of(), &gate.Entry{State: show.Queued, Place: 3, Estimate: lands},
			Check{State: CheckPending, Text: "queued, number 3 in line, ready ~12:04 UTC"}},
		"nothing known of builds": {of(), &gate.Entry{State: show.Queued, Place: 2},
			Check{State: CheckPending, Text: "queued, number 2 in line"}},
		"building": {of(), &gate.Entry{State: show.Running, With: "main + 6 + 7", Estimate: lands},
			Check{State: CheckPending, Running: true, Text: "building main + 6 + 7, ready ~12:04 UTC"}},
		"about to land": {of(), &gate.Entry{State: show.Running, With: "main + 7", Estimate: show.Estimate{LandsSoon: true}},
			Check{State: CheckPending, Running: true, Text: "building main + 7, ready any moment"}},
		"waits for people": {
			of(change.Event{Kind: change.Waits, Facts: change.Facts{Reason: "an approval is missing"}}),
			&gate.Entry{State: show.Waits, Reason: "an approval is missing"},
			Check{State: CheckPending, Text: "waits: an approval is missing"}},
		"landed": {of(change.Event{Kind: change.Landed}), nil, Check{State: CheckSuccess, Text: "landed on main"}},
		"refused, in short": {
			of(change.Event{Kind: change.Refused, Facts: change.Facts{Reason: "build failed: go test ./... exited 1",
				Short: "build failed"}}), nil,
			Check{State: CheckFailure, Text: "refused: build failed"}},
		"conflict": {of(change.Event{Kind: change.Conflict, Facts: change.Facts{Reason: "conflicts in 1 file"}}), nil,
			Check{State: CheckFailure, Text: "conflict: conflicts in 1 file"}},
		"withdrawn": {of(change.Event{Kind: change.Withdrawn, Facts: change.Facts{Reason: "closed at the forge"}}), nil,
			Check{State: CheckFailure, Text: "withdrawn: closed at the forge"}},
	} {
		if got := checkOf(c.change, c.entry); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestDesiredOfClosedRequest: a request that was closed with a newer commit than its change
// ever had waits for nobody.
func TestDesiredOfClosedRequest(t *testing.T) {
	s := change.Change{Number: 7, Branch: "main", Revisions: []change.Revision{{Number: 1}}, Events: []change.Event{
		{Kind: change.Pushed, Revision: 1},
		{Kind: change.Withdrawn, Revision: 1, Facts: change.Facts{Reason: "the request was closed at the forge"}},
	}}
	p := &pass{requests: &requests{w: &worker{hub: &Hub{}}}, changes: map[int]change.Change{3: s}}
	newer := "1111111111111111111111111111111111111111"
	got := p.desired(3, &remembered{Head: newer})
	if want := "withdrawn: the request was closed at the forge"; got.State != CheckFailure || got.Text != want {
		t.Errorf("%+v, want %q", got, want)
	}
	if got := p.desired(3, &remembered{Head: newer, Open: true}); got.State != CheckPending {
		t.Errorf("an open one: %+v", got)
	}
}

// endsMeanwhile is a forge that answers as the server stops.
type endsMeanwhile struct {
	API
	stop func()
}

func (e endsMeanwhile) Request(context.Context, int) (Request, error) {
	e.stop()
	return Request{Number: 3, State: Closed}, nil
}

// TestLookEndsWithTheServer: what a request came to as the server stopped is no failure.
func TestLookEndsWithTheServer(t *testing.T) {
	kept, err := openMemory(filepath.Join(t.TempDir(), "memory.json"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p := &pass{requests: &requests{w: &worker{}, memory: kept}, api: endsMeanwhile{stop: stop}}
	if err := p.look(ctx, map[int][]int64{3: {1}}, false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
