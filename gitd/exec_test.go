package gitd

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"
)

// TestExec: a command gets what a client sends as it is, and the client its output and
// its exit status.
func TestExec(t *testing.T) {
	h := start(t, func(s *Server) { s.Backend = &backend{} })
	r := h.run(h.login("jun"), "exec --instance web-1 checkout staging web -- ls --json -h", func(s *gossh.Session) {
		s.Stdin = strings.NewReader("\x03\x04\r\n")
	})
	if r.status != 5 || r.stdout != "checkout staging web [\"ls\" \"--json\" \"-h\"]\n" || r.stderr != "read 4 bytes" {
		t.Errorf("%+v", r)
	}
}

// TestExecOnTerminal: what is typed ahead is not lost, Ctrl-C is the command's, and nothing
// that either end says is changed on its way.
func TestExecOnTerminal(t *testing.T) {
	for _, ends := range []string{"quits", "hangs up"} {
		t.Run(ends, func(t *testing.T) {
			h := start(t, func(s *Server) { s.Backend = &backend{} })
			s, err := h.login("jun").NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.RequestPty("vt100", 33, 91, gossh.TerminalModes{}); err != nil {
				t.Fatal(err)
			}
			keys, err := s.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			printed, err := s.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start("exec checkout staging web"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(keys, "a"); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(printed)
			expect := func(want string) {
				t.Helper()
				line, err := lines.ReadString('\n')
				if err != nil || line != want+"\n" {
					t.Fatalf("%q, %v, want %q", line, err, want)
				}
			}
			expect("checkout staging web []")
			expect("vt100 91 by 33")
			if err := s.WindowChange(50, 132); err != nil {
				t.Fatal(err)
			}
			expect("132 by 50")
			expect("key 97")
			if _, err := keys.Write([]byte{3, 4, 255}); err != nil {
				t.Fatal(err)
			}
			expect("key 3")
			expect("key 4")
			expect("key 255")
			if ends == "hangs up" {
				s.Close()
				if err := h.stop(); err != nil { // waits for no key
					t.Error(err)
				}
				return
			}
			if _, err := io.WriteString(keys, "q"); err != nil {
				t.Fatal(err)
			}
			var exit *gossh.ExitError
			if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
