package web

import (
	"fmt"
	"slices"

	"github.com/headgate-cd/headgate/gitd/show"
)

// releasesFacts is the JSON of the list of releases.
type releasesFacts struct {
	Releases []show.Release `json:"releases"`
}

type releasesView struct {
	Repo *show.Repository
	Rows []show.Release
	Cut  int // older ones that the page leaves out
}

func releasesPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	all, err := q.Backend.Releases(q.r.Context(), q.actor, r.Name)
	if err != nil {
		return nil, err
	}
	view := &releasesView{Repo: r, Rows: all}
	if len(all) > maxRows {
		view.Rows, view.Cut = all[:maxRows], len(all)-maxRows
	}
	p := q.repoPage(r, "releases", "Releases, "+r.Name, crumb{Text: "releases"})
	p.JSON = releasesFacts{orEmpty(all)}
	p.Template, p.Data, p.Parts = "releases", view, []string{"releases-list", "asof"}
	p.Git = []command{{"Git", "git fetch origin 'refs/releases/*:refs/releases/*' && git for-each-ref refs/releases"}}
	return p, nil
}

type releaseView struct {
	show.Release
	Runs   []releaseEnv
	Before int // the release it is compared with, 0: none
	Diff   *difference
}

// releaseEnv is an environment that runs the release now.
type releaseEnv struct {
	show.Environment
	Href string
	Mark mark
}

// billOfMaterials answers with what a release is made of.
func billOfMaterials(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	all, err := q.Backend.Releases(q.r.Context(), q.actor, r.Name)
	if err != nil {
		return err
	}
	n, _ := q.number() // 0 is none
	i := slices.IndexFunc(all, func(k show.Release) bool { return k.Number == n })
	if i < 0 || all[i].SBOM == nil {
		return &nearby{err: notFound("there is no such release here, or nothing in its tree says what it is made of", ""),
			nearest: []link{{Text: "all releases of " + r.Name, Href: "/" + r.Name + "/releases"}}}
	}
	data, err := q.Backend.SBOM(q.r.Context(), q.actor, r.Name, n)
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", "application/vnd.cyclonedx+json; version=1.6")
	q.w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%d.cdx.json"`, r.Name, n))
	_, err = q.w.Write(data)
	return gone(err)
}

func releasePage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	all, err := q.Backend.Releases(q.r.Context(), q.actor, r.Name)
	if err != nil {
		return nil, err
	}
	list := link{Text: "all releases of " + r.Name, Href: "/" + r.Name + "/releases"}
	n, ok := q.number()
	if !ok {
		return nil, &nearby{err: notFound("a release is a number, and "+cut(q.arg("n"), 40)+" is none", ""),
			nearest: []link{list}}
	}
	for i, k := range all {
		if k.Number != n {
			continue
		}
		view := &releaseView{Release: k}
		if i+1 < len(all) { // newest first
			view.Before = all[i+1].Number
		}
		view.Diff = q.releaseDiff(r.Name, view.Before, n)
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
	near := []link{list}
	if len(all) > 0 {
		near = append([]link{{Text: fmt.Sprintf("release %d, the newest", all[0].Number),
			Href: fmt.Sprintf("/%s/releases/%d", r.Name, all[0].Number)}}, near...)
	}
	return nil, &nearby{err: notFound(fmt.Sprintf("there is no release %d in %s", n, r.Name), ""), nearest: near}
}
