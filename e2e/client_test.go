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
func (w *world) ask(user string, args ...string) (string, error) {
	out, err := w.askOnce(user, args...)
	var exit *ssh.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.hangUp() // the server has gone, or was never there
		err = fmt.Errorf("ssh %v: %w: %s", args, err, out)
	}
	return out, err
}

func (w *world) askOnce(user string, args ...string) (string, error) {
	if w.line != nil && w.lineOf != user {
		w.hangUp()
	}
	if w.line == nil {
		text, err := os.ReadFile(w.key(user))
		if err != nil {
			return "", err
		}
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return "", err
		}
		w.line, err = ssh.Dial("tcp", w.SSH, &ssh.ClientConfig{
			User:            user,
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // the stock client checks it
			Timeout:         patience,
		})
		if err != nil {
			return "", err
		}
		w.lineOf = user
	}
	late := time.AfterFunc(patience, func() { w.line.Close() })
	defer late.Stop()
	session, err := w.line.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.CombinedOutput(strings.Join(args, " "))
	return string(out), err
}

func (w *world) hangUp() {
	if w.line != nil {
		w.line.Close()
		w.line = nil
	}
}
