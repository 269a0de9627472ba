package function

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
)

// TestAliasMovesUnderRequests: an alias goes to and fro, and the version that it leaves is let
// go of at once. Every request finds one that is there, and it stays as long as the request.
func TestAliasMovesUnderRequests(t *testing.T) {
	t.Parallel()
	a := newApp(New(t.TempDir(), t.TempDir(), nil),
		target.Key{Repository: "shop", Application: "shop", Environment: "production"})
	f := newFunction(a, "hello")
	version := func(number int) *pool {
		p := &pool{function: f, all: map[*instance]time.Time{}}
		p.left.Do(func() {}) // there is no code to give back
		p.version.Number = number
		return p
	}
	f.pools[1], f.latest = version(1), 1
	a.alias.set(rollout.Alias{Version: 1})

	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, choose := range []chooser{a.alias.next, func() int { return f.latest }} {
		for range 2 {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					p, number := f.pick(choose)
					if p == nil {
						t.Errorf("a request is for version %d, which is gone", number)
						return
					}
					p.unpick()
				}
			})
		}
	}
	for i := range 5000 {
		next := 2 - i%2
		f.mu.Lock()
		f.pools[next], f.latest = version(next), next
		f.mu.Unlock()
		a.alias.set(rollout.Alias{Version: next})
		f.keepOnly(func(number int) bool { return number == next })
	}
	close(stop)
	all.Wait()
	if p := f.pools[1]; p.users != 0 {
		t.Errorf("%d are with it still", p.users)
	}
}

// TestEndedWithAnEventOnItsWay: an instance that ends when an event has been handed to it and
// nobody has it yet has not taken it: another one gets it.
func TestEndedWithAnEventOnItsWay(t *testing.T) {
	t.Parallel()
	in := &instance{next: make(chan *invocation), dead: make(chan struct{})}
	i := &invocation{timeout: time.Hour, taken: make(chan struct{}), answer: make(chan answer, 1)}
	invoked := make(chan error, 1)
	go func() {
		_, _, err := in.invoke(t.Context(), i)
		invoked <- err
	}()
	if got := <-in.next; got != i {
		t.Fatal(got)
	}
	close(in.dead)
	if in.takes(i) {
		t.Error("it took an event after its end")
	}
	if err := <-invoked; err != errNotTaken {
		t.Error(err)
	}
}

// TestNobodyAsksAfterTheEnd: a request of a connection that is being closed begins nothing
// once the application has ended, and one that has started is waited for.
func TestNobodyAsksAfterTheEnd(t *testing.T) {
	t.Parallel()
	a := newApp(New(t.TempDir(), t.TempDir(), nil),
		target.Key{Repository: "shop", Application: "shop", Environment: "production"})
	started, goOn := make(chan struct{}), make(chan struct{})
	answered := false
	asked := a.counted(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(started)
		<-goOn
		answered = true
	}))
	go asked.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	<-started
	go func() {
		<-a.life.Done()
		close(goOn)
	}()
	a.end()
	if !answered {
		t.Error("it ended before the request")
	}
	late := httptest.NewRecorder()
	asked.ServeHTTP(late, httptest.NewRequest(http.MethodGet, "/", nil))
	if late.Code != http.StatusServiceUnavailable {
		t.Errorf("it is answered %d after the end", late.Code)
	}
}
