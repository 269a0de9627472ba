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

// whole is a list that is answered whole.
type whole struct{ list []object }

// MarshalJSON implements json.Marshaler.
func (o whole) MarshalJSON() ([]byte, error) { return json.Marshal(o.list) }
