package transport

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/attempts"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Tokens tells who an HTTP request is from, by the token that it carries, and that
// they may do what it asks for. Its fields are set before its first use; it is safe
// for concurrent use.
type Tokens struct {
	Access func() *access.Config
	// Open opens a repository for who may read it, as Transport.Open does.
	Open func(who access.Identity, repository string) (*repo.Repository, error)
	// Identify tells who holds a token, and what records call the token; false when
	// it is nobody's.
	Identify func(token string) (who access.Identity, key string, ok bool)
	// Obtain is the command that makes a token, for people.
	Obtain func() string
	Log    *slog.Logger

	failed attempts.Limiter
}

// Refusal is the answer to a request that is not let in.
type Refusal struct {
	Status     int
	RetryAfter time.Duration // 0 for never
	Challenge  bool          // a token is asked for
	Err        *show.Error
}

// Header sets the headers of the answer.
func (f *Refusal) Header(h http.Header) {
	if f.Challenge {
		h.Set("WWW-Authenticate", `Basic realm="headgate", charset="UTF-8"`)
	}
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
}

// RefusalOf is the answer that an error becomes.
func RefusalOf(err error) *Refusal {
	var e *show.Error
	if !errors.As(err, &e) {
		e = &show.Error{Kind: show.Again, What: "the server could not answer", Hint: "tell an administrator of this server"}
	}
	switch e.Kind {
	case show.NotFound:
		return &Refusal{Status: http.StatusNotFound, Err: e}
	case show.Forbidden:
		return &Refusal{Status: http.StatusForbidden, Err: e}
	case show.Usage:
		return &Refusal{Status: http.StatusBadRequest, Err: e}
	}
	return &Refusal{Status: http.StatusServiceUnavailable, RetryAfter: 10 * time.Second, Err: e}
}

// Authorise says who a request is from and that they have a right to a repository,
// or why not. Who gives no token is nobody, who may read what is public.
func (t *Tokens) Authorise(r *http.Request, right access.Right,
	repository string) (who access.Identity, key string, refusal *Refusal) {
	config := t.Access()
	secret, given := credential(r)
	if !given {
		who = access.Anonymous()
		if config.May(who, right, repository) {
			return who, "", nil
		}
		return who, "", t.challenge("this takes a token")
	}

	who, key, refusal = t.identify(r, secret)
	if refusal != nil {
		return who, "", refusal
	}
	if _, err := t.Open(who, repository); err != nil {
		return who, "", RefusalOf(err)
	}
	if !config.May(who, right, repository) {
		e := &show.Error{
			Kind: show.Forbidden,
			What: fmt.Sprintf("%s may not push to %s", who.User, repository),
			Hint: "ask for the right to write it",
		}
		if who.Scope.Highest == access.Read {
			e.What = fmt.Sprintf("this token of %s reads %s only", who.User, repository)
			e.Hint = "make one with --write: " + t.Obtain() + " --write"
		}
		return who, "", RefusalOf(e)
	}
	return who, key, nil
}

// Authenticate says who a request is from, or asks for a token.
func (t *Tokens) Authenticate(r *http.Request) (access.Identity, *Refusal) {
	secret, given := credential(r)
	if !given {
		return access.Anonymous(), t.challenge("this takes a token")
	}
	who, _, refusal := t.identify(r, secret)
	return who, refusal
}

func (t *Tokens) identify(r *http.Request, secret string) (who access.Identity, key string, refusal *Refusal) {
	who, key, ok := t.Identify(secret)
	if ok {
		return who, key, nil
	}
	t.Log.Info("refused a token", "remote", r.RemoteAddr, "path", r.URL.Path)

	// A good one is let in whatever others behind the same address try: nobody
	// guesses 178 bits.
	if wait := t.failed.Take(r.RemoteAddr, time.Now()); wait > 0 {
		return who, "", &Refusal{
			Status:     http.StatusTooManyRequests,
			RetryAfter: wait + time.Second,
			Err: &show.Error{
				What: "too many wrong tokens came from your address",
				Hint: "wait a minute, then use one of yours",
			},
		}
	}
	return who, "", t.challenge("this token is not valid: it is wrong, has expired, or was revoked")
}

// challenge asks for a token.
func (t *Tokens) challenge(what string) *Refusal {
	return &Refusal{
		Status:    http.StatusUnauthorized,
		Challenge: true,
		Err: &show.Error{
			What: what,
			Hint: t.Obtain() + " makes one; it is the password, under any user name",
		},
	}
}

// credential is the secret that a request carries: the password of Basic, whoever
// the user, or what Bearer has.
func credential(r *http.Request) (secret string, given bool) {
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return "", false
	}
	scheme, value, _ := strings.Cut(header[0], " ")
	value = strings.TrimSpace(value)
	switch {
	case len(header) > 1 || len(value) > 4096:
	case strings.EqualFold(scheme, "Bearer"):
		return value, true
	case strings.EqualFold(scheme, "Basic"):
		if pair, err := base64.StdEncoding.DecodeString(value); err == nil {
			_, password, _ := strings.Cut(string(pair), ":")
			return password, true
		}
	}
	return "", true // which is nobody's
}
