package forges

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

type object = map[string]any

// api answers in the dialect of the forge.
func (f *Forge) api() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request, in object) (any, error)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+f.root+path, func(w http.ResponseWriter, r *http.Request) {
			in := object{}
			if r.Body != nil && r.Header.Get("Content-Type") == "application/json" {
				if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
					http.Error(w, `{"message":"Problems parsing JSON"}`, http.StatusBadRequest)
					return
				}
			}
			f.mu.Lock()
			out, err := do(r, in)
			f.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			if list, ok := out.([]object); ok && err == nil {
				out = paged(w, r, list)
			}
			switch e := err.(type) {
			case nil:
			case answer:
				w.WriteHeader(int(e))
				out = object{"message": http.StatusText(int(e))}
			case said:
				w.WriteHeader(e.status)
				out = object{"message": e.text}
			default:
				w.WriteHeader(http.StatusNotFound)
				out = object{"message": e.Error()}
			}
			f.write(w, r, out)
		})
	}
	if f.Kind == "gitlab" {
		f.gitLab(handle)
	} else {
		f.gitHub(handle)
	}
	return mux
}

// write writes an answer; or that it is as it was, to who asks so. Gitea does not do that.
func (f *Forge) write(w http.ResponseWriter, r *http.Request, out any) {
	data, err := json.Marshal(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodGet && f.Kind != "gitea" {
		sum := sha256.Sum256(append(data, w.Header().Get("Link")...))
		tag := fmt.Sprintf("W/%q", hex.EncodeToString(sum[:]))
		if r.Header.Get("If-None-Match") == tag {
			f.mu.Lock()
			f.unchanged++
			f.mu.Unlock()
			w.Header().Del("Link")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", tag)
	}
	_, _ = w.Write(data)
}

// Unchanged is how many calls were answered that all is as it was.
func (f *Forge) Unchanged() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unchanged
}

// answer is a status that a call gets.
type answer int

func (a answer) Error() string { return http.StatusText(int(a)) }

// said is an answer with words of its own.
type said struct {
	status int
	text   string
}

func (s said) Error() string { return s.text }

// mostPerPage keeps pages small, so that who reads one only is found out.
const mostPerPage = 3

func paged(w http.ResponseWriter, r *http.Request, list []object) []object {
	query, by := r.URL.Query(), "page"
	if strings.HasSuffix(r.URL.Path, "/deliveries") {
		by = "cursor"
	}
	page, _ := strconv.Atoi(query.Get(by))
	page = max(page, 1)
	from, to := min((page-1)*mostPerPage, len(list)), min(page*mostPerPage, len(list))
	if to < len(list) {
		query.Set(by, strconv.Itoa(page+1))
		w.Header().Set("Link", fmt.Sprintf(`<http://%s%s?%s>; rel="next"`, r.Host, r.URL.Path, query.Encode()))
	}
	return append([]object{}, list[from:to]...)
}

func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.PathValue(name))
	return n
}

func text(in object, name string) string {
	s, _ := in[name].(string)
	return s
}

// listed are the requests that a list asks for: the open ones, oldest first, or all,
// newest first, to and from branches if it says so.
func (f *Forge) listed(r *http.Request) (list []*Request) {
	query := r.URL.Query()
	if query.Get("state") != "all" {
		return f.open()
	}
	branch := strings.TrimPrefix(query.Get("head")+query.Get("source_branch"), "owner:")
	target := query.Get("base") + query.Get("target_branch")
	for i := len(f.requests); i > 0; i-- {
		if r, err := f.request(i); err == nil && (branch == "" || r.Branch == branch) &&
			(target == "" || r.Target == target) {
			list = append(list, r)
		}
	}
	return list
}

// open are the requests that are open, oldest first.
func (f *Forge) open() (list []*Request) {
	for i := range f.requests {
		if r, err := f.request(i + 1); err == nil && r.State == "open" {
			list = append(list, r)
		}
	}
	return list
}

func (f *Forge) head(r *Request) string {
	commit, err := git("-C", f.Dir, "rev-parse", r.ref)
	if err != nil {
		return ""
	}
	return commit
}

// userID is a number that belongs to a login.
func userID(login string) (id int64) {
	for _, c := range login {
		id = id*31 + int64(c)
	}
	return id
}

func (f *Forge) since(request int, since string) (list []*Comment) {
	at, _ := time.Parse(time.RFC3339, since)
	for _, c := range f.comments {
		if c.Request == request && !c.Updated.Before(at) {
			list = append(list, c)
		}
	}
	return list
}

func (f *Forge) edit(id int64, body string) (*Comment, error) {
	i := slices.IndexFunc(f.comments, func(c *Comment) bool { return c.ID == id })
	if i < 0 {
		return nil, answer(http.StatusNotFound)
	}
	f.comments[i].Body = body
	f.comments[i].Updated = time.Now().UTC().Truncate(time.Second)
	return f.comments[i], nil
}

func (f *Forge) publish(commit string, s Status) (any, error) {
	if _, err := git("-C", f.Dir, "cat-file", "-e", commit+"^{commit}"); err != nil {
		return nil, answer(http.StatusUnprocessableEntity)
	}
	s.Commit = commit
	if len(s.Description) > 140 || s.Context == "" ||
		!slices.Contains([]string{"pending", "running", "success", "failure", "failed"}, s.State) {
		return nil, answer(http.StatusUnprocessableEntity)
	}
	f.statuses = append(f.statuses, s)
	return object{"id": len(f.statuses)}, nil
}

// created opens a request of whoever has the token, as the forges do: of two branches
// that are there, and once.
func (f *Forge) created(branch, target, title, body string) (*Request, error) {
	if title == "" {
		return nil, answer(http.StatusUnprocessableEntity)
	}
	for _, name := range []string{branch, target} {
		if _, err := git("-C", f.Dir, "rev-parse", "--verify", "-q", "refs/heads/"+name); err != nil {
			return nil, answer(http.StatusUnprocessableEntity)
		}
	}
	for _, r := range f.open() {
		if r.Branch == branch && r.Target == target && !r.Fork {
			return nil, answer(http.StatusConflict)
		}
	}
	return f.propose(Request{Title: title, Author: headgate, Branch: branch, Target: target, Body: body})
}

func (r *Request) edit(title, body string) {
	if title != "" {
		r.Title = title
	}
	if body != "" {
		r.Body = body
	}
}

// headgate is who has the token.
const headgate = "headgate-bot"

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
		return object{"id": c.ID, "user": user(c.Author), "body": c.Body, "created_at": c.Created, "updated_at": c.Updated}
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

// hooking is what all have of webhooks, each with its words.
func (f *Forge) hooking(at, edit, test string, handle func(string, func(*http.Request, object) (any, error))) {
	read := func(in object) hook {
		if config, ok := in["config"].(map[string]any); ok {
			return hook{address: text(config, "url"), secret: text(config, "secret")}
		}
		return hook{address: text(in, "url"), secret: text(in, "token")}
	}
	shown := func(i int) object {
		address, alert := f.hooks[i].address, "executable"
		if f.hooks[i].off {
			alert = "disabled"
		}
		return object{
			"id": i + 1, "url": address, "config": object{"url": address, "content_type": "json"},
			"active": !f.hooks[i].off, "alert_status": alert,
		}
	}
	place := func(r *http.Request) (int, error) {
		if i := number(r, "id") - 1; i >= 0 && i < len(f.hooks) {
			return i, nil
		}
		return 0, answer(http.StatusNotFound)
	}
	handle("GET "+at+"hooks", func(*http.Request, object) (any, error) {
		list := []object{}
		for i := range f.hooks {
			list = append(list, shown(i))
		}
		return list, nil
	})
	handle("POST "+at+"hooks", func(_ *http.Request, in object) (any, error) {
		h := read(in)
		if h.address == "" || h.secret == "" {
			return nil, answer(http.StatusUnprocessableEntity)
		}
		f.hooks = append(f.hooks, h)
		return shown(len(f.hooks) - 1), nil
	})
	handle(edit+" "+at+"hooks/{id}", func(r *http.Request, in object) (any, error) {
		i, err := place(r)
		if err != nil {
			return nil, err
		}
		f.hooks[i] = read(in)
		return shown(i), nil
	})
	handle("POST "+at+"hooks/{id}/"+test, func(r *http.Request, _ object) (any, error) {
		i, err := place(r)
		if err != nil {
			return nil, err
		}
		h := f.hooks[i]
		f.ids++
		go f.Hook(h.address, fmt.Sprint("test-", f.ids), h.secret, -1, 0)
		return object{}, nil
	})
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
		d := Deployment{ID: int64(len(f.deployments) + 1), Environment: text(in, "environment"), Commit: text(in, "ref"),
			Description: text(in, "description")}
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

// whole is a list that is answered whole.
type whole struct{ list []object }

// MarshalJSON implements json.Marshaler.
func (o whole) MarshalJSON() ([]byte, error) { return json.Marshal(o.list) }

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
