package gitd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/agentline"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// fingerprint is the Permissions extension that holds the key of an offer.
const fingerprint = "headgate-fingerprint"

type contextKey struct{ name string }

// connectionKey leads from the library's context to our connection. The context
// holds nothing that depends on a key: a client may offer one and sign with
// another (CVE-2024-45337).
var connectionKey = &contextKey{"connection"}

// configure sets the library up. It decides about keys by one method only, and
// works around the library's other defects.
func (d *daemon) configure() *ssh.Server {
	return &ssh.Server{
		Version:     "Headgate",
		HostSigners: []ssh.Signer{d.HostKey},
		PublicKeyHandler: func(ctx ssh.Context, key ssh.PublicKey) bool {
			// The library shares one Permissions object among all offers of a
			// connection; each offer gets its own instead, which x/crypto keeps
			// with the key it was made for.
			offered := gossh.FingerprintSHA256(key)
			ctx.Permissions().Permissions = &gossh.Permissions{Extensions: map[string]string{fingerprint: offered}}
			of, _ := d.roleOf(offered)
			known := of != nobody
			if c, ok := ctx.Value(connectionKey).(*connection); ok && !known {
				d.unknownKey(c, offered)
			}
			return known
		},
		ServerConfigCallback: func(ctx ssh.Context) *gossh.ServerConfig {
			c, _ := ctx.Value(connectionKey).(*connection)
			return &gossh.ServerConfig{
				Config: gossh.Config{
					// x/crypto would take group 14 with SHA-1 as well.
					KeyExchanges: []string{
						gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519,
						gossh.KeyExchangeECDHP256, gossh.KeyExchangeECDHP384, gossh.KeyExchangeECDHP521,
						gossh.KeyExchangeDH14SHA256, gossh.KeyExchangeDH16SHA512,
					},
					// AES has hardware here, chacha20-poly1305 does not.
					Ciphers: []string{"aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr"},
					MACs: []string{"hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256",
						"hmac-sha2-512"},
				},
				PublicKeyAuthAlgorithms: []string{
					gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519,
					gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoSKECDSA256,
					gossh.KeyAlgoRSASHA256, gossh.KeyAlgoRSASHA512,
				},
				MaxAuthTries: 6,
				PreAuthConnCallback: func(conn gossh.ServerPreAuthConn) {
					if c != nil {
						c.banner = conn.SendAuthBanner
					}
				},
				VerifiedPublicKeyCallback: func(meta gossh.ConnMetadata, _ gossh.PublicKey, perms *gossh.Permissions,
					_ string) (*gossh.Permissions, error) {
					if c == nil || perms == nil {
						return nil, errors.New("no connection")
					}
					key := perms.Extensions[fingerprint]
					of, name := d.roleOf(key)
					if of == nobody {
						return nil, errors.New("unknown key")
					}
					if err := c.authenticatedAs(of, name); err != nil {
						d.log.Warn("refused a login", "user", name, "remote", meta.RemoteAddr().String(), "err", err)
						return nil, err
					}
					d.spare.add(c.refused)
					d.log.Info("logged in", "user", name, "key", key, "remote", meta.RemoteAddr().String(), "client",
						terminal.Line(string(meta.ClientVersion())))
					return perms, nil
				},
			}
		},
		ConnCallback: func(ctx ssh.Context, nc net.Conn) net.Conn {
			ctx.SetValue(connectionKey, nc)
			return nc
		},
		ConnectionFailedCallback: func(nc net.Conn, err error) {
			d.log.Debug("a connection ended before a key was proven", "remote", nc.RemoteAddr().String(), "err", err)
		},
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session":          d.channel(d.session),
			agentline.Artifact: d.channel(d.serveArtifact),
			agentline.Presence: d.agentChannel(machine, "only an agent can be present", d.serveAgent),
			agentline.Enrol:    d.agentChannel(newcomer, "only a machine with a token can enrol", d.serveEnrolment),
			"default": func(_ *ssh.Server, _ *gossh.ServerConn, nc gossh.NewChannel, _ ssh.Context) {
				nc.Reject(gossh.Prohibited, "only sessions can be opened here")
			},
		},
		RequestHandlers: map[string]ssh.RequestHandler{},
	}
}

// unknownKey tells a client that it offered a key which nobody here has. Which of
// its keys is the last cannot be known; so one that another key was good after is
// remembered, and not spoken of again.
func (d *daemon) unknownKey(c *connection, key string) {
	c.refused = append(c.refused, key)
	if c.banner == nil || d.spare.has(key) {
		return
	}
	// An error means that the client has gone.
	_ = c.banner(fmt.Sprintf(
		"%s: no user here has the key %s; to be let in, send its public half to an administrator of this server\r\n",
		d.Backend.Server(context.Background()).Name, key))
}

// maxSpare is how many keys are remembered.
const maxSpare = 1000

// keys remembers the last few it was told of. It is safe for concurrent use.
type keys struct {
	mu    sync.Mutex // guards the rest
	known map[string]bool
	order []string
}

func (k *keys) has(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known[key]
}

func (k *keys) add(added []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known = map[string]bool{}
	}
	for _, key := range added {
		if k.known[key] {
			continue
		}
		k.known[key] = true
		k.order = append(k.order, key)
	}
	for len(k.order) > maxSpare {
		delete(k.known, k.order[0])
		k.order = k.order[1:]
	}
}

// identity is who the connection's proven key belongs to, now.
func (d *daemon) identity(ctx ssh.Context, via access.Via) (who access.Identity, key string, ok bool) {
	conn, _ := ctx.Value(ssh.ContextKeyConn).(*gossh.ServerConn)
	if conn == nil || conn.Permissions == nil {
		return access.Identity{}, "", false
	}
	key = conn.Permissions.Extensions[fingerprint]
	who, ok = d.Access().ByKey(key, via)
	return who, key, ok
}
