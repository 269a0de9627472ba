package policies

import (
	"errors"
	"sync"
)

// maxCached bounds how many compiled sets a Cache keeps.
const maxCached = 64

// Cache compiles each set of files once. The zero Cache is ready; it is safe for
// concurrent use, and while one set compiles others are answered.
type Cache struct {
	mu      sync.Mutex
	engines map[string]*cached
}

type cached struct {
	once   sync.Once
	engine *Engine
	err    error
}

// Engine returns the Engine of the files that key names, which load reads when
// they have not been compiled yet: equal keys must mean equal files. What New
// says of bad files holds here too; nothing that came with an error is kept.
func (c *Cache) Engine(key string, load func() (map[string][]byte, error)) (*Engine, error) {
	c.mu.Lock()
	e := c.engines[key]
	if e == nil {
		if c.engines == nil || len(c.engines) >= maxCached {
			c.engines = map[string]*cached{}
		}
		e = &cached{err: errors.New("compiling the policies came to no end")} // if it panics
		c.engines[key] = e
	}
	c.mu.Unlock()

	e.once.Do(func() {
		files, err := load()
		if err != nil {
			e.err = err
			return
		}
		e.engine, e.err = New(files)
	})
	if e.err != nil {
		c.mu.Lock()
		if c.engines[key] == e {
			delete(c.engines, key)
		}
		c.mu.Unlock()
	}
	return e.engine, e.err
}
