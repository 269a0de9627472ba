package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
)

// ErrSignature is why a delivery is not believed. It says nothing about what
// was presented: that may be a secret for somewhere else.
var ErrSignature = errors.New("the signature is missing or does not match a secret of this connection")

// timestampTolerance is how far a signed timestamp may be off (Standard Webhooks).
const timestampTolerance = 5 * time.Minute

// Verify checks a delivery of a forge of kind k over the raw bytes of its body.
// One of the secrets must match; an empty one never does. It returns the index
// of the secret that did, for showing when each was last used, or ErrSignature.
//
// GitHub signs with X-Hub-Signature-256 (X-Hub-Signature, SHA-1, is not
// accepted), Gitea with X-Gitea-Signature and Forgejo with X-Forgejo-Signature.
// GitLab's signed form (webhook-signature, Standard Webhooks) is preferred to
// its plain X-Gitlab-Token: a delivery that carries both must satisfy the first.
func Verify(k Kind, secrets []secret.Value, h http.Header, body []byte, now time.Time) (int, error) {
	var matches func(key []byte) bool

	switch k {
	case GitHub:
		matches = hexSignature(h, "X-Hub-Signature-256", "sha256=", body)
	case Gitea:
		if len(h.Values("X-Forgejo-Signature")) > 0 {
			matches = hexSignature(h, "X-Forgejo-Signature", "", body)
		} else {
			matches = hexSignature(h, "X-Gitea-Signature", "", body)
		}
	case GitLab:
		if len(h.Values("Webhook-Signature")) > 0 {
			matches = standardSignature(h, body, now)
		} else {
			matches = plainToken(h)
		}
	}
	if matches == nil {
		return 0, ErrSignature
	}

	found := -1
	for i, s := range secrets { // all of them: which one matches shows in no time
		if v := s.Reveal(); len(v) > 0 && matches(v) && found < 0 {
			found = i
		}
	}
	if found < 0 {
		return 0, ErrSignature
	}
	return found, nil
}

// hexSignature is HMAC-SHA256 of body in hexadecimal behind prefix. A header
// given twice is not one signature.
func hexSignature(h http.Header, name, prefix string, body []byte) func([]byte) bool {
	values := h.Values(name)
	if len(values) != 1 {
		return nil
	}
	digits, ok := strings.CutPrefix(values[0], prefix)
	if !ok {
		return nil
	}
	given, err := hex.DecodeString(digits)
	if err != nil || len(given) != sha256.Size {
		return nil
	}
	return func(key []byte) bool { return hmac.Equal(given, sum(key, body)) }
}

// plainToken compares digests, so that the time taken tells no length.
func plainToken(h http.Header) func([]byte) bool {
	values := h.Values("X-Gitlab-Token")
	if len(values) != 1 || values[0] == "" {
		return nil
	}
	given := sha256.Sum256([]byte(values[0]))
	return func(token []byte) bool {
		want := sha256.Sum256(token)
		return subtle.ConstantTimeCompare(given[:], want[:]) == 1
	}
}

// standardSignature is the Standard Webhooks scheme: HMAC-SHA256 over
// "id.timestamp.body", several space-separated "v1,<base64>" allowed, key
// "whsec_<base64>".
func standardSignature(h http.Header, body []byte, now time.Time) func([]byte) bool {
	ids, stamps, signatures := h.Values("Webhook-Id"), h.Values("Webhook-Timestamp"), h.Values("Webhook-Signature")
	if len(ids) != 1 || len(stamps) != 1 || len(signatures) != 1 || ids[0] == "" {
		return nil
	}
	seconds, err := strconv.ParseInt(stamps[0], 10, 64)
	if err != nil {
		return nil
	}
	if off := now.Sub(time.Unix(seconds, 0)); off > timestampTolerance || off < -timestampTolerance {
		return nil
	}

	var given [][]byte
	for _, s := range strings.Fields(signatures[0]) {
		encoded, ok := strings.CutPrefix(s, "v1,")
		if !ok {
			continue
		}
		if mac, err := base64.StdEncoding.DecodeString(encoded); err == nil && len(mac) == sha256.Size {
			given = append(given, mac)
		}
	}
	if len(given) == 0 || len(given) > 16 {
		return nil
	}

	message := append([]byte(ids[0]+"."+stamps[0]+"."), body...)
	return func(encoded []byte) bool {
		key, ok := standardKey(encoded)
		if !ok {
			return false
		}
		want, match := sum(key, message), false
		for _, mac := range given {
			match = hmac.Equal(mac, want) || match
		}
		return match
	}
}

// standardKey is the key of a secret in the form "whsec_<base64>".
func standardKey(encoded []byte) ([]byte, bool) {
	digits, ok := strings.CutPrefix(string(encoded), "whsec_")
	if !ok {
		return nil, false
	}
	key, err := base64.StdEncoding.DecodeString(digits)
	return key, err == nil && len(key) >= 16
}

func sum(key, message []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(message)
	return m.Sum(nil)
}
