package forge

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Key is what to look at again at the forge. Equal keys are one piece of work.
type Key struct {
	Of      KeyKind `json:"of"`
	Request int     `json:"request,omitempty"` // pull or merge request
	Comment int64   `json:"comment,omitempty"` // the forge's id, re-read before it counts
	Commit  string  `json:"commit,omitempty"`  // full id
	By      Person  `json:"by,omitzero"`       // who asks, of a rerun
	// Environment and Run name a deployment that GitHub asks our policies about.
	Environment string `json:"environment,omitempty"`
	Run         int64  `json:"run,omitempty"`
}

// KeyKind is what a Key is about.
type KeyKind string

const (
	OfRefs       KeyKind = "refs"        // branches and tags
	OfRequest    KeyKind = "request"     // state, head and target of Request
	OfComment    KeyKind = "comment"     // Comment on Request, newly written
	OfMergeGroup KeyKind = "merge-group" // GitHub's own queue asks about Commit
	OfRerun      KeyKind = "rerun"       // somebody asked to build Commit again
	OfProtection KeyKind = "protection"  // GitHub asks whether Run may go to Environment
)

// Hints is what a delivery comes to.
type Hints struct {
	Keys   []Key
	Reason string // why there are none: "event star is not used"
}

// payload is what of all forges' bodies is read. Everything else in a body, and
// its type, is of no interest; null and missing are the same.
type payload struct {
	Action     string      `json:"action"`
	Repository *repository `json:"repository"`
	Project    *project    `json:"project"`

	// GitHub, Gitea
	Number      int             `json:"number"`
	PullRequest *numbered       `json:"pull_request"`
	Issue       *issue          `json:"issue"`
	Comment     *identified     `json:"comment"`
	IsPull      bool            `json:"is_pull"`
	MergeGroup  *head           `json:"merge_group"`
	CheckRun    *head           `json:"check_run"`
	CheckSuite  *head           `json:"check_suite"`
	Sender      *Person         `json:"sender"`
	Environment json.RawMessage `json:"environment"` // a name, or an object in other events
	Callback    string          `json:"deployment_callback_url"`

	// GitLab
	ObjectKind   string      `json:"object_kind"`
	Attributes   *attributes `json:"object_attributes"`
	MergeRequest *merge      `json:"merge_request"`
}

type (
	repository struct {
		FullName string `json:"full_name"`
	}
	project struct {
		Path string `json:"path_with_namespace"`
	}
	numbered struct {
		Number int `json:"number"`
	}
	issue struct {
		Number      int             `json:"number"`
		PullRequest json.RawMessage `json:"pull_request"`
	}
	identified struct {
		ID int64 `json:"id"`
	}
	head struct {
		SHA string `json:"head_sha"`
	}
	attributes struct {
		ID     int64  `json:"id"`
		IID    int    `json:"iid"`
		Action string `json:"action"`
		Type   string `json:"noteable_type"`
	}
	merge struct {
		IID int `json:"iid"`
	}
)

// repositoryOf reads which repository a body is about, "" if it does not say.
// The error says that body is not a JSON object.
func repositoryOf(k Kind, body []byte) (string, error) {
	var p struct {
		Repository json.RawMessage `json:"repository"`
		Project    json.RawMessage `json:"project"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return "", err
	}
	if k == GitLab {
		var of project
		if json.Unmarshal(p.Project, &of) != nil {
			return "", nil // another shape: HintsOf will say so
		}
		return of.Path, nil
	}
	var of repository
	if json.Unmarshal(p.Repository, &of) != nil {
		return "", nil
	}
	return of.FullName, nil
}

// sameRepository compares as forges do: case does not count.
func sameRepository(a, b string) bool { return strings.EqualFold(a, b) }

// HintsOf reduces a delivery to what should be looked at. The error says that
// the body is not what the forge documents for that event; it is for showing,
// and the poll finds what was meant.
func HintsOf(k Kind, event string, body []byte) (Hints, error) {
	var p payload
	var wrongType *json.UnmarshalTypeError // a field of another type is as good as missing
	if err := json.Unmarshal(body, &p); err != nil && (!errors.As(err, &wrongType) || wrongType.Field == "") {
		return Hints{}, fmt.Errorf("read a %s event of %s: %w", event, k, err)
	}
	var h Hints
	if k == GitLab {
		h = p.gitLab()
	} else {
		h = p.gitHub(k, event)
	}
	if len(h.Keys) == 0 && h.Reason == "" {
		h.Reason = fmt.Sprintf("event %q is not used", event)
	}
	for _, key := range h.Keys {
		if err := key.check(); err != nil {
			return Hints{}, fmt.Errorf("read a %s event of %s: %w", event, k, err)
		}
	}
	return h, nil
}

// check says what a key lacks.
func (k Key) check() error {
	switch k.Of {
	case OfRequest, OfComment:
		if k.Request < 1 {
			return fmt.Errorf("it names no request")
		}
		if k.Of == OfComment && k.Comment < 1 {
			return fmt.Errorf("it names no comment")
		}
	case OfMergeGroup, OfRerun:
		if !isCommit(k.Commit) {
			return fmt.Errorf("it names no commit")
		}
	case OfProtection:
		if k.Run < 1 || k.Environment == "" || len(k.Environment) > 255 {
			return fmt.Errorf("it names no run and environment")
		}
	}
	return nil
}

func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// gitHub reads an event of GitHub, or one of Gitea, which has the same form.
func (p *payload) gitHub(k Kind, event string) Hints {
	one := func(key Key) Hints { return Hints{Keys: []Key{key}} }
	request := p.Number
	if p.PullRequest != nil && p.PullRequest.Number > 0 {
		request = p.PullRequest.Number
	}

	switch event {
	case "push", "create", "delete":
		return one(Key{Of: OfRefs})
	case "pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment",
		"pull_request_review_thread",
		"pull_request_sync", "pull_request_approved", "pull_request_rejected", "pull_request_label", "pull_request_review_request":
		return one(Key{Of: OfRequest, Request: request})
	case "issue_comment", "pull_request_comment":
		return p.comment()
	}
	if k != GitHub {
		return Hints{}
	}

	switch event {
	case "ping":
		return Hints{Reason: "a ping: the webhook works"}
	case "merge_group":
		if p.MergeGroup == nil {
			p.MergeGroup = &head{}
		}
		return one(Key{Of: OfMergeGroup, Commit: p.MergeGroup.SHA})
	case "check_run", "check_suite":
		if p.Action != "rerequested" {
			return Hints{Reason: fmt.Sprintf("%s %s is not used", event, p.Action)}
		}
		of := p.CheckRun
		if event == "check_suite" {
			of = p.CheckSuite
		}
		if of == nil {
			of = &head{}
		}
		key := Key{Of: OfRerun, Commit: of.SHA}
		if p.Sender != nil {
			key.By = *p.Sender
		}
		return one(key)
	case "deployment_protection_rule":
		key := Key{Of: OfProtection, Run: runOf(p.Callback)}
		_ = json.Unmarshal(p.Environment, &key.Environment) // check says when it is no name
		return one(key)
	}
	return Hints{}
}

// comment reads a comment on an issue or request: requests are issues too.
func (p *payload) comment() Hints {
	switch {
	case p.Issue == nil || !p.IsPull && !present(p.Issue.PullRequest):
		return Hints{Reason: "a comment on an issue"}
	case p.Action != "created":
		return Hints{Reason: fmt.Sprintf("a comment was %s: only new ones count", p.Action)}
	}
	key := Key{Of: OfComment, Request: p.Issue.Number}
	if p.Comment != nil {
		key.Comment = p.Comment.ID
	}
	return Hints{Keys: []Key{key}}
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// runOf is the run in ".../actions/runs/<id>/deployment_protection_rule". The
// address itself is not used: a payload does not say where we connect to.
func runOf(callback string) int64 {
	_, rest, _ := strings.Cut(callback, "/actions/runs/")
	digits, _, _ := strings.Cut(rest, "/")
	var id int64
	if json.Unmarshal([]byte(digits), &id) != nil {
		return 0
	}
	return id
}

// gitLab reads an event of GitLab, which names its kind in the body.
func (p *payload) gitLab() Hints {
	one := func(key Key) Hints { return Hints{Keys: []Key{key}} }
	of := p.Attributes
	if of == nil {
		of = &attributes{}
	}

	switch p.ObjectKind {
	case "push", "tag_push":
		return one(Key{Of: OfRefs})
	case "merge_request":
		return one(Key{Of: OfRequest, Request: of.IID})
	case "note":
		switch {
		case of.Type != "MergeRequest":
			return Hints{Reason: "a comment that is not on a merge request"}
		case of.Action != "" && of.Action != "create": // older GitLab says nothing
			return Hints{Reason: "a comment was edited: only new ones count"}
		}
		key := Key{Of: OfComment, Comment: of.ID}
		if p.MergeRequest != nil {
			key.Request = p.MergeRequest.IID
		}
		return one(key)
	}
	return Hints{Reason: fmt.Sprintf("event %q is not used", p.ObjectKind)}
}
