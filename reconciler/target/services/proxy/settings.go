package proxy

import (
	"net/http"
	"time"
)

// Settings are how the requests of a pool are carried. The zero value holds nothing
// and limits nothing but what a listener does.
type Settings struct {
	Traffic Traffic
	Hold    time.Duration // how long a request may wait for an instance, or the end of a pause
	Page    []byte        // HTML for people, where nothing else answers; nil: a line of text

	Sticky string // cookie that keeps a visitor with one version while two serve; "": none
	Test   string // header that leads a request to the version that is to take over; "": none

	MaxBody   int64         // of a request; 0: no bound
	MaxHeader int           // of a request, in bytes; 0: what the listener takes
	Timeout   time.Duration // until an instance begins to answer, counted from what it was sent last; 0: none
	Stall     time.Duration // how long a visitor may take no byte, and send none of a body; 0: none

	HTTP2  http.RoundTripper // for instances that speak it
	Access func(Access)      // nil: no log
}

// Traffic is what becomes of requests.
type Traffic string

// What becomes of them.
const (
	Serve       Traffic = ""            // they go to instances
	Hold        Traffic = "hold"        // they wait
	Maintenance Traffic = "maintenance" // they get Page
)

// OwnCookie is the value of Settings.Sticky that has the proxy give visitors a cookie
// of its own. Instances do not see it.
const OwnCookie = consoleCookie + "slot"
