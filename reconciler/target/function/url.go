package function

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// urlEvent is an event in the payload format 2.0, of an ordinary request.
type urlEvent struct {
	Version         string            `json:"version"`
	RouteKey        string            `json:"routeKey"`
	RawPath         string            `json:"rawPath"`
	RawQueryString  string            `json:"rawQueryString"`
	Cookies         []string          `json:"cookies,omitempty"`
	Headers         map[string]string `json:"headers"`
	Query           map[string]string `json:"queryStringParameters,omitempty"`
	Context         urlContext        `json:"requestContext"`
	Body            string            `json:"body,omitempty"`
	IsBase64Encoded bool              `json:"isBase64Encoded"`
}

type urlContext struct {
	AccountID    string  `json:"accountId"`
	APIID        string  `json:"apiId"`
	DomainName   string  `json:"domainName"`
	DomainPrefix string  `json:"domainPrefix"`
	HTTP         urlHTTP `json:"http"`
	RequestID    string  `json:"requestId"`
	RouteKey     string  `json:"routeKey"`
	Stage        string  `json:"stage"`
	Time         string  `json:"time"`
	TimeEpoch    int64   `json:"timeEpoch"`
}

type urlHTTP struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Protocol  string `json:"protocol"`
	SourceIP  string `json:"sourceIp"`
	UserAgent string `json:"userAgent"`
}

// newEvent makes an event of a request.
func newEvent(r *http.Request, body []byte, now time.Time) urlEvent {
	const route = "$default"
	source, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		source = r.RemoteAddr
	}
	prefix, _, _ := strings.Cut(r.Host, ".")
	e := urlEvent{
		Version:        "2.0",
		RouteKey:       route,
		RawPath:        r.URL.EscapedPath(),
		RawQueryString: r.URL.RawQuery,
		Headers:        map[string]string{"host": r.Host},
		Context: urlContext{
			AccountID:    "anonymous",
			APIID:        prefix,
			DomainName:   r.Host,
			DomainPrefix: prefix,
			HTTP: urlHTTP{
				Method:    r.Method,
				Path:      r.URL.Path,
				Protocol:  r.Proto,
				SourceIP:  source,
				UserAgent: r.UserAgent(),
			},
			RequestID: requestID(),
			RouteKey:  route,
			Stage:     route,
			Time:      now.UTC().Format("02/Jan/2006:15:04:05 -0700"),
			TimeEpoch: now.UnixMilli(),
		},
	}
	for name, values := range r.Header {
		if name == "Cookie" {
			for _, v := range values {
				for cookie := range strings.SplitSeq(v, ";") {
					e.Cookies = append(e.Cookies, strings.TrimSpace(cookie))
				}
			}
			continue
		}
		e.Headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	for name, values := range r.URL.Query() {
		if e.Query == nil {
			e.Query = map[string]string{}
		}
		e.Query[name] = strings.Join(values, ",")
	}
	if readableBody(r.Header, body) {
		e.Body = string(body)
	} else {
		e.Body, e.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	return e
}

// readableBody reports whether a body goes into the event as it is.
func readableBody(h http.Header, body []byte) bool {
	if len(body) == 0 {
		return true
	}
	if h.Get("Content-Encoding") != "" || !utf8.Valid(body) {
		return false
	}
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return false
	}
	switch kind {
	case "application/json", "application/javascript", "application/xml":
		return true
	}
	return strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml")
}

// functionURL answers requests by what a function makes of them.
func (a *app) functionURL(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, done, err := a.t.readBody(w, r, maxPayload*3/4) // base64 makes it a third longer
		defer done()
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			refuseRequest(w, http.StatusRequestEntityTooLarge, "Request Entity Too Large")
			return
		case errors.Is(err, errThrottled):
			refuseRequest(w, http.StatusTooManyRequests, "Too Many Requests")
			return
		case err != nil:
			refuseRequest(w, http.StatusBadRequest, "Bad Request")
			return
		}
		payload, err := json.Marshal(newEvent(r, body, time.Now()))
		if err != nil {
			refuseRequest(w, http.StatusBadRequest, "Bad Request")
			return
		}
		v := a.view.Load()
		if v == nil || v.settings.Functions[name] == nil || v.settings.Functions[name].URL == nil {
			refuseRequest(w, http.StatusServiceUnavailable, "Service Unavailable")
			return
		}
		qualifier := ""
		if name == v.settings.Spec.Name {
			qualifier = v.settings.Spec.Alias
		}
		f, choose, arn, err := a.find(name, qualifier)
		var e executed
		if err == nil {
			e, err = f.invoke(a.life, choose, invocationOf{payload: payload, arn: arn})
		}
		switch {
		case errors.Is(err, errThrottled):
			w.Header().Set("Retry-After", "1")
			refuseRequest(w, http.StatusTooManyRequests, "Too Many Requests")
			return
		case err != nil:
			refuseRequest(w, http.StatusServiceUnavailable, "Service Unavailable")
			return
		}
		defer e.finish()
		w.Header().Set("X-Amzn-Requestid", e.id)
		w.Header().Set("X-Amz-Executed-Version", strconv.Itoa(e.version))
		if e.stream != nil {
			answerStream(w, e, v.settings.Functions[name].URL.Stream)
			return
		}
		if e.err != nil {
			refuseRequest(w, http.StatusBadGateway, "Internal Server Error")
			return
		}
		answerRequest(w, r, e.body)
	})
}

func refuseRequest(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// urlAnswer is what a function may answer.
type urlAnswer struct {
	StatusCode      *int              `json:"statusCode"`
	Headers         map[string]string `json:"headers"`
	Cookies         []string          `json:"cookies"`
	Body            *string           `json:"body"`
	IsBase64Encoded bool              `json:"isBase64Encoded"`
}

// ownHeaders are about the connection, and the server's to say.
var ownHeaders = []string{"Connection", "Content-Length", "Keep-Alive", "Trailer", "Transfer-Encoding", "Upgrade"}

// head writes what comes before the body.
func (a *urlAnswer) head(w http.ResponseWriter, kind string) bool {
	status := http.StatusOK
	if a.StatusCode != nil {
		status = *a.StatusCode
	}
	if status < 200 || status > 599 {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	for name, value := range a.Headers {
		if !slices.Contains(ownHeaders, http.CanonicalHeaderKey(name)) {
			h.Set(name, value)
		}
	}
	for _, cookie := range a.Cookies {
		h.Add("Set-Cookie", cookie)
	}
	w.WriteHeader(status)
	return true
}

// answerRequest makes a response of what a function has returned: what has a statusCode
// says all of it, anything else is the body.
func answerRequest(w http.ResponseWriter, r *http.Request, returned []byte) {
	var a urlAnswer
	trimmed := bytes.TrimSpace(returned)
	if !bytes.HasPrefix(trimmed, []byte("{")) || json.Unmarshal(trimmed, &a) != nil || a.StatusCode == nil {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(returned) // one that is gone gets nothing
		return
	}
	var body []byte
	if a.Body != nil {
		body = []byte(*a.Body)
	}
	if a.IsBase64Encoded {
		decoded, err := base64.StdEncoding.DecodeString(string(body))
		if err != nil {
			refuseRequest(w, http.StatusBadGateway, "Internal Server Error")
			return
		}
		body = decoded
	}
	if !a.head(w, "application/json") {
		refuseRequest(w, http.StatusBadGateway, "Internal Server Error")
		return
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // as above
	}
}

// maxPrelude bounds what a streamed answer says before its body.
const maxPrelude = 64 << 10

// answerStream sends an answer on while it is made. One of streamed's type begins with what
// urlAnswer has, and eight zero bytes.
func answerStream(w http.ResponseWriter, e executed, unbuffered bool) {
	body := e.stream.body
	head, kind := urlAnswer{}, "application/octet-stream"
	if e.contentType == streamed {
		first, rest, ok := cutPrelude(body)
		if !ok || json.Unmarshal(first, &head) != nil {
			refuseRequest(w, http.StatusBadGateway, "Internal Server Error")
			return
		}
		body = rest
	} else if e.contentType != "" {
		kind = e.contentType
	}
	if !unbuffered {
		whole, err := io.ReadAll(io.LimitReader(body, maxPayload))
		if err != nil || e.stream.trailer() != nil {
			refuseRequest(w, http.StatusBadGateway, "Internal Server Error")
			return
		}
		body = bytes.NewReader(whole)
	}
	if !head.head(w, kind) {
		refuseRequest(w, http.StatusBadGateway, "Internal Server Error")
		return
	}
	control := http.NewResponseController(w)
	block := make([]byte, 32<<10)
	for {
		n, err := body.Read(block)
		if n > 0 {
			if _, werr := w.Write(block[:n]); werr != nil {
				return
			}
			if unbuffered {
				_ = control.Flush() // what cannot be sent now is sent with the rest
			}
		}
		if err == io.EOF && (!unbuffered || e.stream.trailer() == nil) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // who reads it is to notice that it broke off
		}
	}
}

// cutPrelude reads up to the eight zero bytes.
func cutPrelude(body io.Reader) (prelude []byte, rest io.Reader, ok bool) {
	zeros := make([]byte, 8)
	var read []byte
	block := make([]byte, 4<<10)
	for len(read) < maxPrelude {
		n, err := body.Read(block)
		read = append(read, block[:n]...)
		if before, after, found := bytes.Cut(read, zeros); found {
			return before, io.MultiReader(bytes.NewReader(after), body), true
		}
		if err != nil {
			return nil, nil, false
		}
	}
	return nil, nil, false
}
