package forges

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// gitHub is what GitHub and Gitea have in common, which is nearly all.
func (f *Forge) gitHub(handle func(string, func(*http.Request, object) (any, error))) {
	const at = "repos/owner/name/"
	user := func(login string) object { return object{"login": login, "id": userID(login)} }
	request := func(r *Request) object {
		home := object{"id": 1, "full_name": Name}
		from := home
		if r.Fork {
			from = object{"id": 2, "full_name": "somebody/name"}
		}
		state := r.State
		o := object{
			"number": r.Number, "title": r.Title, "user": user(r.Author),
			"head": object{"ref": r.Branch, "sha": f.head(r), "repo": from},
			"base": object{"ref": r.Target, "repo": home},
		}
		if r.State == "merged" {
			state = "closed"
			o["merged"], o["merged_at"] = true, time.Now().UTC().Format(time.RFC3339)
			if r.Merger != "" {
				o["merged_by"] = user(r.Merger)
			}
		}
		o["state"] = state
		return o
	}
	comment := func(c *Comment) object {
		return object{
			"id":         c.ID,
			"user":       user(c.Author),
			"body":       c.Body,
			"created_at": c.Created,
			"updated_at": c.Updated,
		}
	}
	empty := func() bool {
		heads, err := git("-C", f.Dir, "for-each-ref", "--count=1", "refs/heads")
		return err == nil && heads == ""
	}
	handle("GET repos/"+Name, func(*http.Request, object) (any, error) {
		return object{"id": 1, "full_name": Name, "empty": empty(), "has_pull_requests": true}, nil
	})
	handle("GET "+at+"pulls", func(r *http.Request, _ object) (any, error) {
		if f.Kind == "gitea" && empty() { // it has no list then
			return nil, answer(http.StatusNotFound)
		}
		list := []object{}
		for _, r := range f.listed(r) {
			list = append(list, request(r))
		}
		return list, nil
	})
	handle("GET "+at+"pulls/{n}", func(r *http.Request, _ object) (any, error) {
		p, err := f.request(number(r, "n"))
		if err != nil {
			return nil, err
		}
		return request(p), nil
	})
	handle("PATCH "+at+"pulls/{n}", func(r *http.Request, in object) (any, error) {
		p, err := f.request(number(r, "n"))
		if err != nil {
			return nil, err
		}
		if state := text(in, "state"); state != "" {
			p.State = state
		}
		p.edit(text(in, "title"), text(in, "body"))
		return request(p), nil
	})
	handle("POST "+at+"pulls", func(_ *http.Request, in object) (any, error) {
		p, err := f.created(text(in, "head"), text(in, "base"), text(in, "title"), text(in, "body"))
		if err != nil {
			return nil, err
		}
		return request(p), nil
	})
	if f.Kind == "github" {
		f.apps(handle)
		f.deploying(at, handle)
		f.hooking(at, "PATCH", "pings", handle)
		f.logging(at, handle)
		f.checking(at, handle)
	} else {
		f.hooking(at, "PATCH", "tests", handle)
	}
	handle("POST "+at+"pulls/{n}/merge", func(r *http.Request, in object) (any, error) {
		p, err := f.request(number(r, "n"))
		if err != nil {
			return nil, err
		}
		if f.Kind != "gitea" || text(in, "Do") != "manually-merged" {
			return nil, answer(http.StatusMethodNotAllowed)
		}
		// Whether it is the request's own it does not ask.
		if _, err := git("-C", f.Dir, "merge-base", "--is-ancestor", text(in, "MergeCommitID"), "refs/heads/"+p.Target); err != nil {
			return nil, answer(http.StatusConflict)
		}
		p.State = "merged"
		return object{}, nil
	})
	handle("POST "+at+"statuses/{sha}", func(r *http.Request, in object) (any, error) {
		return f.publish(r.PathValue("sha"), Status{
			Context: text(in, "context"), State: text(in, "state"), Description: text(in, "description"),
			URL: text(in, "target_url"),
		})
	})
	handle("GET "+at+"issues/{n}/comments", func(r *http.Request, _ object) (any, error) {
		list := []object{}
		for _, c := range f.since(number(r, "n"), r.URL.Query().Get("since")) {
			list = append(list, comment(c))
		}
		if f.Kind == "gitea" { // it has no pages here
			return whole{list}, nil
		}
		return list, nil
	})
	handle("POST "+at+"issues/{n}/comments", func(r *http.Request, in object) (any, error) {
		if _, err := f.request(number(r, "n")); err != nil {
			return nil, err
		}
		return comment(f.say(headgate, number(r, "n"), text(in, "body"))), nil
	})
	handle("PATCH "+at+"issues/comments/{id}", func(r *http.Request, in object) (any, error) {
		c, err := f.edit(int64(number(r, "id")), text(in, "body"))
		if err != nil {
			return nil, err
		}
		return comment(c), nil
	})
	handle("GET "+at+"collaborators/{user}/permission", func(r *http.Request, _ object) (any, error) {
		level, known := f.levels[r.PathValue("user")]
		if !known {
			return nil, answer(http.StatusNotFound)
		}
		if level == "" {
			level = "none"
		}
		return object{"permission": level, "role_name": level}, nil
	})
}

// checking is what GitHub has of check runs, which are an App's.
func (f *Forge) checking(at string, handle func(string, func(*http.Request, object) (any, error))) {
	shown := func(c *CheckRun) object {
		o := object{"id": c.ID, "name": c.Name, "head_sha": c.Commit, "status": c.Status, "conclusion": nil}
		if c.Conclusion != "" {
			o["conclusion"] = c.Conclusion
		}
		return o
	}
	// take takes what is said of a run over: what has ended has a conclusion.
	take := func(c *CheckRun, in object) error {
		c.Status, c.Conclusion, c.URL = text(in, "status"), text(in, "conclusion"), text(in, "details_url")
		output, _ := in["output"].(map[string]any)
		c.Title, c.Summary = text(output, "title"), text(output, "summary")
		more, _ := output["annotations"].([]any)
		if c.Name == "" || len(more) > 50 || (c.Status == "completed") != (c.Conclusion != "") ||
			!slices.Contains(
				[]string{"queued", "in_progress", "completed"},
				c.Status,
			) || c.Title == "" || c.Summary == "" {
			return answer(http.StatusUnprocessableEntity)
		}
		for _, one := range more {
			a, _ := one.(map[string]any)
			line, _ := a["start_line"].(float64)
			if text(a, "path") == "" || line < 1 || a["end_line"] != line || text(a, "message") == "" ||
				text(a, "annotation_level") != "failure" {
				return answer(http.StatusUnprocessableEntity)
			}
			c.Annotations = append(
				c.Annotations,
				fmt.Sprintf("%s:%.0f: %s", text(a, "path"), line, text(a, "message")),
			)
		}
		return nil
	}
	handle("GET "+at+"commits/{commit}/check-runs", func(r *http.Request, _ object) (any, error) {
		query, newest := r.URL.Query(), []object{}
		for _, c := range slices.Backward(f.runs) { // of each name the latest
			if c.Commit == r.PathValue("commit") && c.Name == query.Get("check_name") && len(newest) == 0 {
				newest = append(newest, shown(c))
			}
		}
		return object{"total_count": len(newest), "check_runs": newest}, nil
	})
	handle("POST "+at+"check-runs", func(_ *http.Request, in object) (any, error) {
		c := &CheckRun{ID: 1<<60 + int64(len(f.runs)), Name: text(in, "name"), Commit: text(in, "head_sha")}
		if _, err := git("-C", f.Dir, "cat-file", "-e", c.Commit+"^{commit}"); err != nil {
			return nil, answer(http.StatusUnprocessableEntity)
		}
		if err := take(c, in); err != nil {
			return nil, err
		}
		f.runs = append(f.runs, c)
		return shown(c), nil
	})
	handle("PATCH "+at+"check-runs/{id}", func(r *http.Request, in object) (any, error) {
		i := number(r, "id") - 1<<60
		if i < 0 || i >= len(f.runs) {
			return nil, answer(http.StatusNotFound)
		}
		return shown(f.runs[i]), take(f.runs[i], in)
	})
}

// CheckRun is one that an App has made, with what was said of it last.
type CheckRun struct {
	ID                                                    int64
	Name, Commit, Status, Conclusion, Title, Summary, URL string
	Annotations                                           []string // all that were added
}

// CheckRuns are those of a commit, oldest first.
func (f *Forge) CheckRuns(commit string) (list []CheckRun) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.runs {
		if c.Commit == commit {
			list = append(list, *c)
		}
	}
	return list
}

// logging is GitHub's log of what it has posted to webhooks, newest first.
func (f *Forge) logging(at string, handle func(string, func(*http.Request, object) (any, error))) {
	shown := func(i int) object {
		p := f.posted[i]
		return object{"id": 1<<60 + i, "guid": p.id, "delivered_at": p.at, "event": p.event, "status_code": p.status}
	}
	handle("GET "+at+"hooks/{id}/deliveries", func(r *http.Request, _ object) (any, error) {
		list := []object{}
		for i := range slices.Backward(f.posted) {
			if f.posted[i].hook == number(r, "id")-1 {
				list = append(list, shown(i))
			}
		}
		return list, nil
	})
	handle("GET "+at+"hooks/{id}/deliveries/{delivery}", func(r *http.Request, _ object) (any, error) {
		i := number(r, "delivery") - 1<<60
		if i < 0 || i >= len(f.posted) || f.posted[i].hook != number(r, "id")-1 {
			return nil, answer(http.StatusNotFound)
		}
		one := shown(i)
		one["request"] = object{"headers": object{}, "payload": json.RawMessage(f.posted[i].body)}
		return one, nil
	})
}

// deploying is what GitHub has of deployments and of workflows' runs. The run 4040 is not
// there; every other one is of the commit of main.
func (f *Forge) deploying(at string, handle func(string, func(*http.Request, object) (any, error))) {
	handle("GET "+at+"deployments", func(r *http.Request, _ object) (any, error) {
		list := []object{}
		for _, d := range f.deployments {
			if d.Commit == r.URL.Query().Get("sha") && d.Environment == r.URL.Query().Get("environment") {
				list = append(list, object{"id": d.ID, "description": d.Description, "environment": d.Environment})
			}
		}
		return list, nil
	})
	handle("POST "+at+"deployments", func(_ *http.Request, in object) (any, error) {
		contexts, given := in["required_contexts"].([]any)
		if in["auto_merge"] != false || !given || len(contexts) > 0 {
			return nil, answer(http.StatusConflict)
		}
		d := Deployment{
			ID:          int64(len(f.deployments) + 1),
			Environment: text(in, "environment"),
			Commit:      text(in, "ref"),
			Description: text(in, "description"),
		}
		f.deployments = append(f.deployments, d)
		return object{"id": d.ID}, nil
	})
	handle("POST "+at+"deployments/{id}/statuses", func(r *http.Request, in object) (any, error) {
		i := number(r, "id") - 1
		if i < 0 || i >= len(f.deployments) {
			return nil, answer(http.StatusNotFound)
		}
		d := &f.deployments[i]
		d.State, d.URL, d.Text = text(in, "state"), text(in, "environment_url"), text(in, "description")
		return object{}, nil
	})
	handle("GET "+at+"actions/runs/{id}", func(r *http.Request, _ object) (any, error) {
		if r.PathValue("id") == "4040" {
			return nil, answer(http.StatusNotFound)
		}
		commit, err := git("-C", f.Dir, "rev-parse", "main")
		return object{"id": number(r, "id"), "head_sha": commit}, err
	})
	handle("POST "+at+"actions/runs/{id}/deployment_protection_rule", func(r *http.Request, in object) (any, error) {
		a := Protection{r.PathValue("id"), text(in, "environment_name"), text(in, "state"), text(in, "comment")}
		if slices.ContainsFunc(f.answers,
			func(b Protection) bool { return a.Run == b.Run && a.Environment == b.Environment }) {
			return nil, answer(http.StatusUnprocessableEntity)
		}
		f.answers = append(f.answers, a)
		return object{}, nil
	})
}
