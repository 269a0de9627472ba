package build

import (
	"bytes"
	"io"
)

// wantOfNetwork passes on what a command prints and notices what programs say when
// there is no network.
type wantOfNetwork struct {
	out  io.Writer
	seen bool
	tail []byte // of what was printed: a sentence may come in two pieces
}

// noNetwork is what resolvers and clients say.
var noNetwork = [][]byte{
	[]byte("Could not resolve host"),
	[]byte("could not resolve host"),
	[]byte("Temporary failure in name resolution"),
	[]byte("Temporary failure resolving"),
	[]byte("Name or service not known"),
	[]byte("no such host"),
	[]byte("server misbehaving"),
	[]byte("dial tcp: lookup "),
	[]byte("getaddrinfo EAI_AGAIN"),
	[]byte("getaddrinfo ENOTFOUND"),
	[]byte("Network is unreachable"),
	[]byte("network is unreachable"),
	[]byte("UnknownHostException"),
	[]byte("bad address '"), // busybox
}

func (w *wantOfNetwork) Write(p []byte) (int, error) {
	if !w.seen {
		w.tail = append(w.tail, p...)
		for _, said := range noNetwork {
			if bytes.Contains(w.tail, said) {
				w.seen, w.tail = true, nil
				break
			}
		}
		const longest = 64
		if n := len(w.tail) - longest; n > 0 {
			w.tail = append([]byte(nil), w.tail[n:]...)
		}
	}
	return w.out.Write(p)
}

// onBranch is where the settings are taken from that say what a build reaches.
func (r *runner) onBranch() string {
	if r.req.Branch == "" {
		return ""
	}
	return " on " + r.req.Branch
}
