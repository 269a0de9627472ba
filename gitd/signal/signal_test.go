package signal_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/signal"
)

// deadline is a last resort: a lost wake-up would block for ever.
const deadline = 5 * time.Minute

// FuzzTopic runs operations on a Topic and on a naive model of it: each
// subscriber has a flag that says whether a token must be there.
func FuzzTopic(f *testing.F) {
	f.Add([]byte("010200111030312021121031"))
	f.Add([]byte("00021110303120203010"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, script []byte) {
		type subscriber struct {
			key      string
			notified <-chan struct{}
			stop     func()
			token    bool
			stopped  bool
		}
		var topic signal.Topic
		var all []*subscriber
		keys := []string{signal.All, "a", "b", "c"}

		for i := 0; i+1 < len(script); i += 2 {
			arg := int(script[i+1])
			key := keys[arg%len(keys)]
			switch script[i] % 4 {
			case 0:
				s := &subscriber{key: key}
				s.notified, s.stop = topic.Watch(key)
				all = append(all, s)
			case 1:
				topic.Notify(key)
				for _, s := range all {
					if !s.stopped && (key == signal.All || s.key == signal.All || s.key == key) {
						s.token = true
					}
				}
			case 2:
				if len(all) > 0 {
					s := all[arg%len(all)]
					s.stop()
					s.stopped = true
				}
			case 3:
				if len(all) > 0 {
					s := all[arg%len(all)]
					if got := taken(s.notified, s.stopped); got != s.token {
						t.Fatalf("step %d: token for a watcher of %q: %v, want %v", i/2, s.key, got, s.token)
					}
					s.token = false
				}
			}
		}
		for i, s := range all {
			if got := taken(s.notified, s.stopped); got != s.token {
				t.Fatalf("at the end: token for watcher %d of %q: %v, want %v", i, s.key, got, s.token)
			}
			s.stop()
			if _, open := <-s.notified; open {
				t.Fatalf("watcher %d of %q: the channel holds a second token, or is not closed", i, s.key)
			}
		}
	})
}

// taken takes a token if there is one.
func taken(c <-chan struct{}, closed bool) bool {
	select {
	case _, ok := <-c:
		return ok
	default:
		if closed {
			panic("a stopped watcher's channel is not closed")
		}
		return false
	}
}

// TestTopicLosesNoWakeUp: whoever watches, then looks, then sleeps, sees the
// last state, however moves and looks fall together.
func TestTopicLosesNoWakeUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()

	const writers, rounds = 4, 500
	keys := []string{"a", "b"}
	var topic signal.Topic
	state := map[string]*atomic.Int64{"a": {}, "b": {}}
	total := func(key string) (n int64) {
		if key != signal.All {
			return state[key].Load()
		}
		for _, v := range state {
			n += v.Load()
		}
		return n
	}

	var wg sync.WaitGroup
	for _, key := range []string{"a", "b", signal.All, "a", "b", signal.All} {
		want := int64(writers * rounds)
		if key == signal.All {
			want *= int64(len(keys))
		}
		notified, stop := topic.Watch(key)
		wg.Go(func() {
			defer stop()
			for total(key) < want {
				select {
				case <-notified:
				case <-ctx.Done():
					t.Errorf("a watcher of %q sleeps at %d of %d", key, total(key), want)
					return
				}
			}
		})
	}
	for _, key := range keys {
		for range writers {
			wg.Go(func() {
				for range rounds {
					state[key].Add(1)
					topic.Notify(key)
				}
			})
		}
	}
	// Others come and go meanwhile, and are woken for all keys.
	wg.Go(func() {
		for i := range rounds {
			notified, stop := topic.Watch(keys[i%len(keys)])
			topic.Notify(signal.All)
			<-notified
			stop()
			stop()
		}
	})
	wg.Wait()
}

func TestMailboxKeepsOrderAndLosesNoWakeUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()

	const writers, rounds = 4, 500
	type message struct{ writer, number int }
	var box signal.Mailbox[message]

	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				box.Post(message{w, i})
				if i%7 == 0 {
					box.Wake()
				}
			}
		})
	}
	next := make([]int, writers)
	for received := 0; received < writers*rounds; {
		select {
		case <-box.C():
		case <-ctx.Done():
			t.Fatalf("the loop sleeps with %d of %d messages received", received, writers*rounds)
		}
		for _, m := range box.Drain() {
			if m.number != next[m.writer] {
				t.Fatalf("writer %d: message %d came when %d was due", m.writer, m.number, next[m.writer])
			}
			next[m.writer]++
			received++
		}
	}
	wg.Wait()
	if !box.Empty() {
		t.Error("more messages than were posted")
	}
}

// FuzzMailbox compares a Mailbox with a slice and a flag.
func FuzzMailbox(f *testing.F) {
	f.Add([]byte("002130233"))
	f.Add([]byte("1133"))
	f.Fuzz(func(t *testing.T, script []byte) {
		var box signal.Mailbox[int]
		var queue []int
		token := false
		for i, op := range script {
			switch op % 4 {
			case 0:
				box.Post(i)
				queue, token = append(queue, i), true
			case 1:
				box.Wake()
				token = true
			case 2:
				if got := box.Drain(); !slices.Equal(got, queue) {
					t.Fatalf("step %d: drained %v, want %v", i, got, queue)
				}
				queue = nil
			case 3:
				if got := taken(box.C(), false); got != token {
					t.Fatalf("step %d: token %v, want %v", i, got, token)
				}
				token = false
			}
			if box.Empty() != (len(queue) == 0) {
				t.Fatalf("step %d: Empty is %v with %d messages", i, box.Empty(), len(queue))
			}
		}
	})
}

func ExampleMailbox() {
	var box signal.Mailbox[func()]
	box.Post(func() { fmt.Println("built") })
	box.Post(func() { fmt.Println("landed") })

	<-box.C() // in a loop, one case of a select
	for _, f := range box.Drain() {
		f()
	}
	// Output:
	// built
	// landed
}
