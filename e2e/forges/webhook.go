package forges

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"
)

// hook is a webhook that was made by the API.
type hook struct {
	address, secret string
	off             bool
}

// posted is one attempt to post to such a webhook.
type posted struct {
	hook   int
	id     string
	event  string
	body   []byte
	at     time.Time
	status int
}

// note keeps what became of an attempt.
func (f *Forge) note(address string, p posted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.hook = slices.IndexFunc(f.hooks, func(h hook) bool { return h.address == address })
	if p.hook >= 0 {
		p.at = time.Now().UTC()
		f.posted = append(f.posted, p)
	}
}

// SwitchOff implements People.
func (f *Forge) SwitchOff(address string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.hooks {
		if f.hooks[i].address == address {
			f.hooks[i].off = true
		}
	}
	return nil
}

// Hooks implements People.
func (f *Forge) Hooks() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]string{}
	for _, h := range f.hooks {
		all[h.address] = h.secret
	}
	return all
}

// Hook posts a webhook: of a push; of a request, with one; of a comment on it, with
// both; and a test of itself with request -1. It is signed with secret, and not when that is empty.
func (f *Forge) Hook(address, id, secret string, request int, comment int64) (status int, answer string, err error) {
	event := "push"
	var data []byte
	defer func() { f.note(address, posted{id: id, event: event, body: data, status: status}) }()
	body := map[string]any{"ref": "refs/heads/main", "repository": map[string]any{"full_name": Name}}
	kind, attributes := "push", map[string]any{}
	switch {
	case request < 0 && f.Kind == "github":
		event = "ping"
	case comment != 0:
		event, kind = "issue_comment", "note"
		body = map[string]any{
			"action":     "created",
			"is_pull":    true,
			"repository": map[string]any{"full_name": Name},
			"issue":      map[string]any{"number": request, "pull_request": map[string]any{}},
			"comment":    map[string]any{"id": comment},
		}
		attributes = map[string]any{"id": comment, "action": "create", "noteable_type": "MergeRequest"}
	case request > 0:
		event, kind = "pull_request", "merge_request"
		body = map[string]any{
			"action":     "synchronize",
			"number":     request,
			"repository": map[string]any{"full_name": Name},
		}
		attributes = map[string]any{"iid": request, "action": "update"}
	}
	if f.Kind == "gitlab" {
		body = map[string]any{
			"object_kind":       kind,
			"project":           map[string]any{"path_with_namespace": Name},
			"object_attributes": attributes,
			"merge_request":     map[string]any{"iid": request},
		}
	}
	if data, err = json.Marshal(body); err != nil {
		return 0, "", err
	}
	r, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(data))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(data)
	sum := hex.EncodeToString(m.Sum(nil))
	signature := map[string][2]string{
		"github": {"X-Hub-Signature-256", "sha256=" + sum},
		"gitea":  {"X-Gitea-Signature", sum},
		"gitlab": {"X-Gitlab-Token", secret},
	}[f.Kind]
	named := map[string]string{"github": "X-GitHub-", "gitea": "X-Gitea-", "gitlab": "X-Gitlab-"}[f.Kind]
	r.Header.Set(named+"Event", event)
	r.Header.Set(named+"Delivery", id)
	if f.Kind == "gitlab" {
		r.Header.Set("X-Gitlab-Event-UUID", id)
	}
	if secret != "" {
		r.Header.Set(signature[0], signature[1])
	}
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode, string(text), err
}
