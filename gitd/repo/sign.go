package repo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Signer signs for the server with its SSH key, in the form that git verifies
// (gpg.format=ssh).
type Signer struct {
	Person Person
	key    ssh.Signer
	former Signers // keys that it had before, each for what it signed until then
}

// namespace keeps a signature made for git from being taken for anything else.
const namespace = "git"

// FormerKeys is the file beside a signing key that says which keys it has taken the
// place of, as allowed signers.
func FormerKeys(path string) string { return path + ".former" }

// OpenSigner reads the server's signing key, making it first when there is
// none, and which keys were before it. Person is whom the server's commits name.
func OpenSigner(path string, person Person) (*Signer, error) {
	key, err := OpenKey(path)
	if err != nil {
		return nil, err
	}
	former, err := readFormer(path)
	if err != nil {
		return nil, err
	}
	return &Signer{person, key, former}, nil
}

func readFormer(path string) (Signers, error) {
	data, err := os.ReadFile(FormerKeys(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the former signing keys: %w", err)
	}
	former, err := ParseSigners(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", FormerKeys(path), err)
	}
	return former, nil
}

// CheckSigner says why OpenSigner would not read a key that is there.
func CheckSigner(path string) error {
	_, err := readFormer(path)
	return errors.Join(CheckKey(path), err)
}

// OpenKey reads an SSH private key, making an ed25519 one, readable by its owner
// only, when there is none. A key that others may read is refused.
func OpenKey(path string) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if data, err = newKey(path); err != nil {
			return nil, fmt.Errorf("make key %s: %w", path, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return parseKey(path, data)
}

// CheckKey says why OpenKey would not read a key that is there. The error matches
// os.ErrNotExist when there is none.
func CheckKey(path string) error {
	data, err := os.ReadFile(path)
	if err == nil {
		_, err = parseKey(path, data)
	}
	return err
}

func parseKey(path string, data []byte) (ssh.Signer, error) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s may be read by others (mode %o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	key, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return key, nil
}

func newKey(path string) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "headgate")
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(block)
	return data, WriteFile(path, data, 0o600)
}

// PublicKey is the key's public half.
func (s *Signer) PublicKey() ssh.PublicKey { return s.key.PublicKey() }

// Signers are the keys whose signatures this server believes: its own, and those
// that it had before, for what they signed then.
func (s *Signer) Signers() Signers { return append(Signers{s.PublicKey()}, s.former...) }

// Sign returns an armored SSH signature of message, ending in a newline.
func (s *Signer) Sign(message []byte) (string, error) {
	sig, err := sshsig.Sign(bytes.NewReader(message), s.key, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return string(sshsig.Armor(sig)), nil
}

// AllowedSigners is the file with which `git log --show-signature` verifies
// what this server signed (gpg.ssh.allowedSignersFile).
func (s *Signer) AllowedSigners() string {
	var b strings.Builder
	for _, key := range s.Signers() {
		b.WriteString(AllowedSigner(s.Person.Email, key))
	}
	return b.String()
}

// AllowedSigner is a line of an allowed-signers file.
func AllowedSigner(email string, key ssh.PublicKey) string {
	until := ""
	if k, ok := key.(formerKey); ok {
		until = ",valid-before=\"" + k.until.UTC().Format(stampForm) + "\""
		key = k.PublicKey
	}
	return email + " namespaces=\"" + namespace + "\"" + until + " " +
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + "\n"
}

// stampForm is how ssh-keygen writes a time in UTC.
const stampForm = "20060102150405Z"

// formerKey is a key that counts only for what it signed before a time.
type formerKey struct {
	ssh.PublicKey
	until time.Time
}

// Until is a key that counts only for what it signed before a time.
func Until(key ssh.PublicKey, at time.Time) ssh.PublicKey {
	return formerKey{key, at.Truncate(time.Second)}
}

// bare is the key itself.
func bare(key ssh.PublicKey) ssh.PublicKey {
	if k, ok := key.(formerKey); ok {
		return k.PublicKey
	}
	return key
}

// ErrUnsigned is returned for an object that carries no signature.
var ErrUnsigned = errors.New("carries no signature")

// Signers are the keys whose signatures count.
type Signers []ssh.PublicKey

// ParseSigners reads an allowed-signers file.
func ParseSigners(data []byte) (Signers, error) {
	var keys Signers
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		_, rest, _ := strings.Cut(line, " ") // the principals
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
		if err != nil {
			return nil, fmt.Errorf("allowed signers, line %d: %w", i+1, err)
		}
		for _, o := range options {
			text, ok := strings.CutPrefix(o, "valid-before=")
			if !ok {
				continue
			}
			at, err := time.Parse(stampForm, strings.Trim(text, "\""))
			if err != nil {
				return nil, fmt.Errorf("allowed signers, line %d: %s is no time in UTC, such as \"20260131235959Z\"", i+1, o)
			}
			key = Until(key, at)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// VerifyObject checks the signature inside the raw bytes of a commit or tag
// (Repository.Raw). Only bytes that git itself would have signed count: the
// payload is the object with its signature cut out and nothing else changed.
func (s Signers) VerifyObject(kind string, raw []byte) error {
	payload, armored, err := cutSignature(kind, raw)
	if err != nil {
		return err
	}
	sig, err := sshsig.Unarmor(armored)
	if err == nil {
		err = strict(armored)
	}
	if err != nil {
		return fmt.Errorf("unreadable signature: %w", err)
	}
	for _, key := range s {
		if sshsig.Verify(bytes.NewReader(payload), sig, bare(key), sig.HashAlgorithm, namespace) != nil {
			continue
		}
		if k, ok := key.(formerKey); ok && !madeAt(payload).Before(k.until) {
			return fmt.Errorf("signed by %s, which does not count since %s", ssh.FingerprintSHA256(k.PublicKey),
				k.until.UTC().Format(time.RFC3339))
		}
		return nil
	}
	return fmt.Errorf("signed by %s, which is not an allowed signer", ssh.FingerprintSHA256(sig.PublicKey))
}

// madeAt is when a commit or a tag says that it was made. One that does not say it
// was made too late.
func madeAt(payload []byte) time.Time {
	head, _, _ := bytes.Cut(payload, []byte("\n\n"))
	for line := range bytes.Lines(head) {
		text, ok := bytes.CutPrefix(line, []byte("committer "))
		if !ok {
			text, ok = bytes.CutPrefix(line, []byte("tagger "))
		}
		if f := bytes.Fields(text); ok && len(f) > 2 {
			if n, err := strconv.ParseInt(string(f[len(f)-2]), 10, 64); err == nil {
				return time.Unix(n, 0)
			}
		}
	}
	return time.Unix(1<<40, 0)
}

// strict refuses an armor whose base64 could be written otherwise: its last
// character may hold bits that are no part of the signature, and then two
// objects with different ids would carry the same one.
func strict(armored []byte) error {
	var body strings.Builder
	for line := range strings.Lines(string(armored)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
			body.WriteString(line)
		}
	}
	_, err := base64.StdEncoding.Strict().DecodeString(body.String())
	return err
}

const (
	armorBegin = "-----BEGIN SSH SIGNATURE-----"
	armorEnd   = "-----END SSH SIGNATURE-----"
)

func cutSignature(kind string, raw []byte) (payload, armored []byte, err error) {
	switch kind {
	case "tag":
		i := bytes.Index(raw, []byte("\n"+armorBegin))
		if i < 0 {
			return nil, nil, ErrUnsigned
		}
		armored = raw[i+1:]
		if !bytes.HasSuffix(armored, []byte(armorEnd+"\n")) {
			return nil, nil, errors.New("has text after its signature")
		}
		return raw[:i+1], armored, nil
	case "commit":
		head, body, ok := bytes.Cut(raw, []byte("\n\n"))
		if !ok {
			return nil, nil, ErrUnsigned
		}
		var rest, sig [][]byte
		in := false
		for _, line := range bytes.Split(head, []byte("\n")) {
			switch {
			case bytes.HasPrefix(line, []byte("gpgsig ")):
				if sig != nil {
					return nil, nil, errors.New("carries two signatures")
				}
				in, sig = true, [][]byte{line[len("gpgsig "):]}
			case in && bytes.HasPrefix(line, []byte(" ")):
				sig = append(sig, line[1:])
			default:
				in = false
				rest = append(rest, line)
			}
		}
		if sig == nil {
			return nil, nil, ErrUnsigned
		}
		payload = append(bytes.Join(rest, []byte("\n")), "\n\n"...)
		return append(payload, body...), bytes.Join(sig, []byte("\n")), nil
	}
	return nil, nil, fmt.Errorf("a %s carries no signature", kind)
}

func armoredKey(armored []byte) (ssh.PublicKey, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return nil, fmt.Errorf("unreadable signature: %w", err)
	}
	return sig.PublicKey, nil
}
