package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHTTPS: stock git clones and pushes over HTTPS, with a token from a credential helper,
// and believes the certificate that the server was given and no other.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	h := prepared(t, plain)
	must := mustOf(t)
	cert, key := filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem")
	must(writeCertificate(cert, key))
	must(h.start(nil, "--tls-cert", cert, "--tls-key", key))
	_, err := h.ask("ada", "repo", "create", "hello")
	must(err)
	out, err := h.ask("ada", "token", "create", "laptop", "--write", "--json")
	must(err)
	var made struct{ Token string }
	must(json.Unmarshal([]byte(out), &made))
	env := append(h.env(), "TOKEN="+made.Token, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=credential.helper",
		"GIT_CONFIG_VALUE_0=!f() { echo username=any; echo password=$TOKEN; }; f")
	url := "https://" + strings.TrimPrefix(h.HTTP, "http://") + "/hello"

	_, errs, err := within(waitTimeout, h.dir, env, "git", "clone", "-q", url, "nobody")
	if err == nil || !strings.Contains(errs, "certificate") {
		t.Errorf("a certificate that nobody has vouched for: %v\n%s", err, errs)
	}
	env = append(env, "GIT_SSL_CAINFO="+cert, "URL="+url)
	_, errs, err = within(waitTimeout, h.dir, env, "sh", "-ec", `
		git init -q -b main mine; cd mine
		printf 'version: 0.2\nphases: {build: {commands: ["true"]}}\n' >buildspec.yml
		git add .; git commit -qm first
		git push "$URL" main`)
	if err != nil || !strings.Contains(errs, "landed on main") {
		t.Fatalf("push: %v\n%s", err, errs)
	}
	out, errs, err = within(waitTimeout, h.dir, env, "sh", "-ec", `git clone -q "$URL" clone; git -C clone log --format=%s`)
	if err != nil || out != "first\n" {
		t.Errorf("clone: %v\n%s%s", err, out, errs)
	}
}

// writeCertificate makes a certificate of this machine that vouches for itself.
func writeCertificate(cert, key string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	made, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &private.PublicKey, private)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
