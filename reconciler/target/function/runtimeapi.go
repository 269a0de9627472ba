package function

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// runtimeAPI is Lambda's runtime API, for this instance alone.
func (in *instance) runtimeAPI() http.Handler {
	mux := http.NewServeMux()
	const base = "/2018-06-01/runtime/"
	mux.HandleFunc("GET "+base+"invocation/next", in.serveNext)
	mux.HandleFunc("POST "+base+"invocation/{id}/response", in.serveResponse)
	mux.HandleFunc("POST "+base+"invocation/{id}/error", in.serveError)
	mux.HandleFunc("POST "+base+"init/error", in.serveInitError)
	return mux
}

func (in *instance) serveNext(w http.ResponseWriter, r *http.Request) {
	in.mu.Lock()
	if in.current != nil {
		in.mu.Unlock()
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "the event before has no answer yet")
		return
	}
	if !in.isReady {
		in.isReady = true
		close(in.ready)
	}
	in.mu.Unlock()
	select {
	case i := <-in.next:
		if !in.takes(i) {
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Lambda-Runtime-Aws-Request-Id", i.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(i.deadline.UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", i.arn)
		h.Set("Lambda-Runtime-Trace-Id", traceID())
		_, _ = w.Write(i.payload) // one that is gone has ended, which is seen elsewhere
	case <-r.Context().Done():
	case <-in.dead:
	}
}

// takes gives the instance an event, unless all of it has ended. Two that ask at once cannot
// both have an event: there is one at a time.
func (in *instance) takes(i *invocation) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	select {
	case <-in.dead:
		return false
	default:
	}
	in.current, i.deadline = i, time.Now().Add(i.timeout)
	close(i.taken)
	return true
}

// take is the event that an answer is for, which it is the only one of.
func (in *instance) take(id string) *invocation {
	in.mu.Lock()
	defer in.mu.Unlock()
	i := in.current
	if i == nil || i.id != id {
		return nil
	}
	in.current, in.answered = nil, id
	return i
}

// refuseAnswer says what is wrong with an answer to an event that is not the current one.
func (in *instance) refuseAnswer(w http.ResponseWriter, id string) {
	in.mu.Lock()
	again := in.answered == id
	in.mu.Unlock()
	if again {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "the event was answered already")
		return
	}
	refuse(w, http.StatusBadRequest, "InvalidRequestID", "no event has this id")
}

// streamed is the type of answers that say their status first, which runtimes stream.
const streamed = "application/vnd.awslambda.http-integration-response"

func (in *instance) serveResponse(w http.ResponseWriter, r *http.Request) {
	i := in.take(r.PathValue("id"))
	if i == nil {
		in.refuseAnswer(w, r.PathValue("id"))
		return
	}
	kind := r.Header.Get("Content-Type")
	trailer := func() *functionError { return trailed(r.Trailer) }
	if strings.EqualFold(r.Header.Get("Lambda-Runtime-Function-Response-Mode"), "streaming") || kind == streamed {
		s := &stream{body: io.LimitReader(r.Body, maxStreamed), trailer: trailer, done: make(chan struct{})}
		i.answer <- answer{contentType: kind, stream: s}
		select {
		case <-s.done:
		case <-in.dead:
		}
		accept(w)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		i.answer <- answer{err: &functionError{
			Type:    "Function.ResponseSizeTooLarge",
			Message: fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", maxPayload),
		}}
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the answer is larger than 6 MB")
		return
	case err != nil:
		i.answer <- answer{err: &functionError{Type: "Runtime.TruncatedResponse", Message: "the answer broke off"}}
		refuse(w, http.StatusBadRequest, "TruncatedResponse", "the answer broke off")
		return
	}
	i.answer <- answer{body: body, contentType: kind, err: trailer()}
	accept(w)
}

// trailed is the error that a runtime met while it sent an answer, nil without one.
func trailed(trailer http.Header) *functionError {
	kind := trailer.Get("Lambda-Runtime-Function-Error-Type")
	if kind == "" {
		return nil
	}
	body, err := base64.StdEncoding.DecodeString(trailer.Get("Lambda-Runtime-Function-Error-Body"))
	if err != nil || len(body) == 0 {
		body = nil
	}
	return &functionError{Type: kind, payload: body, Message: "the answer broke off"}
}

// readError reads an error as runtimes post it.
func readError(w http.ResponseWriter, r *http.Request) *functionError {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	e := &functionError{Type: cmp.Or(r.Header.Get("Lambda-Runtime-Function-Error-Type"), "Unhandled"), payload: body}
	if err != nil || !json.Valid(body) {
		e.payload, e.Message = nil, "the runtime told an error that cannot be read"
	}
	return e
}

func (in *instance) serveError(w http.ResponseWriter, r *http.Request) {
	i := in.take(r.PathValue("id"))
	if i == nil {
		in.refuseAnswer(w, r.PathValue("id"))
		return
	}
	i.answer <- answer{err: readError(w, r)}
	accept(w)
}

func (in *instance) serveInitError(w http.ResponseWriter, r *http.Request) {
	e := readError(w, r)
	in.mu.Lock()
	late := in.isReady
	if !late {
		in.initErr = e
	}
	in.mu.Unlock()
	if late {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "initialization is over")
		return
	}
	accept(w)
	go in.kill("initialization failed")
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`)
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"errorType": kind, "errorMessage": message})
}
