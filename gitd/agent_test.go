package gitd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/agentline"
	"github.com/headgate-cd/headgate/gitd/show"
)

// fakeAgents notes what the daemon tells it.
type fakeAgents struct {
	token string // fingerprint of the only one

	mu       sync.Mutex
	enrolled []string // fingerprints
	present  map[string]AgentLine
	left     int
}

func (f *fakeAgents) Enrols(fingerprint string) bool { return fingerprint == f.token }

func (f *fakeAgents) Enrol(_ context.Context, token string, key gossh.PublicKey,
	e agentline.Enrolment) (agentline.Enrolled, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if token != f.token {
		return agentline.Enrolled{}, errors.New("another token")
	}
	if e.Name == "taken" {
		return agentline.Enrolled{}, &show.Error{What: "there is an agent \"taken\" already", Hint: "give another name"}
	}
	f.enrolled = append(f.enrolled, gossh.FingerprintSHA256(key))
	return agentline.Enrolled{Name: e.Name}, nil
}

func (f *fakeAgents) Blob(_ context.Context, a access.Agent, b agentline.Blob) (io.ReadSeekCloser, error) {
	if a.Name != "web-1" || b.Digest != "sha256:known" {
		return nil, &show.Error{What: "not for " + a.Name}
	}
	return closer{strings.NewReader("0123456789")}, nil
}

type closer struct{ io.ReadSeeker }

func (closer) Close() error { return nil }

func (f *fakeAgents) Serve(ctx context.Context, a access.Agent, line AgentLine) {
	f.mu.Lock()
	f.present[a.Name] = line
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.left++
	f.mu.Unlock()
}

func (f *fakeAgents) line(name string) (AgentLine, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.present[name]
	return l, ok
}

// withAgents is a server that knows the agent web-1 and one token, with both keys.
func withAgents(t *testing.T) (h *harness, f *fakeAgents, own, token gossh.Signer) {
	t.Helper()
	f = &fakeAgents{present: map[string]AgentLine{}}
	own, _ = newSigner(t)
	token, _ = newSigner(t)
	f.token = gossh.FingerprintSHA256(token.PublicKey())
	h = start(t, func(s *Server) { s.Agents = f })
	data, err := access.AddAgent(h.text, access.Agent{Name: "web-1"}, public(own))
	if err != nil {
		t.Fatal(err)
	}
	h.configure(data)
	return h, f, own, token
}

func (h *harness) dialled(key gossh.Signer) *gossh.Client {
	h.t.Helper()
	client, err := h.dial(key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { client.Close() })
	return client
}

// TestMachinesKeysDoNothingElse: an agent's key, and that of a token, open neither a
// session nor each other's channels, nor any other; and a person's opens none of theirs.
func TestMachinesKeysDoNothingElse(t *testing.T) {
	h, f, own, token := withAgents(t)
	for _, c := range []struct {
		who  string
		key  gossh.Signer
		only string // what it may open
	}{
		{"agent", own, agentline.Presence},
		{"token", token, agentline.Enrol},
		{"person", h.keys["ada"], "session"},
	} {
		for _, kind := range []string{
			"session", agentline.Presence, agentline.Enrol, agentline.Conversation, agentline.Artifact,
			"direct-tcpip", "forwarded-tcpip", "auth-agent@openssh.com", "x11", "",
		} {
			if kind == c.only {
				continue
			}
			channel, _, err := h.dialled(c.key).OpenChannel(kind, []byte("{}"))
			var refused *gossh.OpenChannelError
			if err == nil {
				channel.Close()
			}
			if !errors.As(err, &refused) {
				t.Errorf("%s opens %q: %v", c.who, kind, err)
			}
		}
		if c.who == "person" {
			continue
		}
		client := h.dialled(c.key)
		for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com"} {
			if ok, _, err := client.SendRequest(kind, true, nil); ok || err != nil {
				t.Errorf("%s is granted %s: %v", c.who, kind, err)
			}
		}
	}
	if len(f.enrolled) > 0 {
		t.Errorf("somebody has enrolled: %q", f.enrolled)
	}
}

// A machine has to be known, and a key that has been removed is nobody's at once.
func TestUnknownMachines(t *testing.T) {
	h, f, own, _ := withAgents(t)
	other, _ := newSigner(t)
	if client, err := h.dial(other); err == nil {
		client.Close()
		t.Error("a key that nobody knows is let in")
	}
	if client, err := h.dial(h.keys["eve"], other); err == nil {
		client.Close()
		t.Error("keys that nobody knows are let in")
	}
	client := h.dialled(own)
	h.configure(h.text) // the agent is removed after it was let in
	if _, _, err := client.OpenChannel(agentline.Presence, nil); err == nil ||
		!strings.Contains(err.Error(), "not an agent's any more") {
		t.Errorf("a removed agent is present: %v", err)
	}
	if client, err := h.dial(own); err == nil {
		client.Close()
		t.Error("the key of an agent that was removed is let in")
	}
	if _, ok := f.line("web-1"); ok {
		t.Error("a removed agent was served")
	}
}

// An agent is spoken to by its own connection, and one that is hung up on is gone.
func TestAgentIsSpokenTo(t *testing.T) {
	h, f, own, _ := withAgents(t)
	client := h.dialled(own)
	conversations := client.HandleChannelOpen(agentline.Conversation)
	if _, _, err := client.OpenChannel(agentline.Presence, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.OpenChannel(agentline.Presence, nil); err == nil {
		t.Error("it is present twice on one connection")
	}
	until(t, "the agent is there", func() bool { _, ok := f.line("web-1"); return ok })
	line, _ := f.line("web-1")
	go func() {
		for offered := range conversations {
			channel, requests, err := offered.Accept()
			if err != nil {
				return
			}
			go gossh.DiscardRequests(requests)
			io.Copy(channel, channel)
			channel.Close()
		}
	}()
	conn, err := line.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 6)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "hello\n" {
		t.Errorf("%q %v", answer, err)
	}
	if line.From() != "127.0.0.1" {
		t.Errorf("it comes from %s", line.From())
	}
	blob := func(digest string, offset int64) (string, error) {
		want, err := json.Marshal(agentline.Blob{Artifact: digest, Digest: digest, Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		channel, requests, err := client.OpenChannel(agentline.Artifact, want)
		if err != nil {
			return "", err
		}
		go gossh.DiscardRequests(requests)
		data, err := io.ReadAll(channel)
		return string(data), err
	}
	if got, err := blob("sha256:known", 4); err != nil || got != "456789" {
		t.Errorf("from 4 on it is %q %v", got, err)
	}
	for digest, offset := range map[string]int64{"sha256:other": 0, "sha256:known": -1} {
		if got, err := blob(digest, offset); err == nil {
			t.Errorf("%s at %d is %q", digest, offset, got)
		}
	}
	line.Close()
	if err := client.Wait(); err == nil {
		t.Error("the connection ended well")
	}
	until(t, "it is gone", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.left == 1 })
}

// A machine proves both keys: that of its token, and its own, for this connection.
func TestEnrolmentIsProven(t *testing.T) {
	h, f, _, token := withAgents(t)
	mine, _ := newSigner(t)
	enrol := func(data func(session []byte) []byte) (agentline.Enrolled, error) {
		client := h.dialled(token)
		channel, requests, err := client.OpenChannel(agentline.Enrol, data(client.SessionID()))
		if err != nil {
			return agentline.Enrolled{}, err
		}
		go gossh.DiscardRequests(requests)
		var answer agentline.Enrolled
		err = json.NewDecoder(channel).Decode(&answer)
		return answer, err
	}
	sign := func(name string, key gossh.Signer, session []byte) []byte {
		data, err := agentline.Sign(name, key, session)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for what, data := range map[string]func(session []byte) []byte{
		"does not prove its key": func([]byte) []byte { return sign("web-2", mine, []byte("another connection")) },
		"not prove its key": func(session []byte) []byte { // somebody else's key
			var e agentline.Enrolment
			if err := json.Unmarshal(sign("web-2", mine, session), &e); err != nil {
				t.Fatal(err)
			}
			e.Key = public(h.keys["ada"])
			data, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			return data
		},
		"cannot be read":           func([]byte) []byte { return []byte("{") },
		"is not an SSH public key": func([]byte) []byte { return []byte(`{"key": "abc"}`) },
		"is too long":              func([]byte) []byte { return []byte(strings.Repeat(" ", 9<<10)) },
	} {
		if answer, err := enrol(data); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %+v %v", what, answer, err)
		}
	}
	if len(f.enrolled) > 0 {
		t.Fatalf("somebody has enrolled: %q", f.enrolled)
	}
	answer, err := enrol(func(session []byte) []byte { return sign("taken", mine, session) })
	if err != nil || !strings.Contains(answer.Error, "already") || answer.Hint == "" {
		t.Errorf("%+v %v", answer, err)
	}
	answer, err = enrol(func(session []byte) []byte { return sign("web-2", mine, session) })
	if err != nil || answer.Name != "web-2" || len(f.enrolled) != 1 ||
		f.enrolled[0] != gossh.FingerprintSHA256(mine.PublicKey()) {
		t.Errorf("%+v %v, enrolled %q", answer, err, f.enrolled)
	}
}
