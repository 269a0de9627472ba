package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// refsTest is a repository whose refs are asked for.
type refsTest struct {
	*testing.T
	transport *Transport
	r         *repo.Repository
}

func newRefsTest(t *testing.T) *refsTest {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	store, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r, err := store.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	config, err := access.Parse("server.yaml", []byte(
		"users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}}\n"+
			"groups: {administrators: [ada]}\nrepositories: {hello: {public: true}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &Transport{Store: store, Log: slog.New(slog.DiscardHandler), Access: func() *access.Config { return config }}
	transport.start()
	return &refsTest{t, transport, r}
}

func (t *refsTest) git(args ...string) string {
	t.Helper()
	out, err := t.r.Git(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func (t *refsTest) file(name, text string) {
	t.Helper()
	path := filepath.Join(t.r.Dir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// of is what git answers.
func (t *refsTest) of(body string, flags ...string) string {
	t.Helper()
	args := append(append([]string{"upload-pack", "--strict", "--stateless-rpc"}, flags...), t.r.Dir())
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Env, cmd.Stdin = repo.Env(os.DevNull, "GIT_PROTOCOL=version=2"), strings.NewReader(body)
	out, _ := cmd.Output() // what it does not take, it says
	return string(out)
}

// ours is what is answered here, if it is.
func (t *refsTest) ours(body string, advertise bool) (answer string, handled bool) {
	t.Helper()
	var out bytes.Buffer
	client := Client{
		In:      strings.NewReader(body),
		Out:     &out,
		Err:     io.Discard,
		Gone:    t.Context(),
		Kick:    func() {},
		Reading: &sync.WaitGroup{},
	}
	request := Request{Service: UploadPack, Repository: "hello", Protocol: wholeV2, Stateless: true, Advertise: advertise}
	handled = t.transport.serveRefs(t.Context(), request, t.r, &client)
	if left, err := io.ReadAll(client.In); err != nil || !handled && string(left) != body {
		t.Errorf("of %q git is given %q, %v", body, left, err)
	}
	return out.String(), handled
}

// lines are packets of protocol version 2: "-" between the capabilities and the arguments.
func lines(all ...string) string {
	var b strings.Builder
	for _, line := range all {
		if line == "-" {
			b.WriteString("0001")
			continue
		}
		fmt.Fprintf(&b, "%04x%s\n", len(line)+5, line)
	}
	return b.String() + "0000"
}

// questions are what clients ask for refs.
func questions(random *rand.Rand, names []string) (all []string) {
	ask := func(arguments ...string) {
		all = append(all, lines(append([]string{"command=ls-refs", "agent=git/2.39.5", "object-format=sha1", "-"},
			arguments...)...))
	}
	ask("peel", "symrefs")
	ask("peel", "symrefs", "unborn", "ref-prefix refs/heads/", "ref-prefix refs/tags/", "ref-prefix HEAD")
	ask("symrefs", "unborn")
	ask("unborn", "ref-prefix H")
	ask("peel", "ref-prefix refs/tags/", "ref-prefix refs/", "ref-prefix refs/heads/main")
	ask("ref-prefix nothing")
	ask("peel", "symrefs", "ref-prefix ", "ref-prefix refs/heads")
	var prefixes []string
	for range 1 + random.IntN(4) {
		name := names[random.IntN(len(names))]
		prefixes = append(prefixes, "ref-prefix "+name[:random.IntN(len(name)+1)])
	}
	ask(append(prefixes, "peel")...)
	return append(all, lines("command=ls-refs"), lines("command=ls-refs", "-"),
		strings.ReplaceAll(lines("command=ls-refs", "-", "peel"), "0009peel\n", "0008peel"))
}

// TestRefsAreAsGitHasThem: refs of many repositories, loose and packed, moved and deleted, and
// each question for them: byte for byte what git's upload-pack answers.
func TestRefsAreAsGitHasThem(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	h := newRefsTest(t)
	same := func(what, question string) {
		t.Helper()
		got, handled := h.ours(question, false)
		if want := h.of(question); !handled || got != want {
			t.Fatalf("%s, asked %q: answered here: %v\n%s\nby git:\n%s", what, question, handled, got, want)
		}
	}

	var objects []string // commits, and tags on whatever may be tagged
	tree := h.git("hash-object", "-t", "tree", "-w", "/dev/null")
	for i := range 4 {
		c := repo.Object{Kind: plumbing.CommitObject, Content: fmt.Appendf(nil,
			"tree %s\nauthor a <a@b> %d +0000\ncommitter a <a@b> 0 +0000\n\nmessage\n", tree, i)}
		if err := h.r.Write(c); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, c.Hash().String())
	}
	commits := objects
	for i, on := range []string{commits[0], commits[1], tree, ""} {
		kind := []string{"commit", "commit", "tree", "tag"}[i]
		if on == "" {
			on = objects[len(objects)-1]
		}
		tag := repo.Object{Kind: plumbing.TagObject,
			Content: fmt.Appendf(nil, "object %s\ntype %s\ntag t%d\ntagger a <a@b> 0 +0000\n\nmessage\n", on, kind, i)}
		if err := h.r.Write(tag); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, tag.Hash().String())
	}
	names := []string{"refs/heads/main", "refs/heads/side", "refs/heads/deep/er", "refs/heads/deep-er", "refs/heads/deep.er",
		"refs/heads/ünder", "refs/heads/env/staging", "refs/tags/v1", "refs/tags/v1.0", "refs/tags/v2", "refs/changes/1/log",
		"refs/changes/10/log", "refs/changes/2/log", "refs/releases/1", "refs/notes/verdicts", "refs/head/x"}

	for round := range 24 {
		for range random.IntN(8) {
			name := names[random.IntN(len(names))]
			on := objects[random.IntN(len(objects))]
			if strings.HasPrefix(name, "refs/heads/") {
				on = commits[random.IntN(len(commits))]
			}
			if random.IntN(4) == 0 {
				h.git("update-ref", "-d", name)
			} else {
				h.git("update-ref", name, on)
			}
		}
		switch random.IntN(5) {
		case 0:
			h.git("pack-refs", "--all", "--prune")
		case 1:
			h.git("symbolic-ref", "HEAD", names[random.IntN(7)]) // which may not be there
		case 2:
			h.git("update-ref", "--no-deref", "HEAD", commits[random.IntN(len(commits))])
		}
		h.file("refs/heads/main.lock", "")
		for _, question := range questions(random, names) {
			same(fmt.Sprint("round ", round), question)
		}
		if err := os.Remove(filepath.Join(h.r.Dir(), "refs/heads/main.lock")); err != nil {
			t.Fatal(err)
		}
	}

	// What it can do is asked once, and again of another git.
	if _, handled := h.ours("", true); handled {
		t.Error("it says what git can do before git has said it")
	}
	to, keep := h.transport.capabilities.learn(io.Discard)
	fmt.Fprint(to, h.of("", "--http-backend-info-refs"))
	keep()
	if got, handled := h.ours("", true); !handled || got != h.of("", "--http-backend-info-refs") {
		t.Errorf("it can do %v %q", handled, got)
	}
	h.transport.capabilities.by.size++
	if _, handled := h.ours("", true); handled {
		t.Error("it says what another git could do")
	}
}

// TestUnusualIsGits: what is asked, or is there, in another way than this server makes it
// goes to git as it came.
func TestUnusualIsGits(t *testing.T) {
	t.Parallel()
	h := newRefsTest(t)
	refs := lines("command=ls-refs", "-", "peel", "symrefs")
	if _, handled := h.ours(refs, false); !handled {
		t.Fatal("a usual question is not answered")
	}
	for _, question := range []string{
		"", "0000", "0", "zzzz", "0003", "not packets", refs[:len(refs)-4], refs + "0000", refs + refs, refs + "x",
		lines("command=fetch", "-", "done"), lines("command=ls-refs", "server-option=x", "-"),
		lines("command=ls-refs", "object-format=sha256"), lines("agent=x", "command=ls-refs"),
		lines("command=ls-refs", "command=ls-refs"), lines("command=ls-refs", "-", "-"),
		lines("command=ls-refs", "-", "hidden"), lines("command=ls-refs", "-", "command=ls-refs"),
		lines("command=ls-refs", "-", "ref-prefix "+strings.Repeat("x", 65000), "ref-prefix "+strings.Repeat("x", 1000)),
		"fff0" + refs,
	} {
		if answer, handled := h.ours(question, false); handled {
			t.Errorf("%.100q is answered %q", question, answer)
		}
	}

	tree := h.git("hash-object", "-t", "tree", "-w", "/dev/null")
	h.git("update-ref", "refs/tags/tree", tree)
	for what, change := range map[string]func() (undo func()){
		"a ref that stands for another": func() func() {
			h.file("refs/remotes/origin/HEAD", "ref: refs/heads/main\n")
			return func() { os.RemoveAll(filepath.Join(h.r.Dir(), "refs/remotes")) }
		},
		"one on nothing": func() func() {
			h.file("refs/tags/gone", strings.Repeat("1", 40)+"\n")
			return func() { os.Remove(filepath.Join(h.r.Dir(), "refs/tags/gone")) }
		},
		"one that is torn": func() func() {
			h.file("refs/tags/torn", "")
			return func() { os.Remove(filepath.Join(h.r.Dir(), "refs/tags/torn")) }
		},
		"one with an odd name": func() func() {
			h.file("refs/tags/a..b", tree+"\n")
			return func() { os.Remove(filepath.Join(h.r.Dir(), "refs/tags/a..b")) }
		},
		"a configuration of its own": func() func() {
			path := filepath.Join(h.r.Dir(), "config")
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			h.file("config", string(before)+"[transfer]\n\thideRefs = refs/tags\n")
			return func() { h.file("config", string(before)) }
		},
		"HEAD that nobody can read": func() func() {
			h.file("HEAD", "")
			return func() { h.file("HEAD", "ref: refs/heads/main\n") }
		},
	} {
		undo := change()
		if answer, handled := h.ours(refs, false); handled {
			t.Errorf("%s: answered %q, and by git %q", what, answer, h.of(refs))
		}
		undo()
		if got, handled := h.ours(refs, false); !handled || got != h.of(refs) {
			t.Errorf("after %s: %v %q", what, handled, got)
		}
	}
}

// serve serves the repository over HTTP.
func (t *refsTest) serve() (url string) {
	t.Helper()
	handler := &HTTP{
		Transport: t.transport,
		Tokens:    &Tokens{Access: t.transport.Access, Open: t.transport.Open},
	}
	server := httptest.NewServer(handler.Before(http.NotFoundHandler()))
	t.Cleanup(handler.Close)
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	return server.URL
}

// TestRefsOverHTTP: stock git lists refs, and the second time no git is started for it.
func TestRefsOverHTTP(t *testing.T) {
	t.Parallel()
	h := newRefsTest(t)
	tree := h.git("hash-object", "-t", "tree", "-w", "/dev/null")
	h.git("update-ref", "refs/tags/tree", tree)
	url := h.serve()
	list := func() string {
		t.Helper()
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "git", "ls-remote", url+"/hello")
		cmd.Env = repo.Env(os.DevNull)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for range 2 {
		if got := list(); got != tree+"\trefs/tags/tree\n" {
			t.Errorf("%q", got)
		}
	}
	if h.transport.capabilities.get() == nil {
		t.Error("git is asked every time what it can do")
	}
}

// TestHalfAQuestion: who says half of what they ask, and no more, is let go.
func TestHalfAQuestion(t *testing.T) {
	t.Parallel()
	h := newRefsTest(t)
	h.transport.Limits.Stall = 50 * time.Millisecond
	url := h.serve()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question := lines("command=ls-refs", "-", "peel")
	fmt.Fprintf(conn, "POST /hello/git-upload-pack HTTP/1.1\r\nHost: h\r\nGit-Protocol: version=2\r\n"+
		"Content-Type: application/x-git-upload-pack-request\r\nContent-Length: %d\r\n\r\n%s", len(question), question[:20])
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if answered, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection is open: %q, %v", answered, err)
	}
}

// FuzzReadLsRefs: whatever is asked, git gets all of it, or it was a question for refs to its
// end.
func FuzzReadLsRefs(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	for _, question := range questions(random, []string{"refs/heads/main"}) {
		f.Add([]byte(question))
	}
	f.Add([]byte("0014command=ls-refs\n0000x"))
	f.Add([]byte("fff0command=ls-refs\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		from := bytes.NewReader(body)
		q, read, ok := readLsRefs(from)
		rest, err := io.ReadAll(from)
		if err != nil || !bytes.Equal(append(bytes.Clone(read), rest...), body) {
			t.Fatalf("%q was read as %q", body, read)
		}
		if ok && (!bytes.HasSuffix(body, []byte("0000")) || len(rest) > 0) {
			t.Errorf("%q is %+v", body, q)
		}
		for _, prefix := range q.prefixes {
			if ok && !bytes.Contains(body, []byte(prefix)) {
				t.Errorf("%q asks for %q", body, prefix)
			}
		}
	})
}
