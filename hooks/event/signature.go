package event

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
)

// minKey is the least that a signing key may have, in bytes (Standard Webhooks
// asks for 24 to 64; shorter ones are guessed).
const minKey = 24

var errKey = errors.New("the secret does not fit: set whsec_ and the base64 of at least 24 random bytes, " +
	"as openssl rand -base64 32 prints them")

// keyOf is the signing key in a secret: behind "whsec_" in base64, or the
// secret's own bytes.
func keyOf(v secret.Value) ([]byte, error) {
	text := strings.TrimSpace(string(v.Reveal()))
	key := []byte(text)
	if digits, ok := strings.CutPrefix(text, "whsec_"); ok {
		var err error
		if key, err = base64.StdEncoding.DecodeString(digits); err != nil {
			return nil, errKey
		}
	}
	if len(key) < minKey {
		return nil, errKey
	}
	return key, nil
}

// sign sets the headers of Standard Webhooks.
func sign(h http.Header, key []byte, id string, at time.Time, body []byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.%s", id, stamp, body)

	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
}
