package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// KeysRef is the record of which keys have signed a repository: a chain of commits,
// one each time that another key took over. It holds where all refs were then: what
// the former key signed is what they reach.
const KeysRef = "refs/keys/log"

// Rotation is one commit of the record.
type Rotation struct {
	Commit Hash
	At     time.Time
	Former ssh.PublicKey // signed until then
	Key    ssh.PublicKey // and this one from then on
	Lost   bool          // the former key was gone: the new one signed the record
	Refs   []Ref         // as they were
}

const refsFile = "refs"

// RecordRotation writes that key takes the place of former. signer is the former
// signer, or the new one if the former key is lost.
func (r *Repository) RecordRotation(ctx context.Context, signer *Signer, former, key ssh.PublicKey,
	at time.Time) error {
	tip, err := r.Ref(KeysRef)
	if err != nil {
		return err
	}
	refs, err := r.Snapshot(ctx)
	if err != nil {
		return err
	}
	var list bytes.Buffer
	for _, ref := range refs {
		fmt.Fprintf(&list, "%s %s\n", ref.Hash, ref.Name)
	}
	blob := Blob(list.Bytes())
	if err := r.Write(blob); err != nil {
		return err
	}
	tree, err := r.TreeWith(Zero, map[string]Edit{refsFile: {Mode: filemode.Regular, Hash: blob.Hash()}})
	if err != nil {
		return err
	}
	line := func(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(bare(key)))) }
	trailers := []Trailer{{"Former-Key", line(former)}, {"Key", line(key)}}
	subject := fmt.Sprintf("key: %s after %s", ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(former))
	if bytes.Equal(signer.PublicKey().Marshal(), key.Marshal()) {
		trailers = append(trailers, Trailer{"Lost", "true"})
	}
	var parents []Hash
	if tip != Zero {
		parents = []Hash{tip}
	}
	commit, err := r.writeCommit(signer,
		NewCommit{Tree: tree, Parents: parents, At: at, Message: Message(subject, "", trailers...)})
	if err != nil {
		return err
	}
	crash.Point("key.before-recorded")
	if err := r.Move(ctx, KeysRef, tip, commit); err != nil {
		return err
	}
	crash.Point("key.recorded")
	return nil
}

// Rotations reads the record, the newest first.
func (r *Repository) Rotations() ([]Rotation, error) {
	at, err := r.Ref(KeysRef)
	if err != nil {
		return nil, err
	}
	return r.RotationsFrom(at)
}

// RotationsFrom is Rotations from a commit of the record on; Zero for none.
func (r *Repository) RotationsFrom(at Hash) (all []Rotation, err error) {
	for at != Zero {
		c, err := r.Commit(at)
		if err != nil {
			return nil, err
		}
		rot := Rotation{Commit: at, At: c.Committer.When.UTC(), Lost: TrailerValue(c.Message, "Lost") == "true"}
		for _, k := range []struct {
			name string
			to   *ssh.PublicKey
		}{{"Former-Key", &rot.Former}, {"Key", &rot.Key}} {
			if *k.to, _, _, _, err = ssh.ParseAuthorizedKey([]byte(TrailerValue(c.Message, k.name))); err != nil {
				return nil, fmt.Errorf("%s: commit %s names no %s: %w", KeysRef, at, k.name, err)
			}
		}
		text, err := r.File(c.TreeHash, refsFile)
		if err != nil {
			return nil, fmt.Errorf("%s: commit %s: %w", KeysRef, at, err)
		}
		for line := range strings.Lines(string(text)) {
			hash, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			h, ok := ParseHash(hash)
			if !ok {
				return nil, fmt.Errorf("%s: commit %s holds %.80q", KeysRef, at, line)
			}
			rot.Refs = append(rot.Refs, Ref{name, h})
		}
		all = append(all, rot)
		at = Zero
		if len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	return all, nil
}

// VerifyRotations checks the record: that each change of keys was signed by the
// former key, or says that it was lost, and that nothing which came after was
// signed by it. It returns what is not so.
func (r *Repository) VerifyRotations(ctx context.Context, signers Signers) (findings []string, err error) {
	all, err := r.Rotations()
	if err != nil {
		return nil, err
	}
	for _, rot := range all {
		kind, raw, err := r.Raw(rot.Commit)
		if err != nil {
			return nil, err
		}
		by := rot.Former
		if rot.Lost {
			by = rot.Key
		}
		if err := (Signers{by}).VerifyObject(kind, raw); err != nil {
			findings = append(findings, fmt.Sprintf("%s: the change of keys at %s %v", KeysRef, rot.Commit, err))
		}
		if !signers.has(rot.Key) {
			findings = append(findings, fmt.Sprintf("%s: %s is not an allowed signer", KeysRef, ssh.FingerprintSHA256(rot.Key)))
		}
		late, err := r.signedAfter(ctx, rot)
		if err != nil {
			return nil, err
		}
		findings = append(findings, late...)
	}
	return findings, nil
}

func (s Signers) has(key ssh.PublicKey) bool {
	for _, k := range s {
		if bytes.Equal(bare(k).Marshal(), bare(key).Marshal()) {
			return true
		}
	}
	return false
}

// signedAfter finds commits and tags that the former key signed after it had been
// rotated: what no ref reached then.
func (r *Repository) signedAfter(ctx context.Context, rot Rotation) (findings []string, err error) {
	was := map[Hash]bool{rot.Commit: true}
	var input bytes.Buffer
	for _, ref := range rot.Refs {
		was[ref.Hash] = true
		if r.Has(ref.Hash) { // else it is gone since
			fmt.Fprintf(&input, "^%s\n", ref.Hash)
		}
	}
	out, err := r.GitIn(ctx, Quarantine{}, input.Bytes(), "rev-list", "--all", "--stdin")
	if err != nil {
		return nil, err
	}
	var after []Hash
	for line := range strings.Lines(string(out)) {
		if h, ok := ParseHash(strings.TrimSpace(line)); ok && !was[h] {
			after = append(after, h)
		}
	}
	tags, err := r.Refs("refs/releases/")
	if err != nil {
		return nil, err
	}
	for _, ref := range tags {
		if !was[ref.Hash] {
			after = append(after, ref.Hash)
		}
	}
	for _, h := range after {
		kind, raw, err := r.Raw(h)
		if large := (*TooBig)(nil); errors.As(err, &large) {
			continue // nothing that a server signs
		}
		if err != nil {
			return nil, err
		}
		if (Signers{bare(rot.Former)}).VerifyObject(kind, raw) == nil {
			findings = append(findings, fmt.Sprintf("%s %s is signed by %s, which was replaced before, on %s",
				kind, h, ssh.FingerprintSHA256(rot.Former), rot.At.Format(time.RFC3339)))
		}
	}
	return findings, nil
}

// SignedBy is the key that signed a commit or a tag, by what it says itself.
func SignedBy(kind string, raw []byte) (ssh.PublicKey, error) {
	_, armored, err := cutSignature(kind, raw)
	if err != nil {
		return nil, err
	}
	return armoredKey(armored)
}
