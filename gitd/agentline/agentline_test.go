package agentline

import (
	"io"
	"testing"

	"golang.org/x/crypto/ssh"
)

// silent is a channel whose other end is not heard any more.
type silent struct {
	ssh.Channel
	end chan struct{}
}

func (s silent) Read([]byte) (int, error) {
	<-s.end
	return 0, io.EOF
}
func (s silent) Close() error { return nil }

// Who reads from a machine whose link is cut is let go by Close, although nothing answers.
func TestCloseLetsReadersGo(t *testing.T) {
	s := silent{end: make(chan struct{})}
	defer close(s.end)
	c := NewConn(s, nil, nil)
	read := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("something was read")
	}
}
