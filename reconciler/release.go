package reconciler

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
	// Verifies is nil when the release's signature and provenance have been
	// verified; otherwise it says what is wrong, and the release goes nowhere.
	Verifies error
}

// Artifact is named by the digest of its bytes.
type Artifact struct {
	Name   string
	Digest string // sha256:…
	Size   int64  // bytes
}

// releaseFile is the one file in apps/<application> that comes from the server
// and not from the release's folder. A file of that name in the folder gives way.
const releaseFile = "release.json"

// Manifest is the content of release.json.
type Manifest struct {
	Release   int               `json:"release"`
	Commit    string            `json:"commit"`
	Tree      string            `json:"tree"`
	Change    int               `json:"change,omitempty"`
	Artifacts map[string]string `json:"artifacts"` // name → digest
}

func manifest(rel Release, tree repo.Hash) Manifest {
	m := Manifest{Release: rel.Number, Commit: rel.Commit.String(), Tree: tree.String(), Change: rel.Change, Artifacts: map[string]string{}}
	for _, a := range rel.Artifacts {
		m.Artifacts[a.Name] = a.Digest
	}
	return m
}

func (m Manifest) encode() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ") // keys of a map are sorted: the same release, the same bytes
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", releaseFile, err)
	}
	return append(data, '\n'), nil
}

// manifestOf reads release.json below apps/<application> of an environment's tree.
func manifestOf(r *repo.Repository, tree repo.Hash, app string) (Manifest, error) {
	data, err := r.File(tree, appPath(app)+"/"+releaseFile)
	if err != nil {
		return Manifest{}, fmt.Errorf("read %s of %s: %w", releaseFile, app, err)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("read %s of %s: %w", releaseFile, app, err)
	}
	return m, nil
}

func appPath(app string) string { return "apps/" + app }

func holdPath(app string) string { return "holds/" + app + ".json" }

// errNoFolder is a release without the folder that its environment declares.
var errNoFolder = errors.New("no such folder")

// folder is the folder that a release declares for an environment, as a tree.
func folder(r *repo.Repository, commit repo.Hash, path string) (repo.Hash, error) {
	tree, err := r.TreeOf(commit)
	if err != nil {
		return repo.Zero, err
	}
	e, err := r.Lookup(tree, path)
	if errors.Is(err, repo.ErrNoFile) || err == nil && e.Mode != filemode.Dir {
		return repo.Zero, errNoFolder
	}
	return e.Hash, err
}

// rendered is the tree of apps/<application> for a release: its folder, byte for
// byte, and release.json. It writes nothing; the blob and the tree are what is
// not in the repository yet.
func rendered(r *repo.Repository, rel Release, path string) (blob, tree repo.Object, err error) {
	source, err := r.TreeOf(rel.Commit)
	if err != nil {
		return blob, tree, err
	}
	from, err := folder(r, rel.Commit, path)
	if err != nil {
		return blob, tree, err
	}
	entries, err := without(r, from)
	if err != nil {
		return blob, tree, err
	}
	data, err := manifest(rel, source).encode()
	if err != nil {
		return blob, tree, err
	}
	blob = repo.Blob(data)
	return blob, repo.TreeObject(append(entries, repo.Entry{Name: releaseFile, Mode: filemode.Regular, Hash: blob.Hash()})), nil
}

// render is rendered, written.
func render(r *repo.Repository, rel Release, path string) (repo.Hash, error) {
	blob, tree, err := rendered(r, rel, path)
	if err != nil {
		return repo.Zero, err
	}
	return tree.Hash(), r.Write(blob, tree)
}

// sameContent reports whether declaring rel from the folder at path would
// change nothing but the release's name: the folder and the artifacts are those
// that the environment's tree has.
func sameContent(r *repo.Repository, declared repo.Hash, app string, rel Release, path string) (bool, error) {
	m, err := manifestOf(r, declared, app)
	if err != nil {
		return false, nil // not readable is not the same; the promotion replaces it
	}
	if !maps.Equal(m.Artifacts, manifest(rel, repo.Zero).Artifacts) {
		return false, nil
	}
	from, err := folder(r, rel.Commit, path)
	if err != nil {
		return false, err
	}
	e, err := r.Lookup(declared, appPath(app))
	if err != nil {
		return false, nil
	}
	was, err := without(r, e.Hash)
	if err != nil {
		return false, err
	}
	is, err := without(r, from)
	return slices.Equal(was, is), err
}

// without lists a folder's entries except release.json.
func without(r *repo.Repository, tree repo.Hash) ([]repo.Entry, error) {
	entries, err := r.Tree(tree)
	return slices.DeleteFunc(entries, func(e repo.Entry) bool { return e.Name == releaseFile }), err
}

// Hold is the content of holds/<application>.json.
type Hold struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// holdOf reads the hold in an environment's tree, nil when there is none. A hold
// that cannot be read is a hold.
func holdOf(r *repo.Repository, tree repo.Hash, app string) (*Hold, error) {
	data, err := r.File(tree, holdPath(app))
	if errors.Is(err, repo.ErrNoFile) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h := new(Hold)
	if err := json.Unmarshal(data, h); err != nil {
		return &Hold{Reason: "unreadable: " + err.Error()}, nil
	}
	return h, nil
}
