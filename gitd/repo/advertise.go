package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Advertised is what git's upload-pack shows of HEAD or of a ref.
type Advertised struct {
	Name     string
	Hash     Hash   // Zero: HEAD, of a branch that is not there yet
	Symbolic string // what HEAD stands for; "" for what is no symbolic ref
	Peeled   Hash   // what a tag is on, in the end; Zero for what is no tag
}

// ErrUnusual is why a repository does not say itself what git's upload-pack shows of it:
// there is something that git treats in a way of its own, or says something about.
var ErrUnusual = errors.New("git has to say what is there")

// Advertise lists HEAD and the refs whose names begin with one of the prefixes, or all when
// there is none, in the order and with what git's upload-pack shows of them: hidden are none,
// for what config hides it hides from pushes. The error may be ErrUnusual.
func (r *Repository) Advertise(ctx context.Context, prefixes []string) ([]Advertised, error) {
	if r.Damage() != nil || !r.Plain() {
		return nil, ErrUnusual
	}
	if len(prefixes) == 0 {
		prefixes = []string{""}
	}
	head, err := r.advertisedHead()
	if err != nil {
		return nil, err
	}
	list, err := r.refsBelow(prefixes)
	if err != nil {
		return nil, fmt.Errorf("list refs of %s: %w", r.name, err)
	}
	if list.symbolic || len(list.problems) > 0 {
		return nil, ErrUnusual
	}

	shown := make([]Advertised, 0, 1+len(list.refs))
	if hasAnyPrefix(head.Name, prefixes) {
		shown = append(shown, head)
	}
	for _, ref := range list.refs {
		if !isRefName(ref.Name) {
			return nil, ErrUnusual
		}
		shown = append(shown, Advertised{Name: ref.Name, Hash: ref.Hash})
	}
	return shown, r.peel(ctx, shown)
}

// Plain reports whether the repository's own configuration is the one that it was made with,
// so that git does with it what it does with any other.
func (r *Repository) Plain() bool {
	have, err := os.ReadFile(filepath.Join(r.dir, "config"))
	return err == nil && bytes.Equal(have, r.store.config())
}

func (r *Repository) advertisedHead() (Advertised, error) {
	head := Advertised{Name: "HEAD"}
	h, symbolic, err := readRef(filepath.Join(r.dir, head.Name))
	if err != nil || symbolic != "" && !isRefName(symbolic) {
		return head, ErrUnusual
	}
	if head.Hash, head.Symbolic = h, symbolic; symbolic == "" {
		return head, nil
	}
	_, further, err := readRef(filepath.Join(r.dir, symbolic))
	if err != nil && !absent(err) || further != "" {
		return head, ErrUnusual
	}
	if head.Hash, err = r.ref(symbolic, 1); err != nil {
		return head, ErrUnusual
	}
	return head, nil
}

// peeled is what is known of the objects that refs point at: each is there, and is a tag on
// another, or (Zero) none. It is true for ever: what a ref points at is not removed.
type peeled struct {
	mu sync.Mutex
	of map[Hash]Hash
}

// maxPeeled is how many objects are remembered besides those of the last list.
const maxPeeled = 1 << 16

// peel says of each what it is on, if it is a tag, and sees that it is there.
func (r *Repository) peel(ctx context.Context, list []Advertised) error {
	unknown := r.peeled.recall(list)
	if len(unknown) == 0 {
		return nil
	}
	var questions bytes.Buffer
	for _, h := range unknown {
		fmt.Fprintf(&questions, "%s^{}\n", h)
	}
	out, err := r.GitIn(ctx, Quarantine{}, questions.Bytes(), "cat-file", "--buffer", "--batch-check=%(objectname)")
	if err != nil {
		return fmt.Errorf("look at what refs of %s point at: %w", r.name, err)
	}
	found, i := make(map[Hash]Hash, len(unknown)), 0
	for line := range strings.Lines(string(out)) {
		on, ok := ParseHash(strings.TrimSuffix(line, "\n"))
		if !ok || i == len(unknown) { // it is missing, or what a tag is on
			return ErrUnusual
		}
		if on == unknown[i] {
			on = Zero
		}
		found[unknown[i]] = on
		i++
	}
	if i < len(unknown) {
		return fmt.Errorf("git cat-file answered %d of %d questions", i, len(unknown))
	}
	r.peeled.remember(list, found)
	return nil
}

// recall fills in what is known, and returns the objects of which nothing is, each once.
func (p *peeled) recall(list []Advertised) (unknown []Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := map[Hash]bool{}
	for i, a := range list {
		on, known := p.of[a.Hash]
		if list[i].Peeled = on; !known && a.Hash != Zero && !asked[a.Hash] {
			asked[a.Hash] = true
			unknown = append(unknown, a.Hash)
		}
	}
	return unknown
}

// remember fills in what was found, and keeps it.
func (p *peeled) remember(list []Advertised, found map[Hash]Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of)+len(found) > maxPeeled+2*len(list) { // most were of refs that have moved on
		p.of = make(map[Hash]Hash, len(list))
	}
	for i, a := range list {
		if on, ok := found[a.Hash]; ok {
			list[i].Peeled = on
		}
		if a.Hash != Zero {
			p.of[a.Hash] = list[i].Peeled
		}
	}
}
