package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ask runs a command of the server, as user, over a connection that is kept: what
// is asked until the answer is right shall not cost a process and a handshake
// each time. The real ssh client has its say wherever a story acts.
func (h *harness) ask(user string, args ...string) (string, error) {
	out, err := h.askOnce(user, args...)
	var exit *ssh.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.hangUp() // the server has gone, or was never there
		err = fmt.Errorf("ssh %v: %w: %s", args, err, out)
	}
	return out, err
}

func (h *harness) askOnce(user string, args ...string) (string, error) {
	if h.line != nil && h.lineOf != user {
		h.hangUp()
	}
	if h.line == nil {
		text, err := os.ReadFile(h.key(user))
		if err != nil {
			return "", err
		}
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return "", err
		}
		h.line, err = ssh.Dial("tcp", h.SSH, &ssh.ClientConfig{
			User:            user,
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // the stock client checks it
			Timeout:         waitTimeout,
		})
		if err != nil {
			return "", err
		}
		h.lineOf = user
	}
	late := time.AfterFunc(waitTimeout, func() { h.line.Close() })
	defer late.Stop()
	session, err := h.line.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.CombinedOutput(strings.Join(args, " "))
	return string(out), err
}

func (h *harness) hangUp() {
	if h.line != nil {
		h.line.Close()
		h.line = nil
	}
}
