package forge

import (
	"bytes"
	"compress/flate"
	"io"
	"net/http"
	"strings"
	"sync"
)

// answers are the lists of requests that a forge has answered, by address: asked again it
// says whether they are as they were (304), which costs nothing of GitHub's rate limit. They
// are kept compressed, for they say much more than is read. It is safe for concurrent use.
type answers struct {
	mu   sync.Mutex // guards what follows
	size int
	kept map[string]keptAnswer
}

type keptAnswer struct {
	header http.Header // with its ETag, and where the next page is
	body   []byte
}

const (
	maxKept  = 8 << 20 // bytes of all answers
	maxPages = maxRequests/pageSize + 1
)

// keeps reports whether the answer to a call is kept. Nothing else is asked for again and
// again, and what somebody may do is never taken from here.
func (a *answers) keeps(r *http.Request) bool {
	return a != nil && r.Method == http.MethodGet &&
		(strings.HasSuffix(r.URL.Path, "/pulls") || strings.HasSuffix(r.URL.Path, "/merge_requests"))
}

// ask has a call ask whether its answer is another than the one that is kept.
func (a *answers) ask(r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k, ok := a.kept[r.URL.String()]; ok {
		r.Header.Set("If-None-Match", k.header.Get("ETag"))
	}
}

// answered is the answer to a call: the one that is kept if the forge says so, else what
// came, which is kept from now on.
func (a *answers) answered(r *http.Request, resp *http.Response) (*http.Response, error) {
	address := r.URL.String()
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.kept[address]
	if ok && resp.StatusCode == http.StatusNotModified {
		resp.Body.Close()
		resp.Status, resp.StatusCode = "200 OK", http.StatusOK
		for _, name := range []string{"Content-Type", "Link", "X-Next-Page", "X-Total-Pages"} {
			if v := k.header.Values(name); len(v) > 0 {
				resp.Header[http.CanonicalHeaderKey(name)] = v
			}
		}
		resp.Body, resp.ContentLength = flate.NewReader(bytes.NewReader(k.body)), -1
		return resp, nil
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == "" {
		return resp, nil
	}

	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) >= maxAnswer {
		return resp, nil // it was cut off
	}
	var small bytes.Buffer
	w, err := flate.NewWriter(&small, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, err // a buffer and a level that there is give none
	}
	if a.size += small.Len() - len(k.body); a.kept == nil || a.size > maxKept || len(a.kept) >= 2*maxPages {
		a.kept, a.size = map[string]keptAnswer{}, small.Len()
	}
	a.kept[address] = keptAnswer{header: resp.Header.Clone(), body: small.Bytes()}
	return resp, nil
}
