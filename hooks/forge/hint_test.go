package forge

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestHintsOf(t *testing.T) {
	t.Parallel()
	sha := strings.Repeat("ab", 20)
	for _, tt := range []struct {
		name  string
		kind  Kind
		event string
		body  string
		want  []Key
		why   string // in the reason or the error, when there is no key
	}{
		{"push", GitHub, "push", `{"ref":"refs/heads/main","forced":true}`, []Key{{Of: OfRefs}}, ""},
		{"branch gone", GitHub, "delete", `{}`, []Key{{Of: OfRefs}}, ""},
		{"request", GitHub, "pull_request", `{"action":"opened","number":7,"pull_request":{"number":7}}`,
			[]Key{{Of: OfRequest, Request: 7}}, ""},
		{"review", GitHub, "pull_request_review", `{"pull_request":{"number":7}}`, []Key{{Of: OfRequest, Request: 7}}, ""},
		{"request without a number", GitHub, "pull_request", `{"pull_request":null}`, nil, "names no request"},
		{"comment", GitHub, "issue_comment",
			`{"action":"created","issue":{"number":7,"pull_request":{"url":"x"}},"comment":{"id":99}}`,
			[]Key{{Of: OfComment, Request: 7, Comment: 99}}, ""},
		{"comment edited", GitHub, "issue_comment",
			`{"action":"edited","issue":{"number":7,"pull_request":{}},"comment":{"id":99}}`, nil, "only new ones"},
		{"comment on an issue", GitHub, "issue_comment",
			`{"action":"created","issue":{"number":7,"pull_request":null},"comment":{"id":99}}`, nil, "on an issue"},
		{"merge group", GitHub, "merge_group", `{"action":"checks_requested","merge_group":{"head_sha":"` + sha + `"}}`,
			[]Key{{Of: OfMergeGroup, Commit: sha}}, ""},
		{"merge group, odd commit", GitHub, "merge_group", `{"merge_group":{"head_sha":"--upload-pack=x"}}`, nil,
			"names no commit"},
		{"rerun", GitHub, "check_run", `{"action":"rerequested","check_run":{"head_sha":"` + sha + `"}}`,
			[]Key{{Of: OfRerun, Commit: sha}}, ""},
		{"check created", GitHub, "check_run", `{"action":"created","check_run":{"head_sha":"` + sha + `"}}`,
			nil, "not used"},
		{"protection", GitHub, "deployment_protection_rule",
			`{"environment":"production","deployment_callback_url":"https://evil.example/repos/o/n/actions/runs/123/deployment_protection_rule"}`, []Key{{Of: OfProtection, Run: 123, Environment: "production"}}, ""},
		{"protection, no run", GitHub, "deployment_protection_rule", `{"environment":"production"}`, nil, "names no run"},
		{"environment is an object elsewhere", GitHub, "push", `{"environment":{"name":"x"}}`, []Key{{Of: OfRefs}}, ""},
		{"ping", GitHub, "ping", `{"zen":"x"}`, nil, "works"},
		{"unknown", GitHub, "brand_new", `{"number":"seven"}`, nil, "not used"},
		{"request with an odd field", GitHub, "pull_request", `{"number":7,"action":7,"pull_request":{"number":"x"}}`,
			[]Key{{Of: OfRequest, Request: 7}}, ""},
		{"unknown, of the right form", GitHub, "brand_new", `{"number":7}`, nil, "not used"},
		{"GitLab push", GitLab, "Push Hook", `{"object_kind":"push"}`, []Key{{Of: OfRefs}}, ""},
		{"GitLab request", GitLab, "Merge Request Hook",
			`{"object_kind":"merge_request","object_attributes":{"iid":3,"id":900}}`, []Key{{Of: OfRequest, Request: 3}}, ""},
		{"GitLab note", GitLab, "Note Hook",
			`{"object_kind":"note","object_attributes":{"id":5,"noteable_type":"MergeRequest"},"merge_request":{"iid":3}}`,
			[]Key{{Of: OfComment, Request: 3, Comment: 5}}, ""},
		{"GitLab note on a commit", GitLab, "Note Hook",
			`{"object_kind":"note","object_attributes":{"id":5,"noteable_type":"Commit"}}`, nil, "not on a merge request"},
		{"GitLab pipeline", GitLab, "Pipeline Hook", `{"object_kind":"pipeline"}`, nil, "not used"},
		{"Gitea request", Gitea, "pull_request", `{"number":4}`, []Key{{Of: OfRequest, Request: 4}}, ""},
		{"Gitea comment", Gitea, "issue_comment",
			`{"action":"created","is_pull":true,"issue":{"number":4},"comment":{"id":8}}`,
			[]Key{{Of: OfComment, Request: 4, Comment: 8}}, ""},
		{"Gitea has no merge group", Gitea, "merge_group", `{}`, nil, "not used"},
		{"an array", GitHub, "push", `[]`, nil, "read a push"},
		{"deep", GitHub, "push", strings.Repeat("[", 20000), nil, "read a push"},
	} {
		h, err := HintsOf(tt.kind, tt.event, []byte(tt.body))
		reason := h.Reason
		if err != nil {
			reason = err.Error()
		}
		if !reflect.DeepEqual(h.Keys, tt.want) || len(tt.want) == 0 && (reason == "" || !strings.Contains(reason, tt.why)) {
			t.Errorf("%s: %+v, %v; want %+v, %q", tt.name, h, err, tt.want, tt.why)
		}
	}
}

// The examples that GitHub publishes: each must come to a key or a reason. The
// suite installs them from npm and names the directory.
func TestHintsOfPublishedExamples(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("HEADGATE_WEBHOOK_EXAMPLES")
	if dir == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("HEADGATE_WEBHOOK_EXAMPLES is not set: make test installs the examples")
		}
		t.Skip("HEADGATE_WEBHOOK_EXAMPLES is not set: make test installs the examples")
	}
	files, err := filepath.Glob(filepath.Join(dir, "api.github.com", "index.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples in %s: %v", dir, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var events []struct {
		Name     string
		Examples []json.RawMessage
	}
	if err := json.Unmarshal(data, &events); err != nil {
		t.Fatal(err)
	}
	read, keys := 0, map[KeyKind]int{}
	for _, e := range events {
		for i, body := range e.Examples {
			h, err := HintsOf(GitHub, e.Name, body)
			if err != nil {
				t.Errorf("%s, example %d: %v", e.Name, i, err)
			}
			read++
			for _, k := range h.Keys {
				keys[k.Of]++
			}
		}
	}
	if read < 300 || keys[OfRefs] < 15 || keys[OfRequest] < 30 || keys[OfMergeGroup] < 1 {
		t.Errorf("read %d examples, keys %v", read, keys)
	}
}

func FuzzHintsOf(f *testing.F) {
	f.Add("push", `{"object_kind":"push","repository":{"full_name":"a/b"},"project":{"path_with_namespace":"a/b"}}`)
	f.Add("issue_comment", `{"action":"created","issue":{"number":7,"pull_request":{}},"comment":{"id":9}}`)
	f.Add("deployment_protection_rule", `{"environment":"p","deployment_callback_url":"/actions/runs/1/x"}`)
	f.Fuzz(func(t *testing.T, event, body string) {
		for _, k := range []Kind{GitHub, GitLab, Gitea} {
			h, err := HintsOf(k, event, []byte(body))
			if err != nil {
				continue
			}
			if len(h.Keys) == 0 && h.Reason == "" {
				t.Errorf("%s %q: neither key nor reason", k, event)
			}
			for _, key := range h.Keys {
				if err := key.check(); err != nil {
					t.Errorf("%s %q: key %+v: %v", k, event, key, err)
				}
			}
			if _, err := repositoryOf(k, []byte(body)); err != nil && strings.HasPrefix(body, "{") && json.Valid([]byte(body)) {
				t.Errorf("%s: %v", k, err)
			}
		}
	})
}
