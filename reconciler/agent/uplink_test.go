package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/enrolment"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// An impostor is refused before anything is said to it: it sees neither the token's key
// nor the agent's own.
func TestUnknownHostKeyIsToldNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 10)
	ended := make(chan error, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, private, _ := ed25519.GenerateKey(rand.Reader)
			key, err := ssh.NewSignerFromKey(private)
			if err != nil {
				ended <- err
				continue
			}
			conf := &ssh.ServerConfig{
				PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
					heard <- ssh.FingerprintSHA256(key)
					return nil, nil
				},
			}
			conf.AddHostKey(key)
			_, _, _, err = ssh.NewServerConn(conn, conf)
			ended <- err
			conn.Close()
		}
	}()
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	dir := filepath.Join(t.TempDir(), "agent")
	_, err = Join(context.Background(), dir, l.Addr().String(), "SHA256:of-the-true-server", Keys{Signing: "SHA256:x"},
		"web-1", enrolment.Prefix+base64.RawURLEncoding.EncodeToString(seed))
	if err == nil || !strings.Contains(err.Error(), "and not the pinned SHA256:of-the-true-server") {
		t.Error(err)
	}
	for range 2 { // with the token's key, and with its own
		if err := <-ended; err == nil {
			t.Error("the impostor has let it in")
		}
	}
	select {
	case key := <-heard:
		t.Errorf("the impostor was shown the key %s", key)
	default:
	}
	if u, err := OpenUplink(dir); u != nil || err != nil {
		t.Errorf("it has joined %+v %v", u, err)
	}
}

func TestOpenUplink(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "{", `{"version":2,"server":"a:1","host_key":"SHA256:x"}`,
		`{"version":1,"server":"a:1"}`} {
		if err := os.WriteFile(filepath.Join(dir, uplinkName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if u, err := OpenUplink(dir); err == nil || !strings.Contains(err.Error(), uplinkName) {
			t.Errorf("%q: %+v %v", text, u, err)
		}
	}
	u := &Uplink{Server: "a:1", HostKey: "SHA256:x", Name: "web-1", Keys: Keys{Signing: "SHA256:s"}}
	if err := u.keep(dir); err != nil {
		t.Fatal(err)
	}
	again, err := OpenUplink(dir)
	if err != nil || again.Server != u.Server || again.HostKey != u.HostKey || again.Name != u.Name || again.Key == nil ||
		!again.Keys.Equal(u.Keys) {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := Join(context.Background(), dir, "b:1", "SHA256:y", Keys{Signing: "SHA256:x"}, "web-2",
		enrolment.Prefix+strings.Repeat("A", 43)); !errors.Is(err, ErrJoined) {
		t.Errorf("it joins a second server: %v", err)
	}
}

// Another key that is trusted, or followed, is trusted at the next start.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	if _, err := Trust(dir, "SHA256:h", Keys{}); err == nil || !strings.Contains(err.Error(), "headgate agent join") {
		t.Error(err)
	}
	u := &Uplink{Server: "a:1", HostKey: "SHA256:h", Keys: Keys{Signing: "SHA256:s"}}
	if err := u.keep(dir); err != nil {
		t.Fatal(err)
	}
	holds := func(hostKey, keys string) {
		t.Helper()
		if u, err := OpenUplink(dir); err != nil || u.HostKey != hostKey || u.Keys.String() != keys {
			t.Errorf("%+v %v; want %s and %s", u, err, hostKey, keys)
		}
	}
	if err := u.follow(dir, Keys{"SHA256:t", []string{"SHA256:s"}}); err != nil || u.Keys.Signing != "SHA256:t" {
		t.Fatal(u.Keys, err)
	}
	holds("SHA256:h", "SHA256:t,SHA256:s")
	if _, err := Trust(dir, "SHA256:i", Keys{}); err != nil {
		t.Fatal(err)
	}
	holds("SHA256:i", "SHA256:t,SHA256:s")
	if _, err := Trust(dir, "", Keys{Signing: "SHA256:v"}); err != nil {
		t.Fatal(err)
	}
	holds("SHA256:i", "SHA256:v")
	for text, want := range map[string]bool{"SHA256:a": true, "SHA256:a,SHA256:b": true, "": false,
		"SHA256:a,": false, "a": false} {
		if k, err := ParseKeys(text); (err == nil) != want || want && k.String() != text {
			t.Errorf("%q: %+v %v", text, k, err)
		}
	}
}

// TestKilledAsKeysAreFollowed: an agent that is killed once the new key is noted believes it
// when it is back, and what the former one signed.
func TestKilledAsKeysAreFollowed(t *testing.T) {
	const dirVariable = "HEADGATE_TEST_FOLLOWING"
	next := Keys{"SHA256:t", []string{"SHA256:s"}}
	if dir := os.Getenv(dirVariable); dir != "" {
		u, err := OpenUplink(dir)
		if err == nil {
			err = u.follow(dir, next)
		}
		t.Fatalf("it was not killed: %v", err)
	}
	for _, point := range []string{"join.noted", "agent.keys-followed"} {
		dir := t.TempDir()
		if err := (&Uplink{Server: "a:1", HostKey: "SHA256:h", Keys: Keys{Signing: "SHA256:s"}}).keep(dir); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKilledAsKeysAreFollowed$")
		cmd.Env = append(os.Environ(), dirVariable+"="+dir, "HEADGATE_CRASH_AT="+point)
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("%s: it was not killed: %v %s", point, err, out)
		}
		u, err := OpenUplink(dir)
		if err != nil || u.Keys.String() != next.String() {
			t.Fatalf("%s: %+v %v", point, u, err)
		}
		if err := u.follow(dir, next); err != nil {
			t.Errorf("%s: again: %v", point, err)
		}
	}
}

// What is not proven is not handed to the engine, and is known to both ends; the next that
// is proven is.
func TestUnprovenIsRefused(t *testing.T) {
	dir := t.TempDir()
	engine := &recorder{took: make(chan target.Declared, 10)}
	u := &Uplink{Server: "a:1", HostKey: "SHA256:h"}
	w := &Worker{
		Dir:    dir,
		Uplink: u,
		Hosts:  engine,
		Log:    slog.New(slog.DiscardHandler),
		Prove: func(keys Keys, d *target.Declared, p Proof, _ int) (Keys, error) {
			switch {
			case p.Release != d.Commit:
				return keys, errors.New("the server has made it up")
			case d.Commit == "rotated":
				return Keys{"SHA256:t", []string{keys.Signing}}, nil
			}
			return keys, nil
		},
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	s := &http.Server{Handler: &Handler{Engine: engine, Hello: func() Hello { return Hello{Unproven: w.Refused()} },
		Prove: w.Verify, Log: w.Log}}
	go func() {
		_ = s.Serve(l) // until it is closed
		close(served)
	}()
	made := map[string]bool{"made up": true}
	link := &Target{
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.Addr().String())
		},
		Prove: func(d target.Declared) (Proof, error) {
			if made[d.Commit] {
				return Proof{Release: "something"}, nil
			}
			return Proof{Release: d.Commit}, nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- link.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		s.Close()
		<-served
	})
	changed, end := link.Watch(target.Key{})
	defer end()
	k := target.Key{Repository: "shop", Application: "shop", Environment: "production"}
	says := func(sequence int, commit, want string) {
		t.Helper()
		link.Converge(target.Declared{Key: k, Commit: commit, Sequence: sequence})
		for {
			o := link.Observe(k)
			if o.State == target.Failed && o.Commit == commit && strings.Contains(o.Message, want) {
				return
			}
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatalf("%+v; want %q", o, want)
			}
		}
	}
	says(1, "first", "this agent does not know the server's signing key")
	w.proving.Lock()
	u.Keys = Keys{Signing: "SHA256:s"}
	w.proving.Unlock()
	says(2, "made up", "the machine refuses it, and what runs there goes on: the server has made it up")
	h, err := (&Client{Dialer: link.Dial}).Hello(ctx)
	if err != nil || len(h.Unproven) != 1 || h.Unproven[0].Key != k || h.Unproven[0].Commit != "made up" {
		t.Errorf("%+v %v", h.Unproven, err)
	}
	for i, commit := range []string{"good", "rotated"} {
		link.Converge(target.Declared{Key: k, Commit: commit, Sequence: 3 + i})
		if d := <-engine.took; d.Commit != commit {
			t.Fatalf("the engine was told %+v", d)
		}
	}
	if h, err := (&Client{Dialer: link.Dial}).Hello(ctx); err != nil || len(h.Unproven) != 0 {
		t.Errorf("%+v %v", h.Unproven, err)
	}
	if kept, err := OpenUplink(dir); err != nil || kept.Keys.String() != "SHA256:t,SHA256:s" {
		t.Errorf("%+v %v", kept, err)
	}
	// What is declared without any proof has no door.
	bare := &Target{Dial: link.Dial}
	bare.init()
	defer bare.client.CloseIdleConnections()
	if _, err := bare.call(ctx, http.MethodPut, pathDeclared,
		target.Declared{Key: k, Commit: "bare", Sequence: 9}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a bare declaration: %v", err)
	}
	if len(engine.took) > 0 {
		t.Errorf("the engine was told %+v", <-engine.took)
	}
}

// recorder is an engine that notes what it is told.
type recorder struct {
	Engine
	reports target.Topic
	took    chan target.Declared
}

func (r *recorder) Converge(d target.Declared)                   { r.took <- d }
func (r *recorder) Keys() []target.Key                           { return nil }
func (r *recorder) Fence(target.Key) int                         { return -1 }
func (r *recorder) Watch(k target.Key) (<-chan struct{}, func()) { return r.reports.Watch(k) }
