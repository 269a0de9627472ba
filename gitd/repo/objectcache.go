package repo

import (
	"bytes"
	"container/list"
	"errors"
	"io"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
)

// maxCachedObjects bounds the memory of the objects that a store keeps, those of all
// its repositories together.
const maxCachedObjects = 32 << 20

// perObject is about what an object takes besides its content.
const perObject = 240

// taken is about what an object with so much content takes: memory is given out in
// steps, of an eighth at most.
func taken(size int64) int64 { return size + size/16 + perObject }

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
	object keptObject
	size   int64
}

// keptObject is an object in as much memory as it needs. What go-git has read piece by
// piece holds room for more.
type keptObject struct {
	hash    plumbing.Hash
	kind    plumbing.ObjectType
	content []byte
}

var _ plumbing.EncodedObject = keptObject{}

var errKept = errors.New("an object in the cache is not written to")

// The methods of plumbing.EncodedObject.
func (o keptObject) Hash() plumbing.Hash         { return o.hash }
func (o keptObject) Type() plumbing.ObjectType   { return o.kind }
func (o keptObject) SetType(plumbing.ObjectType) {}
func (o keptObject) Size() int64                 { return int64(len(o.content)) }
func (o keptObject) SetSize(int64)               {}
func (o keptObject) Reader() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.content)), nil
}
func (o keptObject) Writer() (io.WriteCloser, error) { return nil, errKept }

// keep copies an object.
func keep(o plumbing.EncodedObject) (kept keptObject, err error) {
	r, err := o.Reader()
	if err != nil {
		return kept, err
	}
	defer r.Close()
	content := make([]byte, o.Size())
	if _, err := io.ReadFull(r, content); err != nil {
		return kept, err
	}
	return keptObject{o.Hash(), o.Type(), content}, nil
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
	size := taken(o.Size())
	if size > c.most/4 {
		return // it would push out what many others use
	}
	kept, err := keep(o)
	if err != nil {
		return // who reads it next says so
	}
	key := objectKey{v.owner, kept.hash}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.at[key]; e != nil {
		c.remove(e)
	}
	c.at[key] = c.order.PushFront(cachedObject{key, kept, size})
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
