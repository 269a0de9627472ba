package gitd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/shell"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/transport"
	"github.com/headgate-cd/headgate/gitd/tty"
)

// impostor claims one key and signs with another's.
type impostor struct {
	gossh.Signer
	claims gossh.PublicKey
}

func (i impostor) PublicKey() gossh.PublicKey { return i.claims }

// shifty offers one key, and once the server has said that it would do, sends
// another with that one's own good signature.
type shifty struct {
	gossh.Signer
	offers  gossh.PublicKey
	marshal int
}

func (s *shifty) PublicKey() gossh.PublicKey { return &shiftyKey{s.Signer.PublicKey(), s} }

type shiftyKey struct {
	gossh.PublicKey
	s *shifty
}

func (k *shiftyKey) Marshal() []byte {
	k.s.marshal++
	if k.s.marshal <= 2 { // the offer, and the check of the server's answer to it
		return k.s.offers.Marshal()
	}
	return k.PublicKey.Marshal()
}

// A client is who signed, whatever it offered before (CVE-2024-45337).
func TestIdentityIsTheProvenKey(t *testing.T) {
	h := start(t, nil)
	ada, jun, eve := h.keys["ada"], h.keys["jun"], h.keys["eve"]
	for name, keys := range map[string][]gossh.Signer{
		"offers ada, proves jun":      {&shifty{Signer: jun, offers: ada.PublicKey()}},
		"eve, offers ada, proves jun": {eve, &shifty{Signer: jun, offers: ada.PublicKey()}},
		"offers jun, proves jun":      {&shifty{Signer: jun, offers: jun.PublicKey()}},
		"jun alone":                   {jun},
		"unknown first":               {eve, jun},
	} {
		client, err := h.dial(keys...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r := h.run(client, "whoami"); r.stdout != "jun\n" {
			t.Errorf("%s: the server takes the client for %q", name, r.stdout)
		}
		client.Close()
	}
	for name, keys := range map[string][]gossh.Signer{
		"claims ada, signs as jun": {impostor{jun, ada.PublicKey()}},
		"claims ada, signs as eve": {impostor{eve, ada.PublicKey()}, eve},
		"offers ada, proves eve":   {&shifty{Signer: eve, offers: ada.PublicKey()}},
		"unknown":                  {eve},
	} {
		if client, err := h.dial(keys...); err == nil {
			t.Errorf("%s: let in as %q", name, h.run(client, "whoami").stdout)
			client.Close()
		}
	}
}

// The same with the stock client, which has ada's public key only.
func TestStockClientOffersForeignKey(t *testing.T) {
	h := start(t, nil)
	foreign := h.write("foreign.pub", []byte(public(h.keys["ada"])+"\n"), 0o644)
	args := h.ssh("jun", "git@127.0.0.1", "whoami")
	args = append([]string{args[0], "-v", "-i", foreign}, args[1:]...)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "\njun\n") && !strings.Contains(string(out), "\njun\r\n") {
		t.Errorf("who: %s", out)
	}
	if !strings.Contains(string(out), "Server accepts key: "+foreign) {
		t.Errorf("the foreign key was not even offered:\n%s", out)
	}
	if !strings.Contains(string(out), "Authentications that can continue: publickey\n") &&
		!strings.Contains(string(out), "Authentications that can continue: publickey\r\n") {
		t.Errorf("more than public keys is advertised:\n%s", out)
	}
}

// Whose key nobody has is told which it was and whom to ask; who has others as
// well is told once.
func TestUnknownKeyIsTold(t *testing.T) {
	h := start(t, nil)
	said := func(signers ...gossh.Signer) (banners string, err error) {
		client, err := gossh.Dial("tcp", h.addr, &gossh.ClientConfig{
			User:            "git",
			Auth:            []gossh.AuthMethod{gossh.PublicKeys(signers...)},
			HostKeyCallback: gossh.FixedHostKey(h.server.HostKey.PublicKey()),
			BannerCallback:  func(message string) error { banners += message; return nil },
			Timeout:         within,
		})
		if err == nil {
			client.Close()
		}
		return banners, err
	}
	eve, jun := h.keys["eve"], h.keys["jun"]
	want := "git.tarn.example: no user here has the key " + gossh.FingerprintSHA256(eve.PublicKey()) + "; to be let in, "

	args := h.ssh("eve", "git@127.0.0.1", "whoami")
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err == nil ||
		!strings.Contains(string(out), want) {
		t.Errorf("the stock client shows %s, %v", out, err)
	}
	for range 2 {
		if got, err := said(eve); err == nil || !strings.HasPrefix(got, want) {
			t.Errorf("an unknown key alone is told %q, %v", got, err)
		}
	}
	if got, err := said(eve, jun); err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("the first time before a good one it is told %q, %v", got, err)
	}
	if got, err := said(eve, jun); err != nil || got != "" {
		t.Errorf("the second time before a good one it is told %q, %v", got, err)
	}
}

// Colours are for terminals that want them.
func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		pty  string
		want shell.Terminal
	}{
		{map[string]string{"LANG": "en_GB.UTF-8"}, "xterm", shell.Terminal{Width: 80, Colour: true, Unicode: true}},
		{map[string]string{"LANG": "en_GB.UTF-8", "LC_ALL": "C"}, "xterm", shell.Terminal{Width: 80, Colour: true}},
		{map[string]string{"NO_COLOR": "1"}, "xterm", shell.Terminal{Width: 80}},
		{map[string]string{"NO_COLOR": ""}, "xterm", shell.Terminal{Width: 80, Colour: true}},
		{map[string]string{"LANG": "en_GB.UTF-8"}, "dumb", shell.Terminal{Width: 80}},
	} {
		s := &session{env: c.env}
		if got := s.style(&pty{name: c.pty, size: tty.Size{Columns: 80}}); got != c.want {
			t.Errorf("%v on %s: %+v", c.env, c.pty, got)
		}
	}
}

func TestOnlyPublicKeys(t *testing.T) {
	h := start(t, nil)
	for name, auth := range map[string]gossh.AuthMethod{
		"password": gossh.Password("x"),
		"interactive": gossh.KeyboardInteractive(func(string, string, []string, []bool) ([]string,
			error) {
			return nil, nil
		}),
	} {
		_, err := gossh.Dial("tcp", h.addr, &gossh.ClientConfig{User: "ada", Auth: []gossh.AuthMethod{auth},
			HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: within})
		if err == nil || !strings.Contains(err.Error(), "attempted methods [none]") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server that could let anybody in does not start.
func TestRefusesToStart(t *testing.T) {
	h := start(t, nil)
	for name, spoil := range map[string]func(*Server){
		"no access":   func(s *Server) { s.Access = nil },
		"no host key": func(s *Server) { s.HostKey = nil },
		"no begin":    func(s *Server) { s.Transport = &transport.Transport{Store: s.Transport.Store, Access: s.Access} },
		"no logins":   func(s *Server) { s.Logins = nil },
	} {
		s := *h.server
		spoil(&s)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(context.Background(), l); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}

// Clients that say nothing, or drip, are gone by the deadline, and keep nobody out.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	const deadline = 20 * time.Second // in which a loaded machine logs a good client in
	h := start(t, func(s *Server) { s.Limits.Login = deadline; s.Limits.Unauthenticated = 100 })
	closed := make(chan error, 200)
	for i := range 200 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			if i%2 == 1 { // a byte now and then
				tick := time.NewTicker(deadline / 5)
				defer tick.Stop()
				go func() { io.Copy(io.Discard, c); c.Close() }()
				for range tick.C {
					if _, err := c.Write([]byte("x")); err != nil {
						closed <- nil
						return
					}
				}
			}
			_, err := io.Copy(io.Discard, c)
			closed <- err
		}()
	}
	if r := h.run(h.login("jun"), "whoami"); r.stdout != "jun\n" {
		t.Errorf("a good login meanwhile got %+v", r)
	}
	for range 200 {
		select {
		case <-closed:
		case <-time.After(within):
			t.Fatal("connections are still open")
		}
	}
}

// Clients that begin a handshake and stop do not keep others of their address out.
func TestStalledHandshakes(t *testing.T) {
	h := start(t, nil)
	for range 15 { // PerSource is 10
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, "SSH-2.0-stalled\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	if r := h.run(h.login("jun"), "whoami"); r.stdout != "jun\n" {
		t.Errorf("a good login got %+v", r)
	}
}

// What is no SSH ends its own connection and nothing else.
func TestGarbage(t *testing.T) {
	h := start(t, nil)
	for _, first := range []string{"GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n", "SSH-1.5-x\r\n",
		"SSH-2.0-x\r\n\xff\xff\xff\xff", "\n\n\n"} {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(within))
		io.WriteString(c, first)
		garbage := make([]byte, 64<<10)
		rand.Read(garbage)
		c.Write(garbage)
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q is still connected", first)
		}
		c.Close()
	}
	if r := h.run(h.login("jun"), "whoami"); r.stdout != "jun\n" {
		t.Errorf("after it: %+v", r)
	}
}

func TestSessionLimit(t *testing.T) {
	h := start(t, nil)
	client := h.login("jun")
	for range 10 {
		if _, err := client.NewSession(); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		_, err := client.NewSession()
		var refused *gossh.OpenChannelError
		if !errors.As(err, &refused) || !strings.Contains(refused.Message, "at most 10 sessions") {
			t.Fatalf("11th session: %v", err)
		}
	}
	if r := h.run(h.login("jun"), "whoami"); r.status != 0 {
		t.Errorf("another connection: %+v", r)
	}
}

func TestConnectionsOfOneUser(t *testing.T) {
	h := start(t, func(s *Server) { s.Limits.PerUser = 2 })
	first := h.login("jun")
	h.login("jun")
	if c, err := h.dial(h.keys["jun"]); err == nil {
		c.Close()
		t.Fatal("a third connection was let in")
	}
	h.login("ada")
	first.Close()
	until(t, "the place is free again", func() bool {
		c, err := h.dial(h.keys["jun"])
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestEnvironment(t *testing.T) {
	h := start(t, nil)
	s, err := h.login("jun").NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, value string
		ok          bool
	}{
		{"GIT_PROTOCOL", "version=2", true},
		{"GIT_PROTOCOL", "version=1:side-band=x", true},
		{"LANG", "en_GB.UTF-8", true},
		{"NO_COLOR", "1", true},
		{"GIT_PROTOCOL", "version=2:$(id)", false},
		{"GIT_PROTOCOL", "version=3", false},
		{"GIT_PROTOCOL", "version=2\nLD_PRELOAD=x", false},
		{"LANG", strings.Repeat("x", 100), false},
		{"LANG", "$(id)", false},
		{"LD_PRELOAD", "/tmp/x.so", false},
		{"GIT_SSH_COMMAND", "id", false},
		{"GIT_CONFIG_COUNT", "1", false},
		{"--split-string", "id", false},
		{"PATH", "/tmp", false},
	} {
		if err := s.Setenv(row.name, row.value); (err == nil) != row.ok {
			t.Errorf("%s=%q: %v", row.name, row.value, err)
		}
	}
	// A flood ends the connection.
	n := 0
	for ; n < 1000; n++ {
		if _, err := s.SendRequest("env", true,
			gossh.Marshal(struct{ K, V string }{"GIT_PROTOCOL", strings.Repeat("x", 30_000)})); err != nil {
			break
		}
	}
	if n > maxEnv {
		t.Errorf("%d env requests were taken", n)
	}
}

// Who says in which characters they read is believed, by the most specific of what
// they say; who says nothing reads Unicode.
func TestCharset(t *testing.T) {
	for env, ascii := range map[string]bool{
		"":                            false,
		"LANG=":                       false,
		"LANG=en_GB.UTF-8":            false,
		"LANG=C.utf8":                 false,
		"LANG=de_DE.UTF-8@euro":       false,
		"LANG=C":                      true,
		"LC_ALL=POSIX":                true,
		"LC_CTYPE=de_DE.ISO-8859-1":   true,
		"LANG=de_DE@euro":             true,
		"LANG=en_GB.UTF-8 LC_CTYPE=C": true,
		"LANG=C LC_CTYPE=en_GB.UTF-8": false,
		"LC_CTYPE=C LC_ALL=C.UTF-8":   false,
		"LC_ALL= LC_CTYPE=C":          true,
	} {
		s := &session{env: map[string]string{}}
		for _, kv := range strings.Fields(env) {
			name, value, _ := strings.Cut(kv, "=")
			s.env[name] = value
		}
		if got := s.ascii(); got != ascii {
			t.Errorf("%q: ASCII alone: %t", env, got)
		}
	}
}

func TestPanicIsContained(t *testing.T) {
	backend := &backend{}
	h := start(t, func(s *Server) { s.Backend = backend })
	client := h.login("jun")
	backend.panics = true
	if r := h.run(client, "repo list"); r.status != 75 ||
		!strings.Contains(r.stderr, "error: the server made a mistake") || strings.Contains(r.stderr, "planted") {
		t.Errorf("a panic shows as %+v", r)
	}
	backend.panics = false
	if r := h.run(client, "whoami"); r.stdout != "jun\n" {
		t.Errorf("after it: %+v", r)
	}
	if !strings.Contains(h.log.String(), "contained a panic") {
		t.Error("it is not in the log")
	}
}

func TestNothingIsForwarded(t *testing.T) {
	h := start(t, nil)
	client := h.login("jun")
	if c, err := client.Dial("tcp", h.addr); err == nil {
		c.Close()
		t.Error("forwards ports")
	}
	if l, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("listens for its clients")
	}
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"auth-agent-req@openssh.com", "x11-req", "break", "subsystem"} {
		if ok, err := s.SendRequest(what, true, nil); ok || err != nil {
			t.Errorf("%s: %v %v", what, ok, err)
		}
	}
	if err := s.RequestSubsystem("sftp"); err == nil {
		t.Error("speaks sftp")
	}
}

// Who loses their key loses it at once, on open connections too.
func TestRevokedKey(t *testing.T) {
	h := start(t, nil)
	client := h.login("jun")
	h.configure([]byte(strings.ReplaceAll(string(h.text), public(h.keys["jun"]), public(h.keys["eve"]))))
	if r := h.run(client, "whoami"); r.status != 1 || !strings.Contains(r.stderr, "your key is not known here any more") {
		t.Errorf("after revocation: %+v", r)
	}
	if r := h.run(client, "git-upload-pack 'hello'"); r.status != 1 || r.stdout != "" {
		t.Errorf("after revocation: %+v", r)
	}
	if _, err := h.dial(h.keys["jun"]); err == nil {
		t.Error("logs in with a revoked key")
	}
}

// TestOneKeyIsTaken: what was begun with a key ends when that key is taken, and not
// when others' are, though its user has another and may read all the same.
func TestOneKeyIsTaken(t *testing.T) {
	backend := &backend{}
	backend.follow, backend.began = make(chan struct{}), make(chan struct{})
	var moved signal.Topic
	h := start(t, func(s *Server) {
		s.Backend = backend
		s.AccessMoved = func() (<-chan struct{}, func()) { return moved.Watch("access") }
	})
	second := strings.ReplaceAll(string(h.text), fmt.Sprintf("jun: {keys: [%q]}", public(h.keys["jun"])),
		fmt.Sprintf("jun: {keys: [%q, %q]}", public(h.keys["jun"]), public(h.keys["eve"])))
	h.configure([]byte(second))
	client := h.login("jun")
	got := make(chan result, 1)
	go func() { got <- h.run(client, "change log -f 411") }()
	<-backend.began

	h.configure([]byte(strings.ReplaceAll(second, "release: [ada]", "release: [sam]")))
	moved.Notify("access")
	if r := h.run(client, "whoami"); r.status != 0 {
		t.Errorf("others' rights have changed: %+v", r)
	}
	select {
	case r := <-got:
		t.Fatalf("it ended with others' rights: %+v", r)
	default:
	}

	h.configure([]byte(strings.ReplaceAll(string(h.text), public(h.keys["jun"]), public(h.keys["eve"]))))
	moved.Notify("access")
	if r := <-got; r.status != 1 || !strings.Contains(r.stderr, "your key is not known here any more") {
		t.Errorf("it ends with %+v", r)
	}
	if _, err := h.dial(h.keys["eve"]); err != nil {
		t.Errorf("with the key that was left: %v", err)
	}
}

func TestStopEndsFollowers(t *testing.T) {
	backend := &backend{}
	backend.follow, backend.began = make(chan struct{}), make(chan struct{})
	h := start(t, func(s *Server) { s.Backend = backend })
	client := h.login("jun")
	idle := h.login("ada")
	got := make(chan result)
	go func() { got <- h.run(client, "change log -f 411") }()
	<-backend.began
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.status != 75 || !strings.Contains(r.stderr, "the server is restarting") ||
		!strings.Contains(r.stdout, "no relation") {
		t.Errorf("a follower saw %+v", r)
	}
	if err := idle.Wait(); err == nil {
		t.Error("an idle connection was not closed")
	}
}

// A terminal sends Ctrl-C as a byte; without one the channel's end says it all.
func TestFollowersGo(t *testing.T) {
	for _, how := range []string{"ctrl-c", "close", "signal"} {
		t.Run(how, func(t *testing.T) {
			backend := &backend{}
			backend.follow, backend.began = make(chan struct{}), make(chan struct{})
			h := start(t, func(s *Server) { s.Backend = backend })
			s, err := h.login("jun").NewSession()
			if err != nil {
				t.Fatal(err)
			}
			in, err := s.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if how == "ctrl-c" {
				if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Start("change log -f 411"); err != nil {
				t.Fatal(err)
			}
			<-backend.began
			switch how {
			case "ctrl-c":
				in.Write([]byte{3})
			case "close":
				s.Close()
			case "signal":
				s.Signal(gossh.SIGINT)
			}
			err = s.Wait()
			var exit *gossh.ExitError
			if how != "close" && (!errors.As(err, &exit) || exit.ExitStatus() != 130) {
				t.Errorf("ended with %v", err)
			}
			if err := h.stop(); err != nil { // does not wait for the follower
				t.Error(err)
			}
		})
	}
}

func TestExecLine(t *testing.T) {
	type want struct {
		service    transport.Service
		repository string
		words      []string
	}
	for line, w := range map[string]want{
		"git-upload-pack '/hello'":            {"git-upload-pack", "hello", nil},
		"git-upload-pack '/hello.git'":        {"git-upload-pack", "hello", nil},
		"git-upload-pack '/hello/'":           {"git-upload-pack", "hello", nil},
		"git-receive-pack '/hello.git/'":      {"git-receive-pack", "hello", nil},
		"git-receive-pack 'hello'":            {"git-receive-pack", "hello", nil},
		"git-receive-pack hello.git":          {"git-receive-pack", "hello", nil},
		"git-upload-archive '/a.b_c-9'":       {"git-upload-archive", "a.b_c-9", nil},
		"":                                    {"", "", nil},
		"  change   list ":                    {"", "", []string{"change", "list"}},
		`approve "production" --reason 'a b'`: {"", "", []string{"approve", "production", "--reason", "a b"}},
		`a\ b "c\"d" ''`:                      {"", "", []string{"a b", `c"d`, ""}},
		"--help":                              {"", "", []string{"--help"}},
		"scp -t .":                            {"", "", []string{"scp", "-t", "."}}, // no such command
		"@/etc/passwd":                        {"", "", []string{"@/etc/passwd"}},   // nor this; nothing is expanded
		"echo $HOME `id` *":                   {"", "", []string{"echo", "$HOME", "`id`", "*"}},
	} {
		got, err := parseExec(line)
		if err != nil || got.service != w.service || got.repository != w.repository ||
			strings.Join(got.words, "|") != strings.Join(w.words, "|") {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{
		"git-upload-pack", "git-upload-pack ", "git-upload-pack 'a b'", "git-upload-pack 'a", "git-upload-pack a'",
		"git-upload-pack 'a' 'b'", "git-upload-pack  'a'",
		"git-upload-pack --help", "git-upload-pack --upload-pack=x r", "git-upload-pack '-x'", "git-upload-packs 'a'",
		"git-upload-pack\t'a'",
		"git-upload-pack '../hello'", "git-upload-pack '/../hello'", "git-upload-pack '//hello'", "git-upload-pack 'a/b'",
		"git-upload-pack '/hello.git.git'", "git-upload-pack '/hello//'",
		"git-upload-pack '/~/hello'", "git-upload-pack '$(id)'", "git-upload-pack 'a;id'", "git-upload-pack 'a\"b'",
		"git-upload-pack 'h\u0435llo'", "git-upload-pack ''", "git-upload-pack '/'",
		"git-upload-pack '" + strings.Repeat("a", 101) + "'", "git-upload-pack '..'", "git-upload-pack '.git'",
		"git upload-pack 'a'", "git", "git-shell", "git-lfs-authenticate a download",
		"whoami\x00", "who\nami", "\x1b[2J", strings.Repeat("x", 5000), strings.Repeat("x", 256<<10), "a\xffb", "say 'it",
		`say "it`, `say \`,
	} {
		if got, err := parseExec(line); err == nil {
			t.Errorf("%.60q was taken as %+v", line, got)
		}
	}
	for _, line := range []string{"git-lfs-authenticate hello.git download", "git-lfs-transfer hello upload"} {
		if _, err := parseExec(line); err == nil ||
			!strings.Contains(err.Error(), "does not keep files of Git LFS: keep them in Git (git lfs migrate export)") {
			t.Errorf("%s: %v", line, err)
		}
	}
	h := start(t, nil)
	client := h.login("jun")
	for _, line := range []string{"git-lfs-authenticate hello.git download", "git-upload-pack '../hello'",
		strings.Repeat("x", 100<<10), "scp -t .", "git upload-pack hello"} {
		if r := h.run(client, line); r.status != 2 || !strings.HasPrefix(r.stderr, "error: ") || r.stdout != "" {
			t.Errorf("%.60q: %+v", line, r)
		}
	}
}

func FuzzExecLine(f *testing.F) {
	for _, line := range []string{"git-upload-pack '/hello.git'", `approve x --reason "a b"`,
		"git-receive-pack 'a'b'", `\`, "'"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, err := parseExec(line)
		if err != nil {
			return
		}
		if got.service != "" && (strings.ContainsAny(got.repository, "/'\" \\$`") || got.repository == "" ||
			got.words != nil || filepath.Base(got.repository) != got.repository) {
			t.Fatalf("%q: %+v", line, got)
		}
		for _, w := range got.words {
			if strings.ContainsAny(w, "\x00\n\x1b") {
				t.Fatalf("%q: %q", line, w)
			}
		}
	})
}

func TestLogins(t *testing.T) {
	now := testNow
	l := &Logins{now: func() time.Time { return now }}
	code := l.New("ada")
	if user, ok := l.Redeem(strings.ToLower(strings.ReplaceAll(code, "-", " "))); !ok || user != "ada" {
		t.Errorf("%s: %q %v", code, user, ok)
	}
	if _, ok := l.Redeem(code); ok {
		t.Error("a code is good twice")
	}
	code = l.New("ada")
	now = now.Add(codeLife)
	if _, ok := l.Redeem(code); ok {
		t.Error("a code is good after two minutes")
	}
	first := l.New("jun")
	codes := map[string]bool{}
	for range codesEach {
		codes[l.New("ada")] = true
		now = now.Add(time.Second)
	}
	if len(codes) != codesEach {
		t.Error("codes repeat")
	}
	l.New("ada")
	valid := 0
	for c := range codes {
		if _, ok := l.Redeem(c); ok {
			valid++
		}
	}
	if valid != codesEach-1 {
		t.Errorf("%d of the earlier codes of one user are still good", valid)
	}
	if _, ok := l.Redeem(first); !ok {
		t.Error("another user's code gave way")
	}
	for i := range codesAll + 10 {
		l.New(fmt.Sprint("u", i))
	}
	if len(l.codes) > codesAll {
		t.Errorf("%d codes are kept", len(l.codes))
	}
	for _, bad := range []string{"", "-", strings.Repeat("A", 1<<20), "AAAAA-AAAAA"} {
		if _, ok := l.Redeem(bad); ok {
			t.Errorf("%.20q is good", bad)
		}
	}
}
