package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// How live pages behave.
const (
	redrawAtMost = 250 * time.Millisecond // four times a second
	redrawMoving = 5 * time.Second        // a page that shows passing time
	heartbeat    = 20 * time.Second       // keeps proxies from closing a quiet stream
	writeTimeout = 30 * time.Second       // for a reader that does not take what it asked for
	burstLines   = 500                    // of a log, at once; more are skipped and counted
)

// Bounds on streams, which each cost a goroutine and redraws.
const (
	streamsEach = 32
	streamsAll  = 512
)

const eventStream = "text/event-stream; charset=utf-8"

// streams counts the live streams of each user. Safe for concurrent use.
type streams struct {
	mu   sync.Mutex // guards the rest
	all  int
	each map[string]int
}

func newStreams() *streams { return &streams{each: map[string]int{}} }

func (s *streams) begin(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= streamsAll || s.each[user] >= streamsEach {
		return false
	}
	s.all++
	s.each[user]++
	return true
}

func (s *streams) end(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.each[user]--; s.each[user] == 0 {
		delete(s.each, user)
	}
}

// logTail is where a page's log ends: a stream goes on from there.
type logTail struct {
	Build  string
	State  show.State
	Events int
}

// resume is what the reader has already: the hashes of the parts, and how much
// of which log. It travels in the stream's address and in its event ids.
type resume struct {
	Parts []string
	Log   *logTail
}

func (r resume) String() string {
	s := strings.Join(r.Parts, ".")
	if r.Log != nil {
		s += "~" + strconv.Itoa(r.Log.Events) + "~" + url.QueryEscape(r.Log.Build)
	}
	return s
}

// query is the query of a stream's address: the page's own, so that a stream never
// widens what the page was narrowed to, and have.
func (r resume) query(page url.Values) string {
	q := url.Values{}
	for k, v := range page {
		if k != "" && len(k) <= 20 && len(v[0]) <= maxField && len(q) < 20 {
			q.Set(k, v[0])
		}
	}
	q.Set("have", r.String())
	return q.Encode()
}

func parseResume(s string) resume {
	if len(s) > 2048 {
		return resume{}
	}
	f := strings.Split(s, "~")
	r := resume{Parts: strings.Split(f[0], ".")}
	if len(f) == 3 {
		n, err := strconv.Atoi(f[1])
		build, uerr := url.QueryUnescape(f[2])
		if err == nil && uerr == nil && n >= 0 {
			r.Log = &logTail{Build: build, Events: n}
		}
	}
	return r
}

// sender writes events to one reader.
type sender struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	have resume
}

func (s *sender) send(event string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", event, err)
	}
	return s.write("event: " + event + "\nid: " + s.have.String() + "\ndata: " + string(b) + "\n\n")
}

func (s *sender) write(text string) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not all connections have one; then the server's own holds
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.rc.Flush()
}

// Events of a stream, as live.js reads them.
type (
	partEvent struct { // replaces the element id, unless somebody is using it
		ID   string `json:"id"`
		HTML string `json:"html"`
	}
	lineEvent struct { // goes to the end of the element id
		ID   string `json:"id"`
		HTML string `json:"html"`
	}
	foldEvent struct { // closes the details element id
		ID string `json:"id"`
	}
	pageEvent struct { // the window's title, and what is said aloud
		Title string `json:"title"`
		Say   string `json:"say"`
	}
)

// stream redraws a page for as long as its reader stays: on news of its
// repository, and as time passes if the page shows that. It ends with the
// request's context, the session, or the page.
func (q *request) stream(draw func(*request) (*page, error)) error {
	if !q.streams.begin(q.actor.User) {
		return &show.Error{Kind: show.Again, What: "too many live pages are open",
			Hint: "close some; each page works without being live"}
	}
	defer q.streams.end(q.actor.User)
	p, err := draw(q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(q.r.Context(), q.session.Expires.Add(time.Since(q.now)))
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()
	news, stop := q.Backend.Watch(p.Watch)
	defer stop()
	have := q.r.Header.Get("Last-Event-ID")
	if have == "" {
		have = q.r.URL.Query().Get("have")
	}
	s := &sender{w: q.w, rc: http.NewResponseController(q.w), have: parseResume(have)}
	h := q.w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("X-Accel-Buffering", "no")
	q.w.WriteHeader(http.StatusOK)
	if err := s.write("retry: 2000\n\n"); err != nil {
		return gone(err)
	}
	l := &follower{wait: &followers}
	template, said := p.Template, ""
	var printed <-chan struct{}
	if p.Printed != nil {
		printed = p.Printed(ctx)
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var moving, soon <-chan time.Time
	for {
		if p != nil {
			if err := q.redraw(p, s); err != nil {
				return err
			}
			if err := s.send("page", pageEvent{Title: p.Title + titleEnd, Say: changed(said, p.Say)}); err != nil {
				return gone(err)
			}
			said = p.Say
			l.follow(ctx, q, p, s)
			moving = nil
			if p.Moving {
				moving = time.After(redrawMoving)
			}
			p = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-news:
			if !open {
				return nil
			}
			select { // whatever else happens meanwhile is in the same redraw
			case <-ctx.Done():
				return nil
			case <-time.After(redrawAtMost):
			}
		case <-printed:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(redrawAtMost):
			}
		case <-moving:
		case <-l.notify:
			if soon == nil {
				soon = time.After(redrawAtMost)
			}
			continue
		case <-soon:
			soon = nil
			if err := l.flush(q, s); err != nil {
				return gone(err)
			}
			continue
		case <-beat.C:
			if err := s.write(": still here\n\n"); err != nil {
				return gone(err)
			}
			continue
		}
		q.now = q.Now()
		q.server = q.Backend.Server(ctx)
		if !q.know() {
			return nil
		}
		p, err = draw(q)
		if err != nil {
			if ctx.Err() == nil {
				q.Log.Warn("ended a live page", "path", q.r.URL.Path, "user", q.actor.User, "err", err)
				_ = s.send("turn", struct{}{}) // the page itself says best what happened to it
			}
			return nil
		}
		if p.Template != template {
			return gone(s.send("turn", struct{}{}))
		}
	}
}

// changed is what to say aloud: the new state, if it is one.
func changed(before, now string) string {
	if before == "" || before == now {
		return ""
	}
	return now
}

// redraw sends the parts that differ from what the reader has.
func (q *request) redraw(p *page, s *sender) error {
	w := q.viewOf(p)
	parts, hashes, err := q.parts(w)
	if err != nil {
		return err
	}
	old := s.have.Parts
	var news []part
	for i, k := range parts {
		if i < len(old) && old[i] == hashes[i] {
			continue
		}
		if k.id == "change-log" && s.have.Log != nil && p.Log != nil && s.have.Log.Build == p.Log.Build &&
			p.Log.State == show.Running {
			hashes[i] = old[min(i, len(old)-1)] // it grows by its own lines
			continue
		}
		if k.id == "asof" && len(news) == 0 {
			hashes[i] = old[min(i, len(old)-1)] // the moment alone is no news
			continue
		}
		news = append(news, k)
	}
	s.have.Parts = hashes
	for _, k := range news {
		if k.id == "change-log" && p.Log != nil {
			s.have.Log = &logTail{Build: p.Log.Build, State: p.Log.State, Events: p.Log.Events}
		}
		if err := s.send("part", partEvent{ID: k.id, HTML: k.html}); err != nil {
			return gone(err)
		}
	}
	return nil
}
