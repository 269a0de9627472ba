package e2e

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// twofaced offers somebody else's public key, and once the server has said that
// this key would do, proves its own: CVE-2024-45337.
type twofaced struct {
	ssh.Signer
	offers ssh.PublicKey
	asked  int
}

func (f *twofaced) PublicKey() ssh.PublicKey { return &face{f.Signer.PublicKey(), f} }

type face struct {
	ssh.PublicKey
	of *twofaced
}

func (f *face) Marshal() []byte {
	f.of.asked++
	if f.of.asked <= 2 { // the offer, and the check of the server's answer to it
		return f.of.offers.Marshal()
	}
	return f.PublicKey.Marshal()
}

// TestHostileClient: whoever has an administrator's public key, which is no
// secret, is still nobody but who they can prove to be (the stock client's way
// is told in keys-foreign.txtar).
func TestHostileClient(t *testing.T) {
	t.Parallel()
	h := served(t, raced)
	for _, err := range []error{h.addUser("jun"), h.addKey("mallory")} { // mallory has a key, and no account
		if err != nil {
			t.Fatal(err)
		}
	}
	signer := func(user string) ssh.Signer {
		t.Helper()
		text, err := os.ReadFile(h.key(user))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.ParsePrivateKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// run runs a command with these keys, offered in this order, under the name of ada.
	run := func(command string, keys ...ssh.Signer) (string, error) {
		client, err := ssh.Dial("tcp", h.SSH, &ssh.ClientConfig{
			User: "ada", Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			Timeout: waitTimeout,
		})
		if err != nil {
			return "", err
		}
		defer client.Close()
		s, err := client.NewSession()
		if err != nil {
			return "", err
		}
		out, err := s.CombinedOutput(command)
		return string(out), err
	}
	ada := signer("ada").PublicKey()
	for name, keys := range map[string][]ssh.Signer{
		"offers ada, proves jun":               {&twofaced{Signer: signer("jun"), offers: ada}},
		"mallory, then offers ada, proves jun": {signer("mallory"), &twofaced{Signer: signer("jun"), offers: ada}},
		"jun, who says to be ada":              {signer("jun")},
	} {
		if out, err := run("whoami", keys...); err != nil || !strings.HasPrefix(out, "jun") {
			t.Errorf("%s: taken for %q (%v)", name, out, err)
		}
		if out, err := run("repo create stolen", keys...); err == nil || !strings.Contains(out, "administrator") {
			t.Errorf("%s: repo create: %q (%v)", name, out, err)
		}
	}
	for name, keys := range map[string][]ssh.Signer{
		"offers ada, proves mallory": {&twofaced{Signer: signer("mallory"), offers: ada}},
		"mallory":                    {signer("mallory")},
	} {
		if out, err := run("whoami", keys...); err == nil {
			t.Errorf("%s: let in as %q", name, out)
		}
	}
}
