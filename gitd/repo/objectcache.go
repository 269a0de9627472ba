package repo

import (
	"container/list"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
)

// maxCachedObjects bounds the objects that a store keeps in memory, those of all
// its repositories together.
const maxCachedObjects = 48 << 20

// perObject is about what an object takes besides its content.
const perObject = 512

// objectCache keeps the objects that were used last. An object belongs to the
// repository that it was read from: no other is told that it exists.
type objectCache struct {
	most int64

	mu    sync.Mutex
	size  int64
	order *list.List // of cachedObject, the one used last in front
	at    map[objectKey]*list.Element
}

type objectKey struct {
	owner *Repository
	hash  plumbing.Hash
}

type cachedObject struct {
	key    objectKey
	object plumbing.EncodedObject
	size   int64
}

func newObjectCache(most int64) *objectCache {
	return &objectCache{most: most, order: list.New(), at: map[objectKey]*list.Element{}}
}

func (c *objectCache) remove(e *list.Element) {
	o, _ := c.order.Remove(e).(cachedObject)
	delete(c.at, o.key)
	c.size -= o.size
}

// cachedObjects is what one repository has in the cache of its store.
type cachedObjects struct {
	cache *objectCache
	owner *Repository
}

var _ cache.Object = cachedObjects{}

// Put implements cache.Object.
func (v cachedObjects) Put(o plumbing.EncodedObject) {
	c := v.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	key := objectKey{v.owner, o.Hash()}
	if e := c.at[key]; e != nil {
		c.remove(e)
	}
	size := o.Size() + perObject
	if size > c.most/4 {
		return // it would push out what many others use
	}
	c.at[key] = c.order.PushFront(cachedObject{key, o, size})
	for c.size += size; c.size > c.most; {
		c.remove(c.order.Back())
	}
}

// Get implements cache.Object.
func (v cachedObjects) Get(hash plumbing.Hash) (plumbing.EncodedObject, bool) {
	c := v.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[objectKey{v.owner, hash}]
	if e == nil {
		return nil, false
	}
	c.order.MoveToFront(e)
	o, _ := e.Value.(cachedObject)
	return o.object, true
}

// Clear implements cache.Object.
func (v cachedObjects) Clear() {
	c := v.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.at {
		if key.owner == v.owner {
			c.remove(e)
		}
	}
}
