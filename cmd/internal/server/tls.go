package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// scheme is of the addresses that people reach HTTP at.
func (o Options) scheme() string {
	if o.TLSCert != "" || o.ACME != "" {
		return "https"
	}
	return "http"
}

// certificate is a certificate in files, read again when they have changed: whoever
// renews it need not restart the server. It is safe for concurrent use.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu       sync.Mutex // guards the rest
	pair     *tls.Certificate
	modified time.Time // of both files, the later
}

func (c *certificate) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loadLocked()
}

func (c *certificate) loadLocked() error {
	var modified time.Time
	for _, file := range []string{c.cert, c.key} {
		info, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("read the certificate: %w", err)
		}
		if info.ModTime().After(modified) {
			modified = info.ModTime()
		}
	}
	if c.pair != nil && modified.Equal(c.modified) {
		return nil
	}
	c.modified = modified // one that is wrong is tried again when it has changed
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read the certificate %s: %w", c.cert, err)
	}
	c.pair = &pair
	return nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.loadLocked(); err != nil {
		c.log.Error("kept the certificate that was in use", "err", err)
	}
	return c.pair, nil
}
