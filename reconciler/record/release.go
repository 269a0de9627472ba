package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Release is a landed commit with its artifacts, as the one who makes releases
// tells it.
type Release struct {
	Number    int
	Commit    repo.Hash
	Change    int
	By        string   // user who pushed the change
	Authors   []string // further users who pushed a revision of it
	Subject   string
	At        time.Time
	Artifacts []Artifact
	// Verify proves the release's signature and provenance, or says what is wrong; then
	// the release goes nowhere. It is asked of the few releases that may go somewhere,
	// among ten thousand, and is quick when it is asked again.
	Verify func() error
}

// Verifies is nil when the release's signature and provenance verify.
func (r Release) Verifies() error {
	if r.Verify == nil {
		return errors.New("nobody can verify it")
	}
	return r.Verify()
}

// Artifact is named by the digest of its bytes.
type Artifact struct {
	Name   string
	Digest string // sha256:…
	Size   int64  // bytes; 0 where only the name and the digest are known
	Image  bool   // it is what a container engine runs; false where that is not known
}

// Type is the artifact's type as pages show it: "" for files.
func (a Artifact) Type() string {
	if a.Image {
		return "image"
	}
	return ""
}

// only is the release with those of its artifacts that are among named: a
// repository's applications have artifacts of their own. unknown are the others
// among named.
func (rel Release) only(named []Artifact) (own Release, unknown []Artifact) {
	own = rel
	own.Artifacts = nil
	for _, n := range named {
		i := slices.IndexFunc(rel.Artifacts, func(a Artifact) bool { return a.Name == n.Name && a.Digest == n.Digest })
		if i < 0 {
			unknown = append(unknown, n)
			continue
		}
		own.Artifacts = append(own.Artifacts, rel.Artifacts[i])
	}
	return own, unknown
}

// ManifestFile is the one file in apps/<application> that comes from the server
// and not from the release's directory. A file of that name there gives way.
const ManifestFile = "release.json"

// Manifest is the content of release.json.
type Manifest struct {
	Release   int               `json:"release"`
	Commit    string            `json:"commit"`
	Tree      string            `json:"tree"`
	Change    int               `json:"change,omitempty"`
	Artifacts map[string]string `json:"artifacts"`        // name → digest, of files
	Images    map[string]string `json:"images,omitempty"` // name → digest
}

func manifest(rel Release, tree repo.Hash) Manifest {
	m := Manifest{
		Release:   rel.Number,
		Commit:    rel.Commit.String(),
		Tree:      tree.String(),
		Change:    rel.Change,
		Artifacts: map[string]string{},
	}
	for _, a := range rel.Artifacts {
		if !a.Image {
			m.Artifacts[a.Name] = a.Digest
			continue
		}
		if m.Images == nil {
			m.Images = map[string]string{}
		}
		m.Images[a.Name] = a.Digest
	}
	return m
}

func (m Manifest) encode() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ") // keys of a map are sorted: the same release, the same bytes
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", ManifestFile, err)
	}
	return append(data, '\n'), nil
}

// ManifestOf reads release.json of an application in an environment's tree.
func ManifestOf(r *repo.Repository, tree repo.Hash, application string) (Manifest, error) {
	data, err := r.File(tree, ApplicationPath(application)+"/"+ManifestFile)
	if err != nil {
		return Manifest{}, fmt.Errorf("read %s of %s: %w", ManifestFile, application, err)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("read %s of %s: %w", ManifestFile, application, err)
	}
	return m, nil
}

// Applications are the names of those that an environment's tree declares.
func Applications(r *repo.Repository, tree repo.Hash) (names []string, err error) {
	dir, err := r.Lookup(tree, applicationsDir)
	if errors.Is(err, repo.ErrNoFile) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the applications of an environment: %w", err)
	}
	entries, err := r.Tree(dir.Hash)
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

// Files reads an application's directory in an environment's tree, without
// release.json.
func Files(r *repo.Repository, tree repo.Hash, application string) (map[string][]byte, error) {
	dir, err := r.Lookup(tree, ApplicationPath(application))
	if err != nil {
		return nil, fmt.Errorf("read the files of %s: %w", application, err)
	}
	return r.Files(dir.Hash, func(path string) bool { return path != ManifestFile })
}

// Directories at the top of an environment's tree.
const (
	applicationsDir = "apps"
	holdsDir        = "holds"
)

// ApplicationPath is where an environment's tree has an application.
func ApplicationPath(application string) string { return applicationsDir + "/" + application }

// HoldPath is where it has the application's hold.
func HoldPath(application string) string { return holdsDir + "/" + application + ".json" }

// ErrNoDirectory is a release without the directory that its environment declares.
var ErrNoDirectory = errors.New("no such directory")

// directory is what a release declares for an environment, as a tree.
func directory(r *repo.Repository, commit repo.Hash, path string) (repo.Hash, error) {
	tree, err := r.TreeOf(commit)
	if err != nil {
		return repo.Zero, err
	}
	e, err := r.Lookup(tree, path)
	if errors.Is(err, repo.ErrNoFile) || err == nil && e.Mode != filemode.Dir {
		return repo.Zero, ErrNoDirectory
	}
	return e.Hash, err
}

// rendered is the tree of apps/<application> for a release: its directory, byte
// for byte, and release.json. It writes nothing; the blob and the tree are what
// is not in the repository yet.
func rendered(r *repo.Repository, rel Release, path string) (blob, tree repo.Object, err error) {
	source, err := r.TreeOf(rel.Commit)
	if err != nil {
		return blob, tree, err
	}
	from, err := directory(r, rel.Commit, path)
	if err != nil {
		return blob, tree, err
	}
	entries, err := withoutManifest(r, from)
	if err != nil {
		return blob, tree, err
	}
	data, err := manifest(rel, source).encode()
	if err != nil {
		return blob, tree, err
	}

	blob = repo.Blob(data)
	entries = append(entries, repo.Entry{Name: ManifestFile, Mode: filemode.Regular, Hash: blob.Hash()})
	return blob, repo.TreeObject(entries), nil
}

// Render writes the tree of an environment in which an application is a release,
// without a hold; base is the environment's tree now. The error is ErrNoDirectory
// when the release has nothing at path.
func Render(r *repo.Repository, base repo.Hash, application string, rel Release, path string) (repo.Hash, error) {
	blob, tree, err := rendered(r, rel, path)
	if err != nil {
		return repo.Zero, err
	}
	if err := r.Write(blob, tree); err != nil {
		return repo.Zero, err
	}
	return r.TreeWith(base, map[string]repo.Edit{
		ApplicationPath(application): {Mode: filemode.Dir, Hash: tree.Hash()},
		HoldPath(application):        {Remove: true},
	})
}

// Without writes the tree of an environment without an application.
func Without(r *repo.Repository, base repo.Hash, application string) (repo.Hash, error) {
	return r.TreeWith(base, map[string]repo.Edit{
		ApplicationPath(application): {Remove: true},
		HoldPath(application):        {Remove: true},
	})
}

// Restore writes the tree of an environment in which an application is what it
// was in an earlier tree, byte for byte, and is held.
func Restore(r *repo.Repository, base, earlier repo.Hash, application string, hold Hold) (repo.Hash, error) {
	data, err := hold.encode()
	if err != nil {
		return repo.Zero, err
	}
	blob := repo.Blob(data)
	if err := r.Write(blob); err != nil {
		return repo.Zero, err
	}
	was, err := r.Lookup(earlier, ApplicationPath(application))
	if err != nil {
		return repo.Zero, err
	}
	return r.TreeWith(base, map[string]repo.Edit{
		ApplicationPath(application): {Mode: filemode.Dir, Hash: was.Hash},
		HoldPath(application):        {Mode: filemode.Regular, Hash: blob.Hash()},
	})
}

// SameContent reports whether declaring a release from the directory at path
// would change nothing but the release's name: the directory and the artifacts
// are those that the environment's tree has.
func SameContent(r *repo.Repository, declared repo.Hash, application string, rel Release, path string) (bool, error) {
	m, err := ManifestOf(r, declared, application)
	if err != nil {
		return false, nil // not readable is not the same; the promotion replaces it
	}
	want := manifest(rel, repo.Zero)
	if !maps.Equal(m.Artifacts, want.Artifacts) || !maps.Equal(m.Images, want.Images) {
		return false, nil
	}

	from, err := directory(r, rel.Commit, path)
	if err != nil {
		return false, err
	}
	e, err := r.Lookup(declared, ApplicationPath(application))
	if err != nil {
		return false, nil // as above
	}
	was, err := withoutManifest(r, e.Hash)
	if err != nil {
		return false, err
	}
	is, err := withoutManifest(r, from)
	return slices.Equal(was, is), err
}

// withoutManifest lists a directory's entries except release.json.
func withoutManifest(r *repo.Repository, tree repo.Hash) ([]repo.Entry, error) {
	entries, err := r.Tree(tree)
	return slices.DeleteFunc(entries, func(e repo.Entry) bool { return e.Name == ManifestFile }), err
}
