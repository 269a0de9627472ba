package web

import (
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

type releasesView struct {
	Repo   *show.Repository
	Rows   []show.Release
	Total  int
	Seek   *seek
	Beside *beside
	Cut    bool // "all" is more than a page holds
}

func releasesPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	view := &releasesView{
		Repo: r,
		Seek: q.narrowed("/"+r.Name+"/releases", nil, authorField("Pushed or written by"), pathField()),
	}
	f := show.ReleaseFilter{
		Author: view.Seek.Fields[0].Value,
		Path:   strings.Trim(view.Seek.Fields[1].Value, "/"),
		All:    q.r.URL.Query().Has("all"),
	}
	if f.Part, err = q.part("release"); err != nil {
		return nil, err
	}
	found, err := q.Backend.Releases(q.r.Context(), q.actor, r.Name, f)
	if err != nil {
		return nil, err
	}
	found.Releases = orEmpty(found.Releases)
	view.Total, view.Rows, view.Beside = found.Total, found.Releases, q.besideOf(found.Beside)
	if len(view.Rows) > maxRows {
		view.Rows, view.Cut = view.Rows[:maxRows], true
	}
	p := q.repoPage(r, "releases", "Releases, "+r.Name, crumb{Text: "releases"})
	p.JSON = found
	p.Template, p.Data, p.Parts = "releases", view, []string{"releases-list", "asof"}
	p.Git = []command{{"Git", "git fetch origin 'refs/releases/*:refs/releases/*' && git for-each-ref refs/releases"},
		{"SSH", q.ssh("release list " + r.Name + q.options("author", "path", "before", "after"))}}
	return p, nil
}

type releaseView struct {
	show.Release
	Runs []releaseEnv
	Diff *difference
}

// releaseEnv is an environment that runs the release now.
type releaseEnv struct {
	show.Environment
	Href string
	Mark mark
}

// releaseFile answers with a file about a release, to be kept under a name with an ending.
func releaseFile(mediaType, ending string, of func(q *request, repository string, n int) ([]byte, error)) func(*request) error {
	return func(q *request) error {
		r, err := q.repository()
		if err != nil {
			return err
		}
		n, err := q.release(r)
		if err != nil {
			return err
		}
		data, err := of(q, r.Name, n)
		if err != nil {
			return q.nearRelease(r, n, err)
		}
		q.w.Header().Set("Content-Type", mediaType)
		q.w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%d.%s"`, r.Name, n, ending))
		_, err = q.w.Write(data)
		return gone(err)
	}
}

// billOfMaterials is what a release is made of.
func billOfMaterials(q *request, repository string, n int) ([]byte, error) {
	return q.Backend.SBOM(q.r.Context(), q.actor, repository, n)
}

// provenance is how a release was built, as the server has signed it, on a line of its own.
func provenance(q *request, repository string, n int) ([]byte, error) {
	k, err := q.Backend.Release(q.r.Context(), q.actor, repository, n)
	if err != nil {
		return nil, err
	}
	if k.Provenance == nil {
		return nil, notFound(fmt.Sprintf("the provenance of release %d cannot be read: %s", n, k.Invalid), "")
	}
	return fmt.Appendf(nil, "%s\n", k.Provenance.Envelope), nil
}

// release is the number of the release of the address.
func (q *request) release(r *show.Repository) (int, error) {
	n, ok := q.number()
	if !ok {
		return 0, &nearby{
			err:     notFound("a release is a number, and "+cut(q.arg("n"), 40)+" is not one", ""),
			nearest: []link{releasesOf(r)},
		}
	}
	return n, nil
}

// nearRelease adds to an error that a release is not there which ones are.
func (q *request) nearRelease(r *show.Repository, n int, err error) error {
	if !isNotFound(err) {
		return err
	}
	near := []link{releasesOf(r)}
	if r.Release > 0 && n > r.Release {
		near = append([]link{{Text: fmt.Sprintf("release %d, the newest", r.Release),
			Href: fmt.Sprintf("/%s/releases/%d", r.Name, r.Release)}}, near...)
	}
	return &nearby{err: err, nearest: near}
}

func releasesOf(r *show.Repository) link {
	return link{Text: "all releases of " + r.Name, Href: "/" + r.Name + "/releases"}
}

func releasePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	n, err := q.release(r)
	if err != nil {
		return nil, err
	}
	k, err := q.Backend.Release(q.r.Context(), q.actor, r.Name, n)
	if err != nil {
		return nil, q.nearRelease(r, n, err)
	}
	view := &releaseView{Release: k}
	view.Diff = q.releaseDiff(r.Name, k.Before, n)
	for _, e := range r.Environments {
		if e.Release == n {
			view.Runs = append(view.Runs, releaseEnv{e, envHref(r.Name, e.Name), markOf(e.State)})
		}
	}
	p := q.repoPage(r, "releases", fmt.Sprintf("Release %d, %s", n, r.Name),
		crumb{Text: "releases", Href: "/" + r.Name + "/releases", Keep: true}, crumb{Text: fmt.Sprintf("release %d", n)})
	p.JSON = k
	p.Template, p.Data, p.Parts = "release", view, []string{"release-all", "release-diff", "asof"}
	for _, line := range view.Diff.Git {
		p.Git = append(p.Git, command{"Source", line})
	}
	p.Git = append(p.Git, []command{
		{"Git", fmt.Sprintf("git fetch origin refs/releases/%d && git cat-file -p FETCH_HEAD", n)},
		{"Verify", fmt.Sprintf(
			"git fetch origin refs/releases/%d:refs/tags/release-%d && git -c gpg.ssh.allowedSignersFile=allowed-signers tag -v release-%d", n, n, n)},
	}...)
	return p, nil
}
