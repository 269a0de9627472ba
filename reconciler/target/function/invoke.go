package function

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
)

// Bounds of events that nobody waits for.
const (
	maxEventPayload = 256 << 10
	maxEvents       = 1000 // of one application that wait for an instance
)

// listener is an address that is served.
type listener struct {
	function string // whose URL it is; "": the invoke API
	server   *http.Server
	on       net.Listener
}

// account is what ARNs are told of whose functions they are.
const account = "000000000000"

func (a *app) arn(name, qualifier string) string {
	return strings.TrimSuffix(fmt.Sprintf("arn:aws:lambda:%s:%s:function:%s:%s", region, account, name, qualifier), ":")
}

// invokeURL is where the invoke API is, "" while nowhere.
func (a *app) invokeURL() string {
	if port := a.port.Load(); port > 0 {
		return fmt.Sprintf("http://127.0.0.1:%d", port)
	}
	return ""
}

// addressOf is where a function URL is.
func (t *Target) addressOf(u *URL) string {
	ip := u.IP
	if !ip.IsValid() {
		ip = loopback
		if t.Address != nil {
			ip = t.Address()
		}
	}
	return netip.AddrPortFrom(ip, uint16(u.Port)).String()
}

// listen opens the addresses that are declared, and closes those that are not any more.
func (a *app) listen() error {
	// Any port for the invoke API is the same one after a restart, if it can be.
	invoke := netip.AddrPortFrom(loopback, uint16(cmp.Or(a.settings.Invoke, a.state.Port))).String()
	wanted := map[string]string{invoke: ""} // address → function whose URL it is
	for name, f := range a.settings.Functions {
		if f.URL != nil {
			wanted[a.t.addressOf(f.URL)] = name
		}
	}
	over := map[string]*listener{}
	for address, l := range a.listeners {
		if name, ok := wanted[address]; !ok || name != l.function {
			over[address] = l
			delete(a.listeners, address)
		}
	}
	shutDown(over)
	for address, name := range wanted {
		if a.listeners[address] != nil {
			continue // its handler looks at what is accepted
		}
		handler := a.invokeAPI()
		if name != "" {
			handler = a.functionURL(name)
		}
		l, err := a.serve(address, handler)
		if err != nil && name == "" && a.settings.Invoke == 0 {
			l, err = a.serve(netip.AddrPortFrom(loopback, 0).String(), handler)
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w", address, err)
		}
		l.function = name
		a.listeners[l.on.Addr().String()] = l
		if name == "" {
			port := l.on.Addr().(*net.TCPAddr).Port
			a.port.Store(int64(port))
			a.state.Port = port
		}
	}
	return nil
}

func (a *app) serve(address string, handler http.Handler) (*listener, error) {
	on, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	l := &listener{
		on: on,
		server: &http.Server{
			Handler:           a.counted(handler),
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       time.Minute,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(a.t.Log.Handler(), slog.LevelDebug),
		},
	}
	a.asking.Go(func() { _ = l.server.Serve(on) }) // it ends when it is shut down
	return l, nil
}

// counted has the end of the application wait for those who ask, and nobody ask after it.
func (a *app) counted(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		over := a.life.Err() != nil
		if !over {
			a.asking.Add(1)
		}
		a.mu.Unlock()
		if over { // its connection is being closed
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		defer a.asking.Done()
		handler.ServeHTTP(w, r)
	})
}

// drainTimeout is how long those who asked have for their answers when an address closes.
const drainTimeout = 10 * time.Second

func shutDown(all map[string]*listener) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var each sync.WaitGroup
	for _, l := range all {
		each.Go(func() {
			if l.server.Shutdown(ctx) != nil {
				_ = l.server.Close() // what is left is cut off
			}
		})
	}
	each.Wait()
}

// invokeAPI is what there is of Lambda's API, and of CodeDeploy's for hooks. It is on
// loopback and asks nobody who they are: no page of a browser may use it.
func (a *app) invokeAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2015-03-31/functions/{function}/invocations", a.serveInvoke)
	mux.HandleFunc("GET /2015-03-31/functions/{function}/aliases/{alias}", a.serveAlias)
	mux.HandleFunc("POST /{$}", a.serveReport)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			refuseCall(w, http.StatusForbidden, "AccessDeniedException",
				"pages of browsers may not invoke functions here; use the function's URL")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// refuseCall answers as Lambda does.
func refuseCall(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", kind)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"Type": "User", "__type": kind, "message": message})
}

// find says which function and version a name is about: a name or an ARN, with or without
// a version or an alias at its end, or beside it.
func (a *app) find(named, qualifier string) (f *function, choose chooser, arn string, err error) {
	v := a.view.Load()
	if v == nil {
		return nil, nil, "", errNoVersion
	}
	if rest, ok := strings.CutPrefix(named, "arn:"); ok {
		_, named, _ = strings.Cut(rest, ":function:")
	} else if _, rest, ok := strings.Cut(named, ":function:"); ok { // 123456789012:function:name
		named = rest
	}
	name, own, qualified := strings.Cut(named, ":")
	if qualified {
		qualifier = own
	}
	f = v.functions[name]
	if f == nil {
		return nil, nil, "", errNoVersion
	}
	arn = a.arn(name, qualifier)
	switch {
	case qualifier == "" || qualifier == "$LATEST":
		return f, func() int { return f.latest }, arn, nil
	case name == v.settings.Spec.Name && qualifier == v.settings.Spec.Alias:
		if a.alias.at().Version == 0 {
			return nil, nil, "", errNoVersion
		}
		return f, a.alias.next, arn, nil
	}
	number, err := strconv.Atoi(qualifier)
	if err != nil || number == 0 {
		return nil, nil, "", errNoVersion
	}
	return f, exactly(number), arn, nil
}

// maxPending bounds the bodies of requests that are there at the same time, of all functions.
const maxPending = 512 << 20

// readBody reads a body, unless too much is there already. done is to be called when the
// request is over, whatever the error.
func (t *Target) readBody(w http.ResponseWriter, r *http.Request, limit int64) (body []byte, done func(), err error) {
	size := limit
	if r.ContentLength >= 0 && r.ContentLength < limit {
		size = r.ContentLength
	}
	if !t.pending.TryAcquire(size) {
		return nil, func() {}, errThrottled
	}
	body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	return body, func() { t.pending.Release(size) }, err
}

func (a *app) serveInvoke(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	kind := cmp.Or(r.Header.Get("X-Amz-Invocation-Type"), "RequestResponse")
	limit := int64(maxPayload)
	switch kind {
	case "Event":
		limit = maxEventPayload
	case "RequestResponse", "DryRun":
	default:
		refuseCall(w, http.StatusBadRequest, "InvalidParameterValueException",
			"X-Amz-Invocation-Type is RequestResponse, Event or DryRun")
		return
	}
	payload, done, err := a.t.readBody(w, r, limit)
	defer done()
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuseCall(w, http.StatusRequestEntityTooLarge, "RequestTooLargeException",
			fmt.Sprintf("%d bytes is the most that an event may have", limit))
		return
	case errors.Is(err, errThrottled):
		refuseFailure(w, err)
		return
	case err != nil:
		refuseCall(w, http.StatusBadRequest, "InvalidRequestContentException", "the event broke off")
		return
	case len(payload) == 0:
		payload = []byte("{}")
	case !json.Valid(payload):
		refuseCall(w, http.StatusBadRequest, "InvalidRequestContentException", "the event is not JSON")
		return
	}
	f, choose, arn, err := a.find(r.PathValue("function"), r.URL.Query().Get("Qualifier"))
	if err != nil {
		refuseFailure(w, err)
		return
	}
	what := invocationOf{payload: payload, arn: arn, log: r.Header.Get("X-Amz-Log-Type") == "Tail"}
	switch kind {
	case "DryRun":
		w.WriteHeader(http.StatusNoContent)
		return
	case "Event":
		if !a.later(f, choose, what) {
			refuseFailure(w, errThrottled)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		return
	}
	e, err := f.invoke(a.life, choose, what)
	if err != nil {
		refuseFailure(w, err)
		return
	}
	defer e.finish()
	h.Set("X-Amz-Executed-Version", strconv.Itoa(e.version))
	h.Set("X-Amzn-Requestid", e.id)
	if what.log {
		h.Set("X-Amz-Log-Result", base64.StdEncoding.EncodeToString(e.log))
	}
	h.Set("Content-Type", cmp.Or(e.contentType, "application/json"))
	switch {
	case e.stream != nil: // who invokes like this gets it whole
		_, _ = io.Copy(w, io.LimitReader(e.stream.body, maxPayload)) // one that breaks off is cut off
	case e.err != nil:
		h.Set("Content-Type", "application/json")
		h.Set("X-Amz-Function-Error", "Unhandled")
		_, _ = w.Write(e.err.Body())
	default:
		_, _ = w.Write(e.body)
	}
}

// refuseFailure answers when a function was not invoked.
func refuseFailure(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errThrottled):
		w.Header().Set("Retry-After", "1")
		refuseCall(w, http.StatusTooManyRequests, "TooManyRequestsException", "Rate Exceeded.")
	case errors.Is(err, errNoVersion):
		refuseCall(w, http.StatusNotFound, "ResourceNotFoundException", "Function not found")
	default:
		refuseCall(w, http.StatusServiceUnavailable, "ServiceException", err.Error())
	}
}

// later has an event dealt with that nobody waits for, unless too many wait. It is dealt
// with once, and lost when the server ends before.
func (a *app) later(f *function, choose chooser, what invocationOf) bool {
	if a.events.Add(1) > maxEvents {
		a.events.Add(-1)
		return false
	}
	what.patient = true
	a.asking.Go(func() {
		defer a.events.Add(-1)
		e, err := f.invoke(a.life, choose, what)
		defer e.finish()
		if err == nil && e.err != nil {
			err = e.err
		}
		if err != nil {
			a.t.Log.Warn("an event failed", "app", a.name(), "function", f.name, "version", e.version, "request",
				e.id, "err", err)
		}
	})
	return true
}

// serveAlias says where an alias is, as Lambda's GetAlias does.
func (a *app) serveAlias(w http.ResponseWriter, r *http.Request) {
	v := a.view.Load()
	name, alias := r.PathValue("function"), r.PathValue("alias")
	at := a.alias.at()
	if v == nil || name != v.settings.Spec.Name || alias != v.settings.Spec.Alias || at.Version == 0 {
		refuseFailure(w, errNoVersion)
		return
	}
	answer := map[string]any{
		"AliasArn":        a.arn(name, alias),
		"Name":            alias,
		"FunctionVersion": strconv.Itoa(at.Version),
	}
	if at.Canary > 0 {
		weights := map[string]float64{strconv.Itoa(at.Canary): float64(at.Weight) / 100}
		answer["RoutingConfig"] = map[string]any{"AdditionalVersionWeights": weights}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// serveReport takes CodeDeploy's PutLifecycleEventHookExecutionStatus.
func (a *app) serveReport(w http.ResponseWriter, r *http.Request) {
	if action := r.Header.Get("X-Amz-Target"); action != "CodeDeploy_20141006.PutLifecycleEventHookExecutionStatus" {
		refuseCall(w, http.StatusBadRequest, "UnknownOperationException", fmt.Sprintf("%q is not done here", action))
		return
	}
	var told struct {
		Deployment string             `json:"deploymentId"`
		Execution  string             `json:"lifecycleEventHookExecutionId"`
		Status     rollout.HookStatus `json:"status"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&told); err != nil {
		refuseCall(w, http.StatusBadRequest, "SerializationException", "the report is not JSON")
		return
	}
	err := a.hookReported(told.Deployment, told.Execution, told.Status, "it reported so")
	kind := ""
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_ = json.NewEncoder(w).Encode(map[string]string{"lifecycleEventHookExecutionId": told.Execution})
		return
	case errors.Is(err, rollout.ErrNoExecution):
		kind = "InvalidLifecycleEventHookExecutionIdException"
	case errors.Is(err, rollout.ErrReported):
		kind = "LifecycleEventAlreadyCompletedException"
	case errors.Is(err, rollout.ErrStatus):
		kind = "InvalidLifecycleEventHookExecutionStatusException"
	default:
		refuseCall(w, http.StatusServiceUnavailable, "ServiceException", err.Error())
		return
	}
	refuseCall(w, http.StatusBadRequest, kind, err.Error())
}
