package policies

import (
	"errors"
	"strconv"
	"testing"
)

// TestCacheCompilesOnce: equal keys share an engine; a set that is slow to read
// holds up nobody else; what came with an error is tried again.
func TestCacheCompilesOnce(t *testing.T) {
	var c Cache
	none := func() (map[string][]byte, error) { return nil, nil }
	slow, let := make(chan struct{}), make(chan struct{})
	got := make(chan *Engine)
	for range 2 {
		go func() {
			e, err := c.Engine("slow", func() (map[string][]byte, error) {
				close(slow) // twice would panic
				<-let
				return nil, nil
			})
			if err != nil {
				t.Error(err)
			}
			got <- e
		}()
	}
	<-slow
	if e, err := c.Engine("", none); err != nil || e == nil {
		t.Fatal(e, err)
	}
	close(let)
	if x, y := <-got, <-got; x != y || x == nil {
		t.Errorf("%p and %p", x, y)
	}

	unread := errors.New("cannot be read")
	if e, err := c.Engine("bad", func() (map[string][]byte, error) { return nil, unread }); e != nil || !errors.Is(err, unread) {
		t.Error(e, err)
	}
	broken := map[string][]byte{"policies/a.rego": []byte("package headgate.push\n\ndeny contains if")}
	if e, err := c.Engine("bad", func() (map[string][]byte, error) { return broken, nil }); e == nil || err == nil {
		t.Error("a set that does not compile must deny and say so:", e, err)
	}
	if e, err := c.Engine("bad", none); e == nil || err != nil {
		t.Error(e, err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = c.Engine("panics", func() (map[string][]byte, error) { panic("of the loader") })
	}()
	if e, err := c.Engine("panics", none); e != nil || err == nil {
		t.Error("what broke off must not look compiled:", e, err)
	}
	if e, err := c.Engine("panics", none); e == nil || err != nil {
		t.Error(e, err)
	}
	for i := range 2 * maxCached {
		if _, err := c.Engine(strconv.Itoa(i), none); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.engines) > maxCached {
		t.Errorf("%d are kept", len(c.engines))
	}
}
