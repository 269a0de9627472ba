package target

import "sync"

// AwaitHolder returns when whoever held mu at the call has let it go. After something is
// decided outside of mu, all who decide by it under mu do so by the new state from then on.
func AwaitHolder(mu sync.Locker) {
	mu.Lock()
	defer mu.Unlock()
}
