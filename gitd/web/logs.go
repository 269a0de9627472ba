package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

const (
	instanceLines     = 300    // on a page
	instanceLinesText = 10_000 // as plain text
)

// logsView is the page of what the instances of an environment printed.
type logsView struct {
	Env      show.Environment
	Mark     mark
	Service  string // "" for all
	Services []serviceLink
	Lines    []show.InstanceLine // newest first
	Raw      string
	Back     string
}

type serviceLink struct {
	Name, Href string
	Now        bool
}

func logsHref(repository, environment, service string) string {
	href := envHref(repository, environment) + "/logs"
	if service != "" {
		href += "?service=" + url.QueryEscape(service)
	}
	return href
}

func logsPage(q *request) (*page, error) {
	r, err := q.repository()
	if err != nil {
		return nil, err
	}
	e, err := q.Backend.Environment(q.r.Context(), q.actor, r.Name, q.arg("env"))
	if err != nil {
		return nil, err
	}
	view := &logsView{
		Env:     e,
		Mark:    markOf(e.State),
		Service: q.r.URL.Query().Get("service"),
		Raw:     logsHref(r.Name, e.Name, "") + ".txt",
		Back:    envHref(r.Name, e.Name),
	}
	if view.Service != "" {
		view.Raw += "?service=" + url.QueryEscape(view.Service)
	}
	view.Services = append(view.Services, serviceLink{"all services", logsHref(r.Name, e.Name, ""), view.Service == ""})
	for _, s := range e.Services {
		view.Services = append(view.Services, serviceLink{s.Name, logsHref(r.Name, e.Name, s.Name), view.Service == s.Name})
	}
	lines := []show.InstanceLine{}
	for l, err := range q.Backend.InstanceLogs(q.r.Context(), q.actor, r.Name, e.Name,
		show.LogQuery{Service: view.Service, Lines: instanceLines}) {
		if err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	view.Lines = slices.Clone(lines)
	slices.Reverse(view.Lines)

	p := q.repoPage(r, "env", "Logs of "+e.Name+", "+r.Name, crumb{Text: "Environments", Href: "/" + r.Name + "/env"},
		crumb{Text: e.Name, Href: view.Back}, crumb{Text: "Logs"})
	p.JSON = lines
	p.Template, p.Width, p.Data, p.Parts = "logs", "wide", view, []string{"logs-head", "logs-services",
		"logs-lines", "asof"}
	p.Printed = q.printed(r.Name, e.Name, view.Service)
	p.Git = []command{{"SSH", q.ssh(strings.TrimSpace("env logs -f " + r.Name + " " + e.Name + " " + view.Service))}}
	return p, nil
}

// printed tells, coalesced, that instances have printed something since. It ends
// with ctx, or the right to read.
func (q *request) printed(repository, environment, service string) func(ctx context.Context) <-chan struct{} {
	return func(ctx context.Context) <-chan struct{} {
		more := make(chan struct{}, 1)
		go func() {
			for _, err := range q.Backend.InstanceLogs(ctx, q.actor, repository, environment,
				show.LogQuery{Service: service, Lines: 1, Follow: true}) {
				if err != nil {
					return // the page's own news tell what became of it
				}
				select {
				case more <- struct{}{}:
				default:
				}
			}
		}()
		return more
	}
}

// logsText is what instances printed as text, or lines of JSON; as it grows, with
// ?follow.
func logsText(q *request) error {
	r, err := q.repository()
	if err != nil {
		return err
	}
	query := q.r.URL.Query()
	lq := show.LogQuery{Service: query.Get("service"), Lines: instanceLinesText, Follow: query.Has("follow")}
	asJSON := q.wantsJSON()
	h := q.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if asJSON {
		h.Set("Content-Type", "application/x-ndjson")
	}
	if q.r.Method == http.MethodHead {
		return nil
	}
	rc := http.NewResponseController(q.w)
	out := bufio.NewWriterSize(q.w, 32<<10)
	sent := false
	for l, err := range q.Backend.InstanceLogs(q.r.Context(), q.actor, r.Name, q.arg("env"), lq) {
		switch {
		case err != nil && !sent:
			return err
		case err != nil:
			_, _ = fmt.Fprintf(out, "headgate: it ends here: %s\n", terminal.Plain(err.Error())) // the reader may have gone
			return gone(out.Flush())
		case asJSON:
			err = json.NewEncoder(out).Encode(l)
		default:
			mark := "|"
			if l.Own {
				mark = "*"
			}
			_, err = fmt.Fprintf(out, "%s %s %s %s\n", l.At.UTC().Format(time.RFC3339), terminal.Line(l.Instance), mark,
				terminal.Plain(l.Text))
		}
		if err != nil {
			return gone(err)
		}
		if sent = true; !lq.Follow {
			continue
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not all connections have one; then the server's own holds
		if err := out.Flush(); err != nil {
			return gone(err)
		}
		if err := rc.Flush(); err != nil {
			return gone(err)
		}
	}
	return gone(out.Flush())
}
