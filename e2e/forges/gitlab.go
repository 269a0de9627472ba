package forges

import (
	"net/http"
	"slices"
)

// gitLab is GitLab's dialect.
func (f *Forge) gitLab(handle func(string, func(*http.Request, object) (any, error))) {
	const at = "projects/{project}/"
	user := func(login string) object { return object{"username": login, "id": userID(login)} }
	request := func(r *Request) object {
		source := 1
		if r.Fork {
			source = 2
		}
		state := r.State
		if state == "open" {
			state = "opened"
		}
		o := object{
			"iid": r.Number, "title": r.Title, "state": state, "sha": f.head(r), "source_branch": r.Branch,
			"target_branch": r.Target,
			"author":        user(r.Author), "source_project_id": source, "target_project_id": 1, "merge_user": nil,
		}
		if r.Merger != "" {
			o["merge_user"] = user(r.Merger)
		}
		return o
	}
	note := func(c *Comment) object {
		return object{"id": c.ID, "author": user(c.Author), "body": c.Body, "system": false, "created_at": c.Created,
			"updated_at": c.Updated}
	}
	named := func(do func(*http.Request, object) (any, error)) func(*http.Request, object) (any, error) {
		return func(r *http.Request, in object) (any, error) {
			if r.PathValue("project") != Name {
				return nil, answer(http.StatusNotFound)
			}
			return do(r, in)
		}
	}
	handle("GET "+at+"merge_requests", named(func(r *http.Request, _ object) (any, error) {
		list := []object{}
		for _, r := range f.listed(r) {
			list = append(list, request(r))
		}
		return list, nil
	}))
	handle("GET "+at+"merge_requests/{n}", named(func(r *http.Request, _ object) (any, error) {
		m, err := f.request(number(r, "n"))
		if err != nil {
			return nil, err
		}
		return request(m), nil
	}))
	handle("PUT "+at+"merge_requests/{n}", named(func(r *http.Request, in object) (any, error) {
		m, err := f.request(number(r, "n"))
		if err != nil {
			return nil, err
		}
		if text(in, "state_event") == "close" {
			m.State = "closed"
		}
		m.edit(text(in, "title"), text(in, "description"))
		return request(m), nil
	}))
	handle("POST "+at+"merge_requests", named(func(_ *http.Request, in object) (any, error) {
		m, err := f.created(text(in, "source_branch"), text(in, "target_branch"), text(in, "title"), text(in, "description"))
		if err != nil {
			return nil, err
		}
		return request(m), nil
	}))
	handle("POST "+at+"statuses/{sha}", named(func(r *http.Request, in object) (any, error) {
		sha := r.PathValue("sha")
		for _, s := range slices.Backward(f.statuses) {
			if s.Commit == sha {
				if s.State == text(in, "state") {
					return nil, said{http.StatusBadRequest, "Cannot transition status via :enqueue from :pending"}
				}
				break
			}
		}
		return f.publish(sha, Status{
			Context: text(in, "name"), State: text(in, "state"), Description: text(in, "description"),
			URL: text(in, "target_url"),
		})
	}))
	handle("GET "+at+"merge_requests/{n}/notes", named(func(r *http.Request, _ object) (any, error) {
		list := []object{}
		for _, c := range slices.Backward(f.since(number(r, "n"), "")) {
			list = append(list, note(c))
		}
		return list, nil
	}))
	handle("POST "+at+"merge_requests/{n}/notes", named(func(r *http.Request, in object) (any, error) {
		if _, err := f.request(number(r, "n")); err != nil {
			return nil, err
		}
		return note(f.say(headgate, number(r, "n"), text(in, "body"))), nil
	}))
	handle("PUT "+at+"merge_requests/{n}/notes/{id}", named(func(r *http.Request, in object) (any, error) {
		c, err := f.edit(int64(number(r, "id")), text(in, "body"))
		if err != nil {
			return nil, err
		}
		return note(c), nil
	}))
	f.hooking(at, "PUT", "test/push_events", handle)
	handle("POST "+at+"deployments", named(func(_ *http.Request, in object) (any, error) {
		d := Deployment{ID: int64(len(f.deployments) + 1), Environment: text(in, "environment"), Commit: text(in, "sha"),
			State: text(in, "status")}
		f.deployments = append(f.deployments, d)
		return object{"id": d.ID}, nil
	}))
	handle("PUT "+at+"deployments/{id}", named(func(r *http.Request, in object) (any, error) {
		i := number(r, "id") - 1
		if i < 0 || i >= len(f.deployments) {
			return nil, answer(http.StatusNotFound)
		}
		if f.deployments[i].State == text(in, "status") {
			return nil, said{http.StatusBadRequest, "Cannot transition status via :run from :running"}
		}
		f.deployments[i].State = text(in, "status")
		return object{}, nil
	}))
	handle("GET "+at+"environments", named(func(r *http.Request, _ object) (any, error) {
		for _, d := range f.deployments {
			if d.Environment == r.URL.Query().Get("name") {
				return []object{{"id": 1, "external_url": d.URL}}, nil
			}
		}
		return []object{}, nil
	}))
	handle("PUT "+at+"environments/{id}", named(func(_ *http.Request, in object) (any, error) {
		for i := range f.deployments {
			f.deployments[i].URL = text(in, "external_url")
		}
		return object{}, nil
	}))
	handle("GET "+at+"members/all/{user}", named(func(r *http.Request, _ object) (any, error) {
		for login, level := range f.levels {
			if userID(login) == int64(number(r, "user")) {
				return object{"access_level": map[string]int{"read": 20, "write": 30, "admin": 50}[level], "state": "active"}, nil
			}
		}
		return nil, answer(http.StatusNotFound)
	}))
}
