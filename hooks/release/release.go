// Package release makes a release of each landing: a signed annotated tag at
// refs/releases/<n> on the landed commit, whose message is the manifest with the
// artifacts' digests and the provenance.
//
//   - Book makes, lists and reads the releases of one repository.
//   - Release.Verify proves one from the repository and the server's public key
//     alone: who made it, of which commit, with which artifacts.
//
// Where releases run is no concern of this package, nor is the artifacts' bytes'
// keeping.
package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// ErrNone is returned for a number or commit that has no release.
var ErrNone = errors.New("no such release")

const prefix = "refs/releases/"

// SBOM is the name of a bill of materials.
const SBOM = "sbom.cdx.json"

// Ref is the ref of a release.
func Ref(number int) string { return prefix + strconv.Itoa(number) }

// Manifest is what a release's tag says.
type Manifest struct {
	Release    int                `json:"release"`
	Repository string             `json:"repository"`
	Branch     string             `json:"branch"`
	Commit     string             `json:"commit"`
	Tree       string             `json:"tree"`
	Previous   string             `json:"previous,omitempty"` // where the branch was before
	Subject    string             `json:"subject,omitempty"`
	Changes    []int              `json:"changes"`
	By         string             `json:"by"`                // who pushed the revision that landed
	AlsoBy     []string           `json:"also_by,omitempty"` // who pushed other revisions of it
	At         time.Time          `json:"at"`
	Verdict    Proof              `json:"verdict"`
	Artifacts  []verdict.Artifact `json:"artifacts"`
	SBOM       *verdict.Artifact  `json:"sbom,omitempty"` // what it is made of, by the files of its tree; nil: they do not say
	Provenance *Envelope          `json:"provenance"`
}

// Proof names the verdict that let the commit land.
type Proof struct {
	Key       string `json:"key"`
	Log       string `json:"log,omitempty"`
	LogDigest string `json:"log_digest,omitempty"`
}

// Release is one release. It is not to be altered.
type Release struct {
	Number int
	Tag    repo.Hash // the tag object
	Commit repo.Hash // that the tag is on
	Manifest
}

// Landing is what a release is made of.
type Landing struct {
	Branch   string
	Commit   repo.Hash
	Previous repo.Hash
	Subject  string
	Changes  []int
	By       string
	AlsoBy   []string
	At       time.Time
	Verdict  verdict.Verdict
}

// Store is the releases of one repository. It is safe for concurrent use; there
// must be one writer, which makes releases one after the other.
type Store struct {
	r *repo.Repository

	publishing sync.RWMutex // held from before a ref is there until it is known; before mu

	mu        sync.Mutex
	byTag     map[repo.Hash]Release // by tag object, which never changes; without provenance; nil: not looked at
	numbers   map[repo.Hash]int     // by the commit that they are of
	verified  map[repo.Hash]bool    // tag objects that have verified: a signature over bytes named by their digest stays good
	newest    int
	loaded    bool // all that there were have been read
	unwritten int  // of byTag that are not on disk
	after     int  // that many are not: rememberAfter
}

// Of is the Store of a repository.
func Of(r *repo.Repository) *Store {
	return &Store{r: r, numbers: map[repo.Hash]int{}, verified: map[repo.Hash]bool{}, after: rememberAfter}
}

// Make makes the release of a landing, durably. A commit that has one keeps it:
// making it again returns it and changes nothing.
func (b *Store) Make(ctx context.Context, l Landing) (Release, error) {
	for {
		if rel, err := b.At(l.Commit); !errors.Is(err, ErrNone) {
			return rel, err
		}
		b.mu.Lock()
		number := b.newest + 1
		b.mu.Unlock()
		tag, err := b.write(number, l)
		if err != nil {
			return Release{}, fmt.Errorf("make release %d of %s: %w", number, b.r.Name(), err)
		}
		crash.Point("release.written")
		err = b.publish(ctx, number, tag)
		if errors.Is(err, repo.ErrMoved) { // somebody else made that number: look again
			if _, err = b.List(); err == nil {
				continue
			}
		}
		if err != nil {
			return Release{}, fmt.Errorf("make release %d of %s: %w", number, b.r.Name(), err)
		}
		b.mu.Lock()
		b.remember()
		b.mu.Unlock()
		return b.Read(number)
	}
}

// publish makes a release of a tag, and knows it: whoever hears that its ref is there, and
// asks, is told of it.
func (b *Store) publish(ctx context.Context, number int, tag repo.Hash) error {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	if err := b.r.Move(ctx, Ref(number), repo.Zero, tag); err != nil {
		return err
	}
	crash.Point("release.made")
	_, err := b.read(number, tag)
	return err
}

func (b *Store) write(number int, l Landing) (repo.Hash, error) {
	tree, err := b.r.TreeOf(l.Commit)
	if err != nil {
		return repo.Zero, err
	}
	m := Manifest{
		Release: number, Repository: b.r.Name(), Branch: l.Branch, Commit: l.Commit.String(), Tree: tree.String(),
		Subject: l.Subject, Changes: l.Changes, By: l.By, AlsoBy: l.AlsoBy, At: l.At.UTC().Truncate(time.Second),
		Verdict: Proof{l.Verdict.Key, l.Verdict.Log, l.Verdict.LogDigest}, Artifacts: l.Verdict.Artifacts,
		SBOM: l.Verdict.SBOM,
	}
	if m.Artifacts == nil {
		m.Artifacts = []verdict.Artifact{}
	}
	if l.Previous != repo.Zero {
		m.Previous = l.Previous.String()
	}
	if m.Provenance, err = provenance(b.r.Signer(), m, l.Verdict); err != nil {
		return repo.Zero, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return repo.Zero, err
	}
	name := strings.TrimPrefix(Ref(number), "refs/")
	return b.r.WriteTag(name, l.Commit, l.At, fmt.Sprintf("release %d\n\n%s", number, text))
}

// Tag is where a release is, before it is read.
type Tag struct {
	Number int
	Hash   repo.Hash
}

// Tags are the tags of all releases by number, none of which is read. A ref below
// refs/releases/ that is not a release's is an error.
func (b *Store) Tags() ([]Tag, error) {
	refs, err := b.r.Refs(prefix)
	if err != nil {
		return nil, err
	}
	tags := make([]Tag, 0, len(refs))
	for _, ref := range refs {
		number, err := strconv.Atoi(strings.TrimPrefix(ref.Name, prefix))
		if err != nil || Ref(number) != ref.Name {
			return nil, fmt.Errorf("list releases of %s: %s is not a release", b.r.Name(), ref.Name)
		}
		tags = append(tags, Tag{number, ref.Hash})
	}
	slices.SortFunc(tags, func(x, y Tag) int { return x.Number - y.Number })
	return tags, nil
}

// ReadTag reads the release of a tag, without its provenance, which Read has.
func (b *Store) ReadTag(t Tag) (Release, error) {
	b.mu.Lock()
	b.recall()
	b.mu.Unlock()
	return b.read(t.Number, t.Hash)
}

// List returns all releases by number, without their provenance, which Read has.
func (b *Store) List() ([]Release, error) {
	tags, err := b.Tags()
	if err != nil {
		return nil, err
	}
	list := make([]Release, 0, len(tags))
	for _, t := range tags {
		rel, err := b.ReadTag(t)
		if err != nil {
			return nil, err
		}
		list = append(list, rel)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loaded = true
	b.remember()
	return list, nil
}

// Commits are the numbers of all releases by the commits that they are of.
func (b *Store) Commits() (map[repo.Hash]int, error) {
	list, err := b.List()
	if err != nil {
		return nil, err
	}
	numbers := make(map[repo.Hash]int, len(list))
	for _, rel := range list {
		numbers[rel.Commit] = rel.Number
	}
	return numbers, nil
}

// The file with what many tags say is written again when so many of them are new.
const (
	remembered    = "releases"
	rememberAfter = 200
)

// row is a Release as the file has it.
type row struct {
	Tag string // the bytes of its hash
	Manifest
}

// recall reads what is remembered, once. The caller holds mu.
func (b *Store) recall() {
	if b.byTag != nil {
		return
	}
	b.byTag = map[repo.Hash]Release{}
	var rows []row
	if !b.r.Recall(remembered, &rows) {
		return
	}
	for _, of := range rows {
		rel := Release{Number: of.Release, Manifest: of.Manifest}
		copy(rel.Tag[:], of.Tag)
		rel.Commit, _ = repo.ParseHash(of.Manifest.Commit)
		if rel.Artifacts == nil {
			rel.Artifacts = []verdict.Artifact{} // as the manifest has it
		}
		b.byTag[rel.Tag] = rel
	}
}

// remember writes all releases for the next start, when many are new. The caller
// holds mu.
func (b *Store) remember() {
	if b.unwritten < b.after {
		return
	}
	rows := make([]row, 0, len(b.byTag))
	for _, rel := range b.byTag {
		rows = append(rows, row{Tag: string(rel.Tag[:]), Manifest: rel.Manifest})
	}
	_ = b.r.Remember(remembered, rows) // the next start reads the tags, then
	b.unwritten = 0
}

// Read returns a release by number, or ErrNone.
func (b *Store) Read(number int) (Release, error) {
	tag, err := b.r.Ref(Ref(number))
	if err != nil {
		return Release{}, err
	}
	if tag == repo.Zero {
		return Release{}, ErrNone
	}
	rel, err := FromTag(b.r, number, tag)
	if err != nil {
		return Release{}, fmt.Errorf("read release %d of %s: %w", number, b.r.Name(), err)
	}
	return rel, nil
}

// At returns the release of a commit, or ErrNone.
func (b *Store) At(commit repo.Hash) (Release, error) {
	number, err := b.NumberAt(commit)
	if err != nil {
		return Release{}, err
	}
	return b.Read(number)
}

// NumberAt is the number of the release of a commit, or ErrNone.
func (b *Store) NumberAt(commit repo.Hash) (int, error) {
	if err := b.load(); err != nil {
		return 0, err
	}
	b.publishing.RLock()
	defer b.publishing.RUnlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	number, ok := b.numbers[commit]
	if !ok {
		return 0, ErrNone
	}
	return number, nil
}

// load reads, once, which releases there are.
func (b *Store) load() error {
	b.mu.Lock()
	loaded := b.loaded
	b.mu.Unlock()
	if loaded {
		return nil
	}
	_, err := b.List()
	return err
}

// read reads a release once, and keeps it without its provenance.
func (b *Store) read(number int, tag repo.Hash) (Release, error) {
	b.mu.Lock()
	rel, ok := b.byTag[tag]
	b.mu.Unlock()
	fresh := !ok || rel.Number != number
	if fresh {
		var err error
		if rel, err = FromTag(b.r, number, tag); err != nil {
			return Release{}, fmt.Errorf("read release %d of %s: %w", number, b.r.Name(), err)
		}
		rel.Provenance = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if fresh {
		b.unwritten++
	}
	b.recall()
	b.byTag[tag], b.numbers[rel.Commit], b.newest = rel, number, max(b.newest, number)
	return rel, nil
}

// FromTag reads the release with a number that a tag says it is, whatever ref that is at.
func FromTag(r *repo.Repository, number int, tag repo.Hash) (Release, error) {
	t, err := r.Tag(tag)
	if err != nil {
		return Release{}, err
	}
	return parse(number, tag, t.Target, t.Message)
}

// Verify proves a release of this Book with the server's own key, once.
func (b *Store) Verify(rel Release) error {
	b.mu.Lock()
	verified := b.verified[rel.Tag]
	b.mu.Unlock()
	if verified {
		return nil
	}

	if err := rel.Verify(b.r, b.r.Signer().Signers()); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verified[rel.Tag] = true
	return nil
}

func parse(number int, tag, commit repo.Hash, message string) (Release, error) {
	head, text, ok := strings.Cut(message, "\n\n")
	if !ok || head != "release "+strconv.Itoa(number) {
		return Release{}, fmt.Errorf("its tag says %q", head)
	}
	rel := Release{Number: number, Tag: tag, Commit: commit}
	// The signature may follow the manifest: only the first JSON value is it.
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&rel.Manifest); err != nil {
		return Release{}, err
	}
	if rel.Manifest.Release != number {
		return Release{}, fmt.Errorf("its manifest is of release %d", rel.Manifest.Release)
	}
	if rel.Manifest.Commit != commit.String() {
		return Release{}, fmt.Errorf("its manifest names commit %s, and its tag is on %s", rel.Manifest.Commit, commit)
	}
	return rel, nil
}

// Verify proves a release: its tag's signature over the raw bytes, that the
// commit and tree are those of the manifest, and that the provenance is signed
// and about exactly this commit and these artifacts. The error says what of the
// release is wrong, and leaves it to the caller to say which.
func (rel Release) Verify(r *repo.Repository, signers repo.Signers) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("%s: %w", what, err)
	}
	kind, raw, err := r.Raw(rel.Tag)
	if err != nil {
		return fail("its tag", err)
	}
	if err := signers.VerifyObject(kind, raw); err != nil {
		return fail("its tag", err)
	}
	// What was signed, not what was parsed before: rel may come from anywhere.
	t, err := r.Tag(rel.Tag)
	if err != nil {
		return fail("its tag", err)
	}
	signed, err := parse(rel.Number, rel.Tag, t.Target, t.Message)
	if err != nil {
		return fail("its tag", err)
	}
	said := signed.Manifest
	if rel.Provenance == nil { // from a list
		said.Provenance = nil
	}
	if !reflect.DeepEqual(rel.Manifest, said) {
		return fail("its manifest", errors.New("is not what its tag says"))
	}
	if t.Name != strings.TrimPrefix(Ref(rel.Number), "refs/") {
		return fail("its tag", fmt.Errorf("is called %q", t.Name))
	}
	tree, err := r.TreeOf(signed.Commit)
	if err != nil {
		return fail("its commit", err)
	}
	if signed.Tree != tree.String() {
		return fail("its manifest", fmt.Errorf("names tree %s, and the commit has %s", signed.Tree, tree))
	}
	statement, err := signed.Provenance.open(signers)
	if err != nil {
		return fail("its provenance", err)
	}
	if err := statement.about(signed.Manifest); err != nil {
		return fail("its provenance", err)
	}
	return nil
}
