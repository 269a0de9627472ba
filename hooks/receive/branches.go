package receive

import (
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// branches knows which branches of a repository are gated, by what has landed:
// never by what is being pushed.
type branches struct {
	r       *repo.Repository
	on      bool // the repository is gated
	empty   bool // nothing has been pushed yet
	headRef string
	head    repo.Hash // tip of the branch that HEAD names, Zero if none
	trusted *headgateyaml.File
	tips    map[string]repo.Hash // of branches, by short name
	own     map[string]*headgateyaml.File
}

func readBranches(r *repo.Repository, a *access.Config) (*branches, error) {
	b := &branches{r: r, on: a.Gated(r.Name()), empty: true, tips: map[string]repo.Hash{},
		own: map[string]*headgateyaml.File{}}
	refs, err := r.Refs(headsPrefix)
	if err != nil {
		return nil, err
	}
	if b.headRef, err = r.Head(); err != nil {
		return nil, err
	}
	for _, ref := range refs {
		if strings.HasPrefix(ref.Name, environmentPrefix) || strings.HasPrefix(ref.Name, promotePrefix) {
			continue
		}
		b.empty = false
		b.tips[strings.TrimPrefix(ref.Name, headsPrefix)] = ref.Hash
		if ref.Name == b.headRef {
			b.head = ref.Hash
		}
	}
	if b.head == repo.Zero {
		// A first push decides for itself, and brings any history: only where nothing was.
		if d := r.Inspect(); d != nil {
			return nil, d
		}
	}
	b.trusted = headgateyaml.Default()
	if b.head != repo.Zero {
		if f, err := b.read(b.head); err == nil {
			b.trusted = f
		}
	}
	return b, nil
}

// read is the headgate.yaml of a commit that has landed. A broken one, which
// can only have come while the repository was not gated, is an error.
func (b *branches) read(commit repo.Hash) (*headgateyaml.File, error) {
	tree, err := b.r.TreeOf(commit)
	if err != nil {
		return nil, err
	}
	return headgateyaml.In(b.r.FilesOf(tree).ReadFile)
}

// gated reports whether a branch moves only through the gate: when the branch
// that HEAD names says so, or the branch itself does. Either is enough, so that
// no branch can be freed by a push to another one.
func (b *branches) gated(name string) bool {
	if !b.on {
		return false
	}
	return b.trusted.Gates(name) || b.settings(name).Gates(name) && b.tips[name] != repo.Zero
}

// settings are what decides about a change to a branch: its own headgate.yaml,
// as it landed there. A branch that does not exist yet has the trusted one.
func (b *branches) settings(name string) *headgateyaml.File {
	tip := b.tips[name]
	if tip == repo.Zero {
		return b.trusted
	}
	if f := b.own[name]; f != nil {
		return f
	}
	f, err := b.read(tip)
	if err != nil {
		f = b.trusted
	}
	b.own[name] = f
	return f
}

// policyCommit is the commit whose policies are asked about a push: the tip of the
// gated branch (short name), or else of the branch that HEAD names. Policies
// count where the gate let them in: in a repository that is not gated, and
// before the first landing, the server's own count alone.
func (b *branches) policyCommit(name string) repo.Hash {
	if !b.on {
		return repo.Zero
	}
	if tip := b.tips[name]; name != "" && tip != repo.Zero {
		return tip
	}
	return b.head
}
