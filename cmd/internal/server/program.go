package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// downloads reports whether a machine that reaches this server's SSH reaches its HTTP.
func (r *remotes) downloads() bool {
	return inside(r.about.SSH) || !inside(r.about.GitHTTP)
}

// inside reports whether only this machine reaches an address, of SSH or HTTP.
func inside(address string) bool {
	host := address
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		host = u.Host
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// programPath is where this program is to be had over HTTP, by its SHA-256.
const programPath = "/api/program/"

func programDigest() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// maxProgramDownloads is how many machines may fetch the program at once.
const maxProgramDownloads = 16

// serveProgram gives this program to machines that are to become agents. It is no secret,
// and not this server's: who knows its digest has one line to paste.
func (r *remotes) serveProgram() http.Handler {
	places := make(chan struct{}, maxProgramDownloads)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		digest, err := r.program()
		switch {
		case q.Method != http.MethodGet && q.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, q.Method+" is not answered here", http.StatusMethodNotAllowed)
			return
		case err != nil || q.URL.Path != programPath+digest:
			http.Error(w, "there is no such program; the line that asks for it is another server's, or of before an upgrade",
				http.StatusNotFound)
			return
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			w.Header().Set("Retry-After", "5")
			http.Error(w, "too many machines fetch it just now; try again in a moment", http.StatusServiceUnavailable)
			return
		}
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			r.log.Error("cannot give the program away", "err", err)
			http.Error(w, "the program cannot be read", http.StatusInternalServerError)
			return
		}
		defer f.Close()
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("ETag", `"`+digest+`"`)
		http.ServeContent(w, q, "", time.Time{}, f)
	})
}
