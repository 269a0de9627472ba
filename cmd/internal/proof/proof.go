// Package proof is what proves to an agent on another machine that it is to run what its
// server declares: Collect, for the server, and Verify, for the agent, which believes
// nothing but the server's signing key, by a fingerprint that it was told on enrolling.
//
// What is proven is the whole way: the environment's commit is signed, of this environment
// of this application, and says its place; it declares these files and these artifacts,
// byte for byte those of a release; and that release's tag and provenance are signed, and
// are about this repository, its commit and its artifacts' digests.
//
// What a server can do without the key is to declare nothing new, to pause, and to take
// away what runs.
package proof

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// verified is for releases that have been.
func verified(release.Release) error { return nil }

// ReleaseOf is a release as the reconciler knows it, and how it is verified.
func ReleaseOf(rel release.Release, verify func(release.Release) error) record.Release {
	to := record.Release{
		Number:  rel.Number,
		Commit:  rel.Commit,
		By:      rel.Manifest.By,
		Authors: rel.AlsoBy,
		Subject: rel.Subject,
		At:      rel.Manifest.At,
		Verify:  func() error { return verify(rel) },
	}
	if len(rel.Changes) > 0 {
		to.Change = rel.Changes[0]
	}
	for _, a := range rel.Artifacts {
		to.Artifacts = append(to.Artifacts,
			record.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size, Image: a.Type == artifact.Image})
	}
	return to
}

// Collect finds what proves a declared state. What is missing of it is left out, and whoever
// verifies it says so.
func Collect(store *repo.Store, d target.Declared) (p agent.Proof, err error) {
	r, err := store.Repository(d.Repository)
	if err != nil {
		return p, err
	}
	own, err := store.Repository(access.Own)
	if err != nil {
		return p, err
	}
	c := collection{seen: map[repo.Hash]bool{}}
	p.Release, err = c.state(r, d)
	if err == nil && d.Fallback != nil {
		p.Fallback, err = c.state(r, *d.Fallback)
	}
	if err == nil {
		p.Keys, err = c.keys(own)
	}
	if err == nil {
		p.RepositoryKeys, err = c.keys(r)
	}
	p.Objects = c.objects
	return p, err
}

type collection struct {
	objects []agent.Object
	seen    map[repo.Hash]bool
}

// add adds an object, and reports whether it is there.
func (c *collection) add(r *repo.Repository, h repo.Hash) (bool, error) {
	if c.seen[h] {
		return true, nil
	}
	kind, content, err := r.Raw(h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c.seen[h] = true
	c.objects = append(c.objects, agent.Object{Kind: kind, Content: content})
	return true, nil
}

// state adds what proves one declared state, and returns the tag of its release.
func (c *collection) state(r *repo.Repository, d target.Declared) (tag string, err error) {
	at, ok := repo.ParseHash(d.Commit)
	if !ok {
		return "", nil
	}
	if there, err := c.add(r, at); err != nil || !there {
		return "", err
	}
	commit, err := r.Commit(at)
	if err != nil {
		return "", err
	}
	if err := c.down(r, commit.TreeHash, record.ApplicationPath(d.Application)); err != nil {
		return "", err
	}
	p, _ := record.ParsePromotion(commit.Message, commit.TreeHash) // what does not read is refused
	rel, err := release.Of(r).Read(p.Release)
	if errors.Is(err, release.ErrNone) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if _, err := c.add(r, rel.Tag); err != nil {
		return "", err
	}
	if there, err := c.add(r, rel.Commit); err != nil || !there {
		return rel.Tag.String(), err
	}
	source, err := r.TreeOf(rel.Commit)
	if err != nil {
		return "", err
	}
	return rel.Tag.String(), c.down(r, source, p.Path)
}

// down adds the trees on the way to a directory, all those below it, and its release.json:
// the other files are declared.
func (c *collection) down(r *repo.Repository, tree repo.Hash, dir string) error {
	for at := "."; at != dir; {
		e, err := r.Lookup(tree, at)
		if err != nil {
			return missing(err)
		}
		if _, err := c.add(r, e.Hash); err != nil {
			return err
		}
		rest := dir
		if at != "." {
			rest = dir[len(at)+1:]
		}
		first, _, _ := bytes.Cut([]byte(rest), []byte("/"))
		at = path.Join(at, string(first))
	}
	e, err := r.Lookup(tree, dir)
	if err != nil || e.Mode != filemode.Dir {
		return missing(err)
	}
	return c.whole(r, e.Hash, true)
}

// missing is an error but for that something is not there.
func missing(err error) error {
	if errors.Is(err, repo.ErrNoFile) || errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil
	}
	return err
}

// whole adds a tree and those below it.
func (c *collection) whole(r *repo.Repository, tree repo.Hash, top bool) error {
	if there, err := c.add(r, tree); err != nil || !there {
		return err
	}
	entries, err := r.Tree(tree)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case e.Mode == filemode.Dir:
			err = c.whole(r, e.Hash, false)
		case top && e.Name == record.ManifestFile:
			_, err = c.add(r, e.Hash)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keys adds the record of the keys that have signed a repository.
func (c *collection) keys(r *repo.Repository) (newest string, err error) {
	all, err := r.Rotations()
	if err != nil || len(all) == 0 {
		return "", err
	}
	for _, rot := range all {
		tree, err := r.TreeOf(rot.Commit)
		if err != nil {
			return "", err
		}
		if _, err := c.add(r, rot.Commit); err != nil {
			return "", err
		}
		if _, err := c.add(r, tree); err != nil {
			return "", err
		}
		entries, err := r.Tree(tree)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if _, err := c.add(r, e.Hash); err != nil {
				return "", err
			}
		}
	}
	return all[0].Commit.String(), nil
}

// Verify proves a declared state, or says why it is not proven. known are the keys that
// counted until now, and what it returns are those from now on: another key counts once the
// one before it has signed for it. fence is the newest place that was acted on, -1 for none.
// A fallback that is not proven is taken out of d: it is of use, and not needed.
func Verify(known agent.Keys, d *target.Declared, p agent.Proof, fence int) (agent.Keys, error) {
	objects := make([]repo.Object, 0, len(p.Objects))
	for _, o := range p.Objects {
		kind, err := plumbing.ParseObjectType(o.Kind)
		if err != nil {
			return known, fmt.Errorf("the server sent an object of the kind %.20q", o.Kind)
		}
		objects = append(objects, repo.Object{Kind: kind, Content: o.Content})
	}
	states := []*target.Declared{d}
	if d.Fallback != nil {
		states = append(states, d.Fallback)
	}
	for _, s := range states {
		for _, content := range s.Files {
			objects = append(objects, repo.Blob(content))
		}
	}
	r, err := repo.InMemory(d.Repository, objects)
	if err != nil {
		return known, err
	}
	v := verification{repo: r, keys: agent.Keys{Signing: known.Signing, Former: slices.Clone(known.Former)}}
	if err := v.follow(p.Keys); err != nil {
		return known, err
	}
	if hash, ok := repo.ParseHash(p.RepositoryKeys); ok {
		if v.rotations, err = r.RotationsFrom(hash); err != nil {
			return known, fmt.Errorf("the record of the server's keys: %w", err)
		}
	}
	if err := v.state(d, p.Release, fence); err != nil {
		return known, err
	}
	if f := d.Fallback; f != nil && (f.Key != d.Key || v.state(f, p.Fallback, fence) != nil) {
		d.Fallback = nil
	}
	return v.keys, nil
}

type verification struct {
	repo      *repo.Repository
	keys      agent.Keys
	rotations []repo.Rotation // of the repository, the newest first
}

// follow goes from the key that is known to the one that signs now.
func (v *verification) follow(newest string) error {
	at, ok := repo.ParseHash(newest)
	if !ok {
		return nil
	}
	all, err := v.repo.RotationsFrom(at)
	if err != nil {
		return fmt.Errorf("the record of the server's keys: %w", err)
	}
	for _, rot := range slices.Backward(all) {
		if ssh.FingerprintSHA256(rot.Former) != v.keys.Signing {
			continue // before what is known, or of other keys
		}
		next := ssh.FingerprintSHA256(rot.Key)
		if err := v.signed(rot.Commit, rot.Former); err != nil {
			return fmt.Errorf("the server signs with %s now, for which its former key %s has not signed: it %w\n"+
				"hint: if that is so, on this machine: headgate agent trust --signing-key %s", next, v.keys.Signing, err, next)
		}
		v.keys.Former = append(v.keys.Former, v.keys.Signing)
		v.keys.Signing = next
	}
	return nil
}

func (v *verification) signed(object repo.Hash, by ssh.PublicKey) error {
	kind, raw, err := v.repo.Raw(object)
	if err != nil {
		return err
	}
	return repo.Signers{by}.VerifyObject(kind, raw)
}

// signer is the key that has signed an object, if it counts for that: the present one, or
// a former one for what a ref was at when another took over. The error goes on after what
// the object is called.
func (v *verification) signer(object repo.Hash, ref string) (ssh.PublicKey, error) {
	kind, raw, err := v.repo.Raw(object)
	if err != nil {
		return nil, errors.New("was not sent")
	}
	by, err := repo.SignedBy(kind, raw)
	if err != nil {
		return nil, err
	}
	if err := (repo.Signers{by}).VerifyObject(kind, raw); err != nil {
		return nil, err
	}
	name := ssh.FingerprintSHA256(by)
	switch {
	case name == v.keys.Signing:
		return by, nil
	case !slices.Contains(v.keys.Former, name):
		return nil, fmt.Errorf("is signed by %s, and the key of the server is %s", name, v.keys.Signing)
	}
	for _, rot := range v.rotations {
		if ssh.FingerprintSHA256(rot.Former) == name && v.signed(rot.Commit, rot.Former) == nil &&
			slices.Contains(rot.Refs, repo.Ref{Name: ref, Hash: object}) {
			return by, nil
		}
	}
	return nil, fmt.Errorf("is signed by %s, a former key of the server, and was not there when another took over", name)
}

// state proves one declared state.
func (v *verification) state(d *target.Declared, tag string, fence int) error {
	at, ok := repo.ParseHash(d.Commit)
	if !ok {
		return fmt.Errorf("%.50q is no commit", d.Commit)
	}
	if _, err := v.signer(at, record.EnvironmentRef(d.Environment)); err != nil {
		return fmt.Errorf("the commit %s of the environment %w", d.Commit, err)
	}
	c, err := v.repo.Commit(at)
	if err != nil {
		return err
	}
	said, _ := record.ParsePromotion(c.Message, c.TreeHash) // Prove says what does not read
	rel, err := v.release(d.Repository, said.Release, tag)
	if err != nil {
		return err
	}
	p, err := record.Prove(v.repo, d.Application, d.Environment, at, rel)
	switch {
	case err != nil:
		return err
	case p.Sequence == 0 && fence >= 0:
		return errors.New("the commit does not say its place, and this machine has acted on one already; promote again")
	case p.Sequence != 0 && p.Sequence != d.Sequence:
		return fmt.Errorf("the commit's place is %d, and the server says %d", p.Sequence, d.Sequence)
	}
	return v.content(d, c.TreeHash)
}

// release proves the release with a tag.
func (v *verification) release(repository string, number int, tag string) (record.Release, error) {
	fail := func(err error) (record.Release, error) {
		return record.Release{}, fmt.Errorf("release %d: %w", number, err)
	}
	at, ok := repo.ParseHash(tag)
	if !ok {
		return fail(errors.New("its tag was not sent"))
	}
	by, err := v.signer(at, release.Ref(number))
	if err != nil {
		return fail(fmt.Errorf("its tag %w", err))
	}
	rel, err := release.FromTag(v.repo, number, at)
	if err == nil {
		err = rel.Verify(v.repo, repo.Signers{by})
	}
	if err == nil && rel.Repository != repository {
		err = fmt.Errorf("it is one of %s", rel.Repository)
	}
	if err != nil {
		return fail(err)
	}
	return ReleaseOf(rel, verified), nil
}

// content compares what the server says with what the commit declares.
func (v *verification) content(d *target.Declared, tree repo.Hash) error {
	m, err := record.ManifestOf(v.repo, tree, d.Application)
	if err != nil {
		return err
	}
	is := d.Release
	if is.Number != m.Release || is.Commit != m.Commit || !maps.Equal(is.Artifacts, m.Artifacts) ||
		!maps.Equal(is.Images, m.Images) {
		return fmt.Errorf("the server says release %d with %s, and the commit declares release %d with %s",
			is.Number, artifacts(is.Artifacts), m.Release, artifacts(m.Artifacts))
	}
	files, err := record.Files(v.repo, tree, d.Application)
	if err != nil {
		return fmt.Errorf("files of the commit were not sent as they are: %w", err)
	}
	for name := range d.Files {
		if _, there := files[name]; !there {
			return fmt.Errorf("the file %s is not one of the commit", name)
		}
	}
	for name, content := range files {
		if sent, there := d.Files[name]; !there || !bytes.Equal(sent, content) {
			return fmt.Errorf("the file %s is not what the commit declares", name)
		}
	}
	return nil
}

func artifacts(named map[string]string) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(named)) {
		text += ", " + name + "@" + named[name]
	}
	return cmp.Or(text[min(2, len(text)):], "no artifacts")
}
