package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Engine is what an agent converges with, and what Handler needs of it.
type Engine interface {
	target.Target
	target.Logger

	// Keys are the applications of which something is known.
	Keys() []target.Key
	// Fence is the newest sequence that was acted on; older ones are ignored. It is -1
	// where nothing was.
	Fence(k target.Key) int
}

// Handler answers the protocol for an engine. Whoever reaches it may do everything.
type Handler struct {
	Engine   Engine
	Hello    func() Hello
	Settings func(Settings) error
	// Control does what an operator asks for: "stop", "drain", "resume", "upgrade" with the
	// path of a program. It returns when that is under way, or refused.
	Control func(ctx context.Context, what, argument string) error
	// Prove refuses what is not proven, and may take a fallback out of what is. nil: whoever
	// reaches this is believed.
	Prove func(d *target.Declared, p Proof) error
	// Program has another program work. nil: nobody offers any.
	Program func(ctx context.Context, o Offer) error
	Log     *slog.Logger
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	switch r.Method + " " + r.URL.Path {
	case "GET " + pathHello:
		answer(w, http.StatusOK, h.Hello())
	case "PUT " + declaredAt(h.Prove != nil, target.InPlace), "PUT " + declaredAt(h.Prove != nil, target.Replacement):
		h.declared(w, r)
	case "POST " + pathRemove:
		var q removal
		if read(w, r, &q) {
			h.Engine.Remove(q.Key, q.Sequence)
			w.WriteHeader(http.StatusNoContent)
		}
	case "PUT " + pathSettings:
		var s Settings
		if read(w, r, &s) {
			done(w, h.Settings(s))
		}
	case "POST " + pathProgram:
		var o Offer
		if h.Program == nil {
			http.NotFound(w, r)
		} else if read(w, r, &o) {
			done(w, h.Program(r.Context(), o))
		}
	case "GET " + pathWatch:
		h.watch(w, r)
	case "POST " + pathLogs:
		h.logs(w, r)
	case "POST " + pathExec:
		h.exec(w, r)
	case "POST " + pathControl + "stop", "POST " + pathControl + "drain",
		"POST " + pathControl + "resume", "POST " + pathControl + "upgrade":
		var q struct {
			Argument string `json:"argument"`
		}
		if read(w, r, &q) {
			done(w, h.Control(r.Context(), r.URL.Path[len(pathControl):], q.Argument))
		}
	default:
		http.Error(w, "there is nothing at "+r.Method+" "+r.URL.Path+" in the agent's protocol",
			http.StatusNotFound)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked may be gone
}

func done(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrDeploying) {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// read reads a body whole before anything is done about it.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	body := json.NewDecoder(r.Body)
	err := body.Decode(v)
	if err == nil {
		if _, more := body.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		http.Error(w, "the body cannot be read: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// declaredAt is where what is declared is put: an agent that wants proof takes none without.
// A part has a place of its own, where there is nothing at an agent that knows none.
func declaredAt(proof bool, part target.Part) string {
	path := pathDeclared
	if proof {
		path = pathProven
	}
	if part != target.InPlace {
		path += "/part"
	}
	return path
}

func (h *Handler) declared(w http.ResponseWriter, r *http.Request) {
	var q provenDeclared
	var own declaration // of this machine, which alone is given secrets
	if h.Prove == nil && !read(w, r, &own) || h.Prove != nil && !read(w, r, &q) {
		return
	}
	d := q.Declared
	if h.Prove == nil {
		d = own.declared()
	}
	if fence := h.Engine.Fence(d.Key); d.Sequence < fence {
		answer(w, http.StatusConflict, refusal{fence})
		return
	}
	if h.Prove != nil {
		err := h.Prove(&d, q.Proof)
		if why := errUnproven(""); errors.As(err, &why) {
			answer(w, http.StatusUnprocessableEntity, unproven{err.Error()})
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	h.Engine.Converge(d)
	w.WriteHeader(http.StatusNoContent)
}

// stream is an answer of JSON lines, each sent at once.
type stream struct {
	lines *json.Encoder
	flush *http.ResponseController
}

func streamTo(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/jsonl")
	return &stream{json.NewEncoder(w), http.NewResponseController(w)}
}

func (s *stream) say(v any) error {
	// Who does not read is away, and must not hold anything here.
	if err := s.flush.SetWriteDeadline(time.Now().Add(silentTimeout)); err != nil &&
		!errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if err := s.lines.Encode(v); err != nil {
		return err
	}
	return s.flush.Flush()
}

// watch says what is, and then what changes. Some of it changes with time alone:
// it is looked at with every heartbeat, too.
func (h *Handler) watch(w http.ResponseWriter, r *http.Request) {
	changed, end := h.Engine.Watch(target.Key{})
	defer end()
	out := streamTo(w)
	said := map[target.Key]target.Observed{}
	every := heartbeat
	if h.Prove != nil {
		every = farHeartbeat
	}
	beat := time.NewTicker(every)
	defer beat.Stop()
	for first := true; ; first = false {
		there := map[target.Key]bool{}
		silent := true
		for _, k := range h.Engine.Keys() {
			o := h.Engine.Observe(k)
			if reflect.DeepEqual(o, target.Observed{}) {
				continue
			}
			there[k] = true
			if last, ok := said[k]; ok && reflect.DeepEqual(last, o) {
				continue
			}
			if out.say(event{Observed: &o}) != nil {
				return
			}
			said[k], silent = o, false
		}
		for k := range said {
			if there[k] {
				continue
			}
			if out.say(event{Gone: &k}) != nil {
				return
			}
			delete(said, k)
			silent = false
		}
		if first || silent {
			e := event{Ready: first}
			if first {
				e.Version = Version
			}
			if out.say(e) != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-beat.C:
		}
	}
}

func (h *Handler) logs(w http.ResponseWriter, r *http.Request) {
	var q logQuery
	if !read(w, r, &q) {
		return
	}
	out := streamTo(w)
	query := target.LogQuery{Unit: q.Unit, Since: q.Since, Lines: q.Lines, Follow: q.Follow}
	for line, err := range h.Engine.Logs(r.Context(), q.Key, query) {
		if err != nil {
			_ = out.say(logLine{Error: err.Error()}) // whoever asked may be gone
			return
		}
		if out.say(logLine{Line: &line}) != nil {
			return
		}
	}
	_ = out.say(logLine{End: true})
}
