package repo

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// SignRaw returns the 64 bytes of a bare ed25519 signature of message, for
// formats that are not SSH's own, such as DSSE. The message must carry its
// format's own prefix ("DSSEv1 …"), which keeps it from being read as anything
// else that this key signs.
func (s *Signer) SignRaw(message []byte) ([]byte, error) {
	if s.key.PublicKey().Type() != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf(
			"sign: the server's key is %s, and bare signatures need ed25519; replace it with: ssh-keygen -t ed25519", s.key.PublicKey().Type())
	}
	sig, err := s.key.Sign(rand.Reader, message)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig.Blob, nil
}

// VerifyRaw checks a bare ed25519 signature of message.
func (s Signers) VerifyRaw(message, signature []byte) error {
	for _, key := range s {
		k, ok := bare(key).(ssh.CryptoPublicKey)
		if !ok {
			continue
		}
		if public, ok := k.CryptoPublicKey().(ed25519.PublicKey); ok && ed25519.Verify(public, message, signature) {
			return nil
		}
	}
	return errors.New("is not signed by an allowed signer")
}
