package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Key encrypts what only its holder is to read again.
type Key struct{ identity *age.X25519Identity }

// OpenKey reads the key at path, or makes one where there is none.
func OpenKey(path string) (*Key, error) {
	key, err := readKey(path)
	if errors.Is(err, os.ErrNotExist) {
		return makeKey(path)
	}
	return key, err
}

// CheckKey says why a key that is there cannot be read. The error matches
// os.ErrNotExist when there is none.
func CheckKey(path string) error {
	_, err := readKey(path)
	return err
}

// readKey reads a key. The error matches os.ErrNotExist when there is none.
func readKey(path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	identity, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("the key in %s cannot be read: restore it from a backup", path)
	}
	return &Key{identity}, nil
}

func makeKey(path string) (*Key, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	if err := repo.WriteFile(path, []byte(identity.String()+"\n"), 0o600); err != nil {
		return nil, err
	}
	return &Key{identity}, nil
}

// Seal encrypts data.
func (k *Key) Seal(data []byte) ([]byte, error) {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, k.identity.Recipient())
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	return sealed.Bytes(), err
}

// Open decrypts what Seal has encrypted, of at most limit bytes.
func (k *Key) Open(sealed []byte, limit int64) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), k.identity)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, limit))
}
