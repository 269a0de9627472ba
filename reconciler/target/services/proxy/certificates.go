package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Certificates are the pairs <name>.crt and <name>.key of a directory. They are read
// again when one of them has changed, so that a renewed one is served without a
// restart. Its methods may be called by several goroutines.
type Certificates struct {
	Dir   string
	Every time.Duration // how often the files are looked at; 0: at each handshake

	mu     sync.Mutex
	looked time.Time
	state  string // sizes and times of the files that were read
	pairs  []tls.Certificate
}

// Config serves HTTP/2 and HTTP/1 with them.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: c.choose,
	}
}

// Check says what is wrong with the files, if anything.
func (c *Certificates) Check() error {
	_, err := c.load()
	return err
}

// choose is the certificate for the name that a visitor asks for, or else the first.
func (c *Certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs, err := c.load()
	if len(pairs) == 0 {
		return nil, err
	}
	for i := range pairs {
		if hello.SupportsCertificate(&pairs[i]) == nil {
			return &pairs[i], nil
		}
	}
	return &pairs[0], nil
}

// load reads the files if they have changed. What was read before goes on being served
// when they are damaged.
func (c *Certificates) load() ([]tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.pairs != nil && now.Sub(c.looked) < c.Every {
		return c.pairs, nil
	}
	c.looked = now
	names, err := filepath.Glob(filepath.Join(c.Dir, "*.crt"))
	if err != nil {
		return c.pairs, err
	}
	var state strings.Builder
	for _, name := range names {
		for _, file := range []string{name, keyOf(name)} {
			if info, err := os.Stat(file); err == nil {
				fmt.Fprintln(&state, file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	if c.pairs != nil && state.String() == c.state {
		return c.pairs, nil
	}
	var pairs []tls.Certificate
	for _, name := range names {
		pair, err := tls.LoadX509KeyPair(name, keyOf(name))
		if err != nil {
			return c.pairs, fmt.Errorf("certificate %s: %w", name, err)
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) == 0 {
		return c.pairs, errors.New("there is no certificate; put <name>.crt and <name>.key into " + c.Dir)
	}
	c.pairs, c.state = pairs, state.String()
	return pairs, nil
}

func keyOf(certificate string) string { return strings.TrimSuffix(certificate, ".crt") + ".key" }
