package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Most of what clients over HTTP ask for are refs, by polls that find nothing new, and git
// would be started twice for each: to say what it can do, which is the same every time, and
// to list refs. In protocol version 2 both are answered here, as git answers them. Whatever is
// asked in another way, or is there in another way, git answers itself.

// wholeV2 is what clients of protocol version 2 call it.
const wholeV2 = "version=2"

// Bounds of a question for refs that is answered here.
const (
	maxLsRefs   = 64 << 10
	maxPrefixes = 256 // each is looked for in each name
)

// lsRefs is a question for refs, as gitprotocol-v2 has it.
type lsRefs struct {
	peel, symrefs, unborn bool
	prefixes              []string
}

// readLsRefs reads the one request of a client. read is what it has read, in any case; ok
// means that it was a question for refs, with nothing in it that is not known here, and
// nothing after it.
func readLsRefs(from io.Reader) (q lsRefs, read []byte, ok bool) {
	var seen bytes.Buffer
	in := io.TeeReader(io.LimitReader(from, maxLsRefs), &seen)
	q, ok = parseLsRefs(in)
	if ok {
		n, err := in.Read(make([]byte, 1))
		ok = n == 0 && err == io.EOF && seen.Len() < maxLsRefs
	}
	return q, seen.Bytes(), ok
}

func parseLsRefs(in io.Reader) (q lsRefs, ok bool) {
	const flush, delimiter = 0, 1
	arguments := false
	for first := true; ; first = false {
		line, special, err := readPacket(in)
		switch {
		case err != nil, first != (line == "command=ls-refs"):
			return q, false
		case special == flush:
			return q, true
		case special == delimiter:
			if arguments {
				return q, false
			}
			arguments = true
		case !arguments:
			// Who asks is no matter. What else there may be (server-option, another format) is.
			if !first && !strings.HasPrefix(line, "agent=") && line != "object-format=sha1" {
				return q, false
			}
		case line == "peel":
			q.peel = true
		case line == "symrefs":
			q.symrefs = true
		case line == "unborn":
			q.unborn = true
		case strings.HasPrefix(line, "ref-prefix ") && len(q.prefixes) < maxPrefixes:
			q.prefixes = append(q.prefixes, strings.TrimPrefix(line, "ref-prefix "))
		default:
			return q, false
		}
	}
}

var errPacket = errors.New("not a packet")

// readPacket reads one packet, without the newline at its end; special is its length if that
// is less than a packet's own, and else -1.
func readPacket(in io.Reader) (line string, special int, err error) {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(string(size[:]), 16, 16)
	switch {
	case err != nil:
		return "", 0, errPacket
	case n < 4:
		return "", int(n), nil
	}
	text := make([]byte, n-4)
	if _, err := io.ReadFull(in, text); err != nil {
		return "", 0, err
	}
	return strings.TrimSuffix(string(text), "\n"), -1, nil
}

// answer writes what git would answer.
func (q lsRefs) answer(to io.Writer, list []repo.Advertised) error {
	out := bufio.NewWriterSize(to, 64<<10)
	var line []byte
	for _, a := range list {
		line = append(line[:0], "0000"...)
		switch {
		case a.Hash != repo.Zero:
			line = append(line, a.Hash.String()...)
		case q.unborn && q.symrefs && a.Symbolic != "":
			line = append(line, "unborn"...)
		default:
			continue
		}
		line = append(append(line, ' '), a.Name...)
		if q.symrefs && a.Symbolic != "" {
			line = append(append(line, " symref-target:"...), a.Symbolic...)
		}
		if q.peel && a.Peeled != repo.Zero {
			line = append(append(line, " peeled:"...), a.Peeled.String()...)
		}
		line = append(line, '\n')
		const digits = "0123456789abcdef"
		for i, n := 3, len(line); i >= 0; i, n = i-1, n>>4 {
			line[i] = digits[n&15]
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	if _, err := out.WriteString("0000"); err != nil {
		return err
	}
	return out.Flush()
}

// serveRefs answers what can be answered without git. handled false: nothing was answered,
// and c.In has all that the client sends.
func (t *Transport) serveRefs(ctx context.Context, r Request, repository *repo.Repository, c *Client) (handled bool) {
	if r.Service != UploadPack || !r.Stateless || r.Protocol != wholeV2 {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, c.Kick)()
	defer context.AfterFunc(c.Gone, cancel)()
	stalled := time.AfterFunc(t.Limits.Stall, func() {
		t.Log.Info("closed a connection whose git client made no progress")
		c.Kick()
	})
	defer stalled.Stop()
	out := progressWriter{c.Out, func() { stalled.Reset(t.Limits.Stall) }}

	if r.Advertise {
		said := t.capabilities.get()
		if said == nil || !repository.Plain() {
			return false
		}
		_, _ = out.Write(said) // an error: the client has gone
		return true
	}

	question, read, ok := readLsRefs(c.In)
	c.In = io.MultiReader(bytes.NewReader(read), c.In)
	if !ok {
		return false
	}
	list, err := repository.Advertise(ctx, question.prefixes)
	if err != nil {
		if !errors.Is(err, repo.ErrUnusual) && ctx.Err() == nil {
			t.Log.Warn("could not list refs without git", "repo", repository.Name(), "err", err)
		}
		return false
	}
	_ = question.answer(out, list) // an error: the client has gone
	return true
}

type progressWriter struct {
	to       io.Writer
	progress func()
}

func (w progressWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.progress()
	return n, err
}

// capabilities is what git says that it can do, of a repository that is configured like any
// other: the same until there is another git.
type capabilities struct {
	mu   sync.Mutex
	by   gitProgram
	said []byte
}

// gitProgram tells one git from another.
type gitProgram struct {
	path string
	size int64
	at   time.Time
}

func theGit() (p gitProgram, ok bool) {
	path, err := exec.LookPath("git")
	if err != nil {
		return p, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return p, false
	}
	return gitProgram{path, info.Size(), info.ModTime()}, true
}

// get is what the git that there is said last; nil: nothing yet.
func (c *capabilities) get() []byte {
	is, ok := theGit()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok || is != c.by {
		return nil
	}
	return c.said
}

// learn has what git says about a repository be kept once it has said all of it: the caller
// calls keep when git has ended well.
func (c *capabilities) learn(to io.Writer) (tee io.Writer, keep func()) {
	by, ok := theGit() // before it is run: another one that comes meanwhile is asked again
	said := &message{}
	return io.MultiWriter(said, to), func() {
		if !ok || !isWhole(said.Bytes()) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.by, c.said = by, bytes.Clone(said.Bytes())
	}
}

// isWhole reports whether packets are an answer of protocol version 2 from its beginning to
// its end.
func isWhole(packets []byte) bool {
	in := bytes.NewReader(packets)
	if line, _, err := readPacket(in); err != nil || line != "version 2" {
		return false
	}
	for {
		switch _, special, err := readPacket(in); {
		case err != nil || special > 0:
			return false
		case special == 0:
			return in.Len() == 0
		}
	}
}
