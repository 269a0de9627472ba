package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// eventKey signs the events of all stories and journeys.
const eventKey = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// receiver is an endpoint for events. It believes only what is signed.
type receiver struct {
	url    string
	server *http.Server

	mu     sync.Mutex
	status func() int                // of the next answer
	came   func(id string, b []byte) // called with each event that is accepted
}

func newReceiver() (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{
		url:    "http://" + listener.Addr().String() + "/in",
		status: func() int { return http.StatusAccepted },
		came:   func(string, []byte) {},
	}
	r.server = &http.Server{Handler: http.HandlerFunc(r.receive)}
	go r.server.Serve(listener)
	return r, nil
}

func (r *receiver) receive(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(eventKey, "whsec_"))
	if err != nil {
		panic(err)
	}
	id := req.Header.Get("Webhook-Id")
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.%s", id, req.Header.Get("Webhook-Timestamp"), body)
	if req.Header.Get("Webhook-Signature") != "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)) {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	status := r.status()
	if status/100 == 2 {
		r.came(id, body)
	}
	w.WriteHeader(status)
}

// journeyReceiver is the one endpoint of all journeys, whose configurations name
// its address.
var journeyReceiver = sync.OnceValues(newReceiver)

// receiverCmd: receiver starts an endpoint for events at $RECEIVER, with the key
// in the file receiver.key. It answers with the status in the file
// receiver.status, or 202, and appends what it accepts to the file received.
func receiverCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 0 || neg {
		ts.Fatalf("usage: receiver")
	}
	r, err := newReceiver()
	ts.Check(err)
	ts.Defer(func() { r.server.Close() })
	ts.Check(os.WriteFile(ts.MkAbs("receiver.key"), []byte(eventKey), 0o600))
	received, status := ts.MkAbs("received"), ts.MkAbs("receiver.status")
	ts.Check(os.WriteFile(received, nil, 0o600))

	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = func() int {
		text, err := os.ReadFile(status)
		if err != nil {
			return http.StatusAccepted
		}
		code, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return http.StatusInternalServerError
		}
		return code
	}
	r.came = func(_ string, body []byte) {
		var line bytes.Buffer
		if err := json.Compact(&line, body); err != nil {
			return
		}
		f, err := os.OpenFile(received, os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return
		}
		defer f.Close()
		fmt.Fprintln(f, line.String())
	}
	ts.Setenv("RECEIVER", r.url)
}
