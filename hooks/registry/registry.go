// Package registry serves what releases are made of as an OCI registry, to be
// pulled by Docker, Podman, Kubernetes and ORAS. It follows the OCI Distribution
// Specification 1.1 for whoever pulls; nothing is pushed to it, since a release is
// made by landing.
//
// "hello/web" is the artifact web of the repository hello. Its tags are the numbers
// of releases, "latest", the full ids of landed commits, and the names of
// environments, for what is declared there. Only what a release of the repository
// names can be had, even by digest: who may read it may read that, and no more.
package registry

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/transport"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/release"
)

// Registry answers the addresses below /v2/. Its fields are set before its first
// use.
type Registry struct {
	Tokens    *transport.Tokens
	Artifacts *artifact.Store
	// Releases are those of a repository, nil when it has none.
	Releases func(repository string) *release.Store
	// Declared is the digest of an artifact that an environment declares, "" for none.
	Declared func(repository, environment, artifact string) (digest string, err error)
	Log      *slog.Logger
}

// code is an error of the specification.
type code string

const (
	nameUnknown     code = "NAME_UNKNOWN"
	manifestUnknown code = "MANIFEST_UNKNOWN"
	blobUnknown     code = "BLOB_UNKNOWN"
	digestInvalid   code = "DIGEST_INVALID"
	unauthorized    code = "UNAUTHORIZED"
	denied          code = "DENIED"
	unsupported     code = "UNSUPPORTED"
	tooMany         code = "TOOMANYREQUESTS"
	unavailable     code = "UNAVAILABLE"
)

// Before answers the addresses of a registry, and leaves all others to next.
func (g *Registry) Before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2" && !strings.HasPrefix(r.URL.Path, "/v2/") {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Docker-Distribution-Api-Version", "registry/2.0")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Vary", "Authorization")
		g.serve(w, r)
	})
}

// address is what an address below /v2/ names.
type address struct {
	repository string
	artifact   string
	kind       string // manifests, blobs, tags, referrers
	what       string // a tag or a digest; "list" of tags
}

var addressForm = regexp.MustCompile(`^/v2/([^/]+)/(.+)/(manifests|blobs|tags|referrers)/([^/]+)$`)

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, r, http.StatusMethodNotAllowed, unsupported,
			"nothing is pushed here: a release is made when a change lands")
		return
	}
	if path := strings.TrimSuffix(r.URL.Path, "/"); path == "/v2" {
		// Docker sends its password from now on only where it is asked for it here.
		if _, refusal := g.Tokens.Authenticate(r); refusal != nil {
			g.turnAway(w, r, refusal)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}\n")) // the client may be gone
		return
	}

	m := addressForm.FindStringSubmatch(r.URL.Path)
	if m == nil || r.URL.RawPath != "" || repo.CheckName(m[1]) != nil {
		refuse(w, r, http.StatusNotFound, nameUnknown, "a name here is <repository>/<artifact>")
		return
	}
	to := address{repository: m[1], artifact: m[2], kind: m[3], what: m[4]}
	if _, _, refusal := g.Tokens.Authorise(r, access.Read, to.repository); refusal != nil {
		g.turnAway(w, r, refusal)
		return
	}
	if err := g.answer(w, r, to); err != nil {
		g.Log.Error("could not answer a client of the registry", "repo", to.repository, "path", r.URL.Path, "err", err)
		w.Header().Set("Retry-After", "10")
		refuse(w, r, http.StatusServiceUnavailable, unavailable, "the server could not answer; tell an administrator of it")
	}
}

// answer answers who may read the repository. After an error nothing was written.
func (g *Registry) answer(w http.ResponseWriter, r *http.Request, to address) error {
	of, err := g.versions(to.repository, to.artifact)
	if err != nil {
		return err
	}
	if len(of) == 0 {
		refuse(w, r, http.StatusNotFound, nameUnknown, "no release of "+to.repository+" has an artifact "+to.artifact)
		return nil
	}
	switch to.kind {
	case "manifests":
		return g.manifest(w, r, to, of)
	case "blobs":
		return g.blob(w, r, to, of)
	case "tags":
		return g.tags(w, r, to, of)
	}
	return g.referrers(w, r, to)
}

// version is an artifact of one release.
type version struct {
	release int
	commit  string
	digest  string
}

// versions are an artifact's, newest first.
func (g *Registry) versions(repository, name string) ([]version, error) {
	book := g.Releases(repository)
	if book == nil {
		return nil, nil
	}
	all, err := book.List()
	if err != nil {
		return nil, err
	}

	var list []version
	for _, rel := range all {
		for _, a := range rel.Artifacts {
			if a.Name == name {
				list = append(list, version{release: rel.Number, commit: rel.Commit.String(), digest: a.Digest})
			}
		}
	}
	slices.SortFunc(list, func(a, b version) int { return b.release - a.release })
	return list, nil
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// find is the digest that a tag or a digest means, "" for none.
func (g *Registry) find(to address, of []version) (string, error) {
	at := slices.IndexFunc(of, func(v version) bool {
		return to.what == "latest" || to.what == v.digest || to.what == v.commit || to.what == strconv.Itoa(v.release)
	})
	if at >= 0 {
		return of[at].digest, nil
	}
	digest, err := g.Declared(to.repository, to.what, to.artifact)
	if err != nil || !slices.ContainsFunc(of, func(v version) bool { return v.digest == digest }) {
		return "", err
	}
	return digest, nil
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, to address, of []version) error {
	digest, err := g.find(to, of)
	if err != nil {
		return err
	}
	if digest == "" {
		refuse(w, r, http.StatusNotFound, manifestUnknown, to.repository+"/"+to.artifact+" has no "+to.what+
			": a tag is the number of a release, latest, a landed commit, or an environment")
		return nil
	}
	m, err := g.Artifacts.Manifest(digest)
	if errors.Is(err, artifact.ErrNone) {
		refuse(w, r, http.StatusNotFound, manifestUnknown,
			"its bytes are not kept any more; the release has to be built again")
		return nil
	}
	if err != nil {
		return err
	}

	h := w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(m.Bytes)))
	identify(h, digest, to.what == digest)
	if r.Header.Get("If-None-Match") == h.Get("ETag") {
		h.Del("Content-Length")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(m.Bytes) // the client may be gone
	}
	return nil
}

// identify sets what tells clients and caches which bytes come.
func identify(h http.Header, digest string, forever bool) {
	h.Set("Docker-Content-Digest", digest)
	h.Set("ETag", `"`+digest+`"`)
	h.Set("Cache-Control", "private, no-cache")
	if forever {
		h.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
}

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, to address, of []version) error {
	if !digestForm.MatchString(to.what) {
		refuse(w, r, http.StatusBadRequest, digestInvalid, "a digest is sha256: and 64 small hexadecimal digits")
		return nil
	}
	part, err := g.part(to.what, of)
	if err != nil {
		return err
	}
	if part == nil {
		refuse(w, r, http.StatusNotFound, blobUnknown, "no release of "+to.repository+" has it in "+to.artifact)
		return nil
	}
	f, err := g.Artifacts.OpenBlob(part.Digest)
	if errors.Is(err, artifact.ErrNone) {
		refuse(w, r, http.StatusNotFound, blobUnknown, "its bytes are not kept any more; the release has to be built again")
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()

	w.Header().Set("Content-Type", "application/octet-stream")
	identify(w.Header(), part.Digest, true)
	http.ServeContent(w, r, "", time.Time{}, f) // ranges too, so that a client can go on where it was cut off
	return nil
}

// part finds a blob among the parts of an artifact's versions, the newest first:
// that is the one which is pulled.
func (g *Registry) part(digest string, of []version) (*artifact.Blob, error) {
	looked := map[string]bool{}
	for _, v := range of {
		if looked[v.digest] {
			continue
		}
		looked[v.digest] = true
		m, err := g.Artifacts.Manifest(v.digest)
		if errors.Is(err, artifact.ErrNone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, b := range m.Blobs {
			if b.Digest == digest {
				return &b, nil
			}
		}
	}
	return nil, nil
}

// maxTags is how many tags one answer lists at the most.
const maxTags = 1000

// tags lists the releases by number, in the order of the specification, which is
// that of their spelling.
func (g *Registry) tags(w http.ResponseWriter, r *http.Request, to address, of []version) error {
	if to.what != "list" {
		refuse(w, r, http.StatusNotFound, nameUnknown, "the tags are at tags/list")
		return nil
	}
	var all []string
	for _, v := range of {
		all = append(all, strconv.Itoa(v.release))
	}
	all = append(all, "latest")
	slices.Sort(all)

	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		all = slices.DeleteFunc(all, func(tag string) bool { return tag <= last })
	}
	most := maxTags
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n >= 0 {
		most = min(n, maxTags)
	}
	if len(all) > most {
		all = all[:most]
		if most > 0 {
			w.Header().Set("Link", "</v2/"+to.repository+"/"+to.artifact+"/tags/list?n="+strconv.Itoa(most)+"&last="+all[most-1]+
				`>; rel="next"`)
		}
	}
	return writeJSON(w, r, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{to.repository + "/" + to.artifact, all})
}

// referrers is an empty list, as the specification wants it of a registry in which
// nothing refers to anything: the provenance of a release is in its tag.
func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, to address) error {
	if !digestForm.MatchString(to.what) {
		refuse(w, r, http.StatusBadRequest, digestInvalid, "a digest is sha256: and 64 small hexadecimal digits")
		return nil
	}
	const index = "application/vnd.oci.image.index.v1+json"
	return writeJSON(w, r, index, struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Manifests     []any  `json:"manifests"`
	}{2, index, []any{}})
}

func writeJSON(w http.ResponseWriter, r *http.Request, kind string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // the client may be gone
	}
	return nil
}

// turnAway answers a request that is not let in.
func (g *Registry) turnAway(w http.ResponseWriter, r *http.Request, f *transport.Refusal) {
	codes := map[int]code{
		http.StatusUnauthorized:    unauthorized,
		http.StatusForbidden:       denied,
		http.StatusNotFound:        nameUnknown,
		http.StatusTooManyRequests: tooMany,
	}
	c, ok := codes[f.Status]
	if !ok {
		c = unavailable
	}
	f.Header(w.Header())
	refuse(w, r, f.Status, c, sentence(f.Err))
}

func sentence(e *show.Error) string {
	if e.Hint == "" {
		return e.What
	}
	return e.What + "; " + e.Hint
}

// refuse answers with an error as the specification writes it.
func refuse(w http.ResponseWriter, r *http.Request, status int, c code, message string) {
	type problem struct {
		Code    code   `json:"code"`
		Message string `json:"message"`
	}
	data, err := json.Marshal(struct {
		Errors []problem `json:"errors"`
	}{[]problem{{c, message}}})
	if err != nil {
		panic(err) // strings always can be
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // the client may be gone
	}
}
