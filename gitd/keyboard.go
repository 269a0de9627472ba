package gitd

import (
	"io"
	"slices"
	"sync"
)

// keyboard is what is typed on a client's terminal. Until a command takes it, only
// Ctrl-C and Ctrl-D mean something, and what is typed ahead is kept, within bounds.
type keyboard struct {
	mu     sync.Mutex
	moved  sync.Cond
	typed  []byte
	taken  bool
	closed error
}

const maxTyped = 16 << 10

func newKeyboard() *keyboard {
	k := &keyboard{}
	k.moved.L = &k.mu
	return k
}

// listen reads what is typed until that ends. interrupted is called for each Ctrl-C while
// no command has taken the keyboard.
func (k *keyboard) listen(from io.Reader, interrupted func()) {
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		if k.put(buffer[:n]) {
			interrupted()
		}
		if err != nil {
			k.close(err)
			return
		}
	}
}

func (k *keyboard) put(keys []byte) (interrupts bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.taken {
		interrupts = slices.ContainsFunc(keys, func(b byte) bool { return b == 3 || b == 4 })
		keys = keys[:min(len(keys), maxTyped-len(k.typed))] // nobody may ever read it
	}
	for k.taken && len(k.typed) > 0 && len(k.typed)+len(keys) > maxTyped && k.closed == nil {
		k.moved.Wait() // SSH's window bounds the rest
	}
	k.typed = append(k.typed, keys...)
	k.moved.Broadcast()
	return interrupts
}

// take gives the keyboard to a command, which reads it.
func (k *keyboard) take() io.Reader {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken = true
	return k
}

// Read implements io.Reader.
func (k *keyboard) Read(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.typed) == 0 && k.closed == nil {
		k.moved.Wait()
	}
	if len(k.typed) == 0 {
		return 0, k.closed
	}
	n := copy(p, k.typed)
	k.typed = append(k.typed[:0], k.typed[n:]...)
	k.moved.Broadcast()
	return n, nil
}

func (k *keyboard) close(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed == nil {
		k.closed = why
	}
	k.moved.Broadcast()
}
