package reconciler

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Holder is the environment that has an address of this machine. It has it by its
// branch, which declares it: a restart, or whoever is quicker, changes nothing
// about that. It lets go when what is promoted there does without, or when its
// removal has been promoted.
type Holder struct {
	Repository  string
	Environment string
	Reserved    bool // for the repository, by server.yaml; Environment is ""
}

// HolderFor finds who, outside a repository, has an address that overlaps with one:
// for whom it is reserved, what is declared in an environment, and what will be once
// what has landed is promoted. False means nobody.
func (rc *Reconciler) HolderFor(repository string, a netip.AddrPort) (Holder, bool, error) {
	if of := rc.Access().PortOf(int(a.Port())); of != "" && of != repository {
		return Holder{Repository: of, Reserved: true}, true, nil
	}
	var claimed Holder
	err := rc.eachAddress(true, func(h Holder, addr netip.AddrPort, landed bool) bool {
		if h.Repository == repository || !access.Overlap(a, addr) {
			return true
		}
		if claimed == (Holder{}) || !landed {
			claimed = h
		}
		return landed // one that holds it comes before all that only claim it
	})
	return claimed, claimed != Holder{}, err
}

// HeldPorts are the ports of this machine that environments have, on any address.
func (rc *Reconciler) HeldPorts() (ports []int, err error) {
	err = rc.eachAddress(false, func(_ Holder, addr netip.AddrPort, _ bool) bool {
		ports = append(ports, int(addr.Port()))
		return true
	})
	return ports, err
}

// taken finds who else has one of the addresses that an environment's tree declares.
// Its own repository counts here: of two environments the one that has it goes first.
func (rc *Reconciler) taken(s *snapshot, tree repo.Hash) (a netip.AddrPort, by Holder, err error) {
	wanted, err := rc.addressesIn(s.repo, s.settings.Target, tree)
	if err != nil || len(wanted) == 0 {
		return a, by, err
	}
	for _, w := range wanted {
		if of := rc.Access().PortOf(int(w.Port())); of != "" && of != s.repo.Name() {
			return w, Holder{Repository: of, Reserved: true}, nil
		}
	}
	err = rc.eachAddress(false, func(h Holder, addr netip.AddrPort, _ bool) bool {
		if h.Repository == s.repo.Name() && h.Environment == s.environment {
			return true
		}
		for _, w := range wanted {
			if access.Overlap(w, addr) {
				a, by = w, h
				return false
			}
		}
		return true
	})
	return a, by, err
}

// eachAddress yields every address that is declared in an environment's branch and,
// when landed is asked for, those of files that have landed, until yield says false.
// A repository that cannot be read keeps nobody else from theirs.
func (rc *Reconciler) eachAddress(landed bool, yield func(h Holder, a netip.AddrPort, landed bool) bool) error {
	names, err := rc.Store.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		goOn, err := rc.addressesOf(name, landed, yield)
		if err != nil {
			rc.log().Warn("cannot say which addresses a repository's environments have", "repo", name, "err", err)
		}
		if !goOn {
			return nil
		}
	}
	return nil
}

func (rc *Reconciler) addressesOf(name string, landed bool,
	yield func(h Holder, a netip.AddrPort, landed bool) bool) (goOn bool, err error) {
	r, err := rc.Store.Repository(name)
	if err != nil {
		return true, err
	}
	all, err := rc.environments(r)
	if err != nil {
		return true, err
	}
	_, tip, err := rc.declaration(r)
	if err != nil {
		return true, err
	}
	for _, e := range all {
		h := Holder{Repository: name, Environment: e.Name}
		at, err := r.Ref(record.EnvironmentRef(e.Name))
		if err != nil {
			return true, err
		}
		if at != repo.Zero {
			tree, err := r.TreeOf(at)
			if err != nil {
				return true, err
			}
			held, err := rc.addressesIn(r, e.Target, tree)
			if err != nil {
				return true, err
			}
			for _, a := range held {
				if !yield(h, a, false) {
					return false, nil
				}
			}
		}
		if !landed || tip == repo.Zero {
			continue
		}
		claimed, err := rc.addressesLanded(r, e, tip)
		if err != nil {
			return true, err
		}
		for _, a := range claimed {
			if !yield(h, a, true) {
				return false, nil
			}
		}
	}
	return true, nil
}

// addressesIn are those that the applications in an environment's tree declare.
func (rc *Reconciler) addressesIn(r *repo.Repository, kind string, tree repo.Hash) ([]netip.AddrPort, error) {
	return rc.addressesAt(r, kind, tree, func() (all []map[string][]byte, err error) {
		names, err := record.Applications(r, tree)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			files, err := record.Files(r, tree, name)
			if err != nil {
				return nil, err
			}
			all = append(all, files)
		}
		return all, nil
	})
}

// addressesLanded are those that an environment's directory in a landed commit
// declares.
func (rc *Reconciler) addressesLanded(r *repo.Repository, e headgateyaml.Environment,
	commit repo.Hash) ([]netip.AddrPort, error) {
	tree, err := r.TreeOf(commit)
	if err != nil {
		return nil, err
	}
	dir, err := r.Lookup(tree, e.Path)
	if errors.Is(err, repo.ErrNoFile) || err == nil && dir.Mode != filemode.Dir {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return rc.addressesAt(r, e.Target, dir.Hash, func() ([]map[string][]byte, error) {
		files, err := r.Files(dir.Hash, mayAddress)
		return []map[string][]byte{files}, err
	})
}

// mayAddress reports whether a file of an environment's directory may have a part in
// which addresses it asks for: those that declare it, what they include, and variables.
// What is mounted and the like is left unread, for this is asked with every push.
func mayAddress(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".env":
		return strings.Count(name, "/") < 4
	case ".json":
		return !strings.Contains(name, "/")
	}
	return false
}

// addressesAt remembers what a tree asks for: every push looks at all of them.
func (rc *Reconciler) addressesAt(r *repo.Repository, kind string, tree repo.Hash,
	read func() ([]map[string][]byte, error)) ([]netip.AddrPort, error) {
	addresser, ok := rc.Targets[kind].(target.Addresser)
	if !ok {
		return nil, nil
	}
	key := r.Name() + " " + kind + " " + tree.String()
	found, known := rc.addressed.get(key)
	if !known {
		all, err := read()
		if err != nil {
			return nil, fmt.Errorf("read the addresses of %s: %w", r.Name(), err)
		}
		for _, files := range all {
			for _, a := range addresser.Addresses(files) {
				if a.Address.Port() != 0 {
					found = append(found, a.Address)
				}
			}
		}
		rc.addressed.put(key, found)
	}
	config := rc.Access()
	resolved := make([]netip.AddrPort, len(found))
	for i, a := range found {
		resolved[i] = config.Resolve(a)
	}
	return resolved, nil
}

// declare moves an environment's branch to a commit whose tree gives it no address
// that another has: the question and the move are one step for all environments.
func (w *worker) declare(ctx context.Context, s *snapshot, tree, commit repo.Hash) error {
	w.rc.declaring.Lock()
	defer w.rc.declaring.Unlock()
	if now, err := w.rc.successor(w.repo, w.environment); err != nil {
		return err
	} else if now != s.successor || s.renaming != "" {
		return repo.ErrMoved // it got another name meanwhile, or is about to
	}
	if a, by, err := w.rc.taken(s, tree); err != nil {
		return err
	} else if by != (Holder{}) {
		return &addressTaken{s.repo.Name(), a, by}
	}
	if err := w.repo.Move(ctx, record.EnvironmentRef(w.environment), s.tip(), commit); err != nil {
		return err
	}
	if s.Declared == nil {
		return nil
	}
	had, err := w.rc.addressesIn(s.repo, s.settings.Target, s.Declared.Tree)
	has, herr := w.rc.addressesIn(s.repo, s.settings.Target, tree)
	if err != nil || herr != nil ||
		slices.ContainsFunc(had, func(a netip.AddrPort) bool { return !slices.Contains(has, a) }) {
		w.rc.Wake("") // somebody may have waited for it
	}
	return nil
}

// addressTaken is that an environment was not moved: another one has its address.
type addressTaken struct {
	repository string // that asks
	address    netip.AddrPort
	by         Holder
}

// Error names no other repository: not everybody who reads it may know of that.
func (t *addressTaken) Error() string {
	switch {
	case t.by.Repository != t.repository && t.by.Reserved:
		return fmt.Sprintf("%s is reserved for another repository; declare another port", t.address)
	case t.by.Repository != t.repository:
		return fmt.Sprintf("%s is held by an environment of another repository; declare another port", t.address)
	}
	return fmt.Sprintf("%s is held by %s until what is declared there does without", t.address, t.by.Environment)
}
