package forge

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// Times of what an App shows. GitHub takes nothing that ends over ten minutes after its
// own clock, or that begins after it.
const (
	signedFor   = 9 * time.Minute
	signedSince = time.Minute     // before now, for clocks that differ
	renewBefore = 5 * time.Minute // the end of a token, which is an hour after its beginning
	stillGood   = time.Minute     // left of a token that is used when there is no new one
)

// AppProblem is why a GitHub App gets no token.
type AppProblem string

const (
	AppKeyBad     AppProblem = "key"        // the secret is no private key
	AppRefused    AppProblem = "refused"    // the key is not the App's, or a clock is wrong
	AppAbsent     AppProblem = "absent"     // it is not installed where the repository is
	AppSuspended  AppProblem = "suspended"  // its installation is
	AppPermission AppProblem = "permission" // it has not been given what the connection does
)

// AppError is an App that gets no token until somebody does something, which it says.
type AppError struct {
	Problem AppProblem
	Text    string
}

func (e *AppError) Error() string { return e.Text }

// appUse is what an App is used for: one repository, and what is done there.
type appUse struct {
	app         access.App
	base        string // of the API
	owner, name string

	follows     bool // it is fetched, and its requests are listed
	writes      bool // branches are pushed there
	requests    bool // requests are answered and landed
	deployments bool // deployments are shown
}

// permission is one that a token is asked for.
type permission struct {
	name, title string // for the API, and in the App's settings
	level       string
	must        bool // it is an error not to have been given it
}

// permissions are the least that do, and what is of use where the App has it.
func (u appUse) permissions() []permission {
	contents := "read"
	if u.writes {
		contents = "write"
	}
	list := []permission{
		{"metadata", "Metadata", "read", false},
		{"contents", "Contents", contents, true},
	}
	if u.writes { // without it nothing is pushed that changes .github/workflows
		list = append(list, permission{"workflows", "Workflows", "write", false})
	}
	switch {
	case u.requests:
		list = append(list,
			permission{"pull_requests", "Pull requests", "write", true},
			permission{"statuses", "Commit statuses", "write", true},
			permission{"checks", "Checks", "write", false},
			permission{"deployments", "Deployments", "write", u.deployments},
			permission{"actions", "Actions", "read", false})
	case u.follows:
		list = append(list, permission{"pull_requests", "Pull requests", "read", true})
	}
	if u.follows {
		list = append(list, permission{"repository_hooks", "Webhooks", "write", false})
	}
	return list
}

// of are the permissions to ask for, of those that an installation has been given, and
// those that are missing, as people read them.
func (u appUse) of(given map[string]string) (ask map[string]string, missing []string) {
	ask = map[string]string{}
	for _, p := range u.permissions() {
		switch has := given[p.name]; {
		case has == "write" || has == "admin" || has == p.level:
			ask[p.name] = p.level
		case p.must:
			missing = append(missing, p.title+": "+map[string]string{"read": "read", "write": "read and write"}[p.level])
		case has != "":
			ask[p.name] = has
		}
	}
	return ask, missing
}

// apps hold the tokens that GitHub has given Apps, in memory alone. The zero value is
// ready; it is safe for concurrent use.
type apps struct {
	now func() time.Time // nil: time.Now

	mu   sync.Mutex
	held map[appUse]*installation
}

// of is the credential of an App for a repository at an address.
func (a *apps) of(app access.App, key secret.Value, address, repository string, use appUse) (credential, error) {
	base, err := apiBase(GitHub, address, repository)
	if err != nil {
		return nil, err
	}
	use.app, use.base = app, base.String()
	use.owner, use.name = path.Split(repository)
	use.owner = strings.TrimSuffix(use.owner, "/")
	return a.installation(use, key), nil
}

// installation is the credential that an App is for one use.
func (a *apps) installation(use appUse, key secret.Value) *installation {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now
	if now == nil {
		now = time.Now
	}
	// What server.yaml does not name any more is not asked for, and ends.
	maps.DeleteFunc(a.held, func(_ appUse, i *installation) bool { return i.over(now()) })
	i := a.held[use]
	if i == nil {
		if a.held == nil {
			a.held = map[appUse]*installation{}
		}
		i = &installation{appUse: use, now: now, turn: make(chan struct{}, 1)}
		a.held[use] = i
	}
	i.mu.Lock()
	i.key = key // which may have been replaced
	i.mu.Unlock()
	return i
}

// installation is a credential: the tokens of an App, one after the other.
type installation struct {
	appUse
	now  func() time.Time
	turn chan struct{} // full while somebody asks GitHub for a token

	mu   sync.Mutex // guards what follows
	key  secret.Value
	held secret.Value
	ends time.Time         // of held
	has  map[string]string // the permissions of held
}

func (i *installation) over(now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.ends.IsZero() && now.After(i.ends)
}

// token implements credential.
func (i *installation) token(ctx context.Context) (secret.Value, error) {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return secret.Value{}, ctx.Err()
	}
	i.mu.Lock()
	key, held, ends := i.key, i.held, i.ends
	i.mu.Unlock()
	now := i.now()
	if now.Before(ends.Add(-renewBefore)) {
		return held, nil
	}
	next, until, has, err := i.ask(ctx, key)
	if err != nil {
		if !errors.As(err, new(*AppError)) && now.Before(ends.Add(-stillGood)) {
			return held, nil // the next who wants one asks again
		}
		return secret.Value{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.held, i.ends, i.has = next, until, has
	return next, nil
}

// may reports whether the token that is shown now has a permission.
func (i *installation) may(ctx context.Context, permission, level string) (bool, error) {
	if _, err := i.token(ctx); err != nil {
		return false, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.has[permission] == level, nil
}

// refused implements credential: a token may have been revoked.
func (i *installation) refused(token secret.Value) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if bytes.Equal(i.held.Reveal(), token.Reveal()) {
		i.held, i.ends = secret.Value{}, time.Time{}
	}
	return true
}

// forget has the next token asked for: it shows how the App is now.
func (i *installation) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.held, i.ends = secret.Value{}, time.Time{}
}

// ask has GitHub give a token for the one repository, with no more rights than are of use.
func (i *installation) ask(ctx context.Context, key secret.Value) (token secret.Value, ends time.Time,
	has map[string]string, err error) {
	private, err := appKey(key)
	if err != nil {
		return token, ends, nil, i.problem(AppKeyBad, "secret %s is not the private key of a GitHub App (%v): "+
			"generate one in the App's settings, and set the file as it is: secret set %s <app.pem", i.app.Key, err, i.app.Key)
	}
	base, err := url.Parse(i.base)
	if err != nil {
		return token, ends, nil, err
	}
	client := github.NewClient(apiClient(GitHub, base.Host, &appSigner{id: i.app.ID, key: private, now: i.now}, nil))
	client.BaseURL = base

	var at *github.Installation
	if i.app.Installation != 0 {
		at, _, err = client.Apps.GetInstallation(ctx, i.app.Installation)
	} else {
		at, _, err = client.Apps.FindRepositoryInstallation(ctx, i.owner, i.name)
	}
	if err != nil {
		return token, ends, nil, i.said(err)
	}
	if at.SuspendedAt != nil {
		return token, ends, nil, i.suspended()
	}
	var given map[string]string
	if err := sameJSON(at.GetPermissions(), &given); err != nil {
		return token, ends, nil, err
	}
	wanted, missing := i.of(given)
	if len(missing) > 0 {
		return token, ends, nil, i.problem(AppPermission, "GitHub App %d lacks a permission that this takes: give it "+
			"%s in its settings, Permissions & events, and accept that where it is installed", i.app.ID, strings.Join(missing, "; "))
	}
	options := &github.InstallationTokenOptions{
		Repositories: []string{i.name},
		Permissions:  &github.InstallationPermissions{},
	}
	if err := sameJSON(wanted, options.Permissions); err != nil {
		return token, ends, nil, err
	}
	got, _, err := client.Apps.CreateInstallationToken(ctx, at.GetID(), options)
	switch {
	case err != nil:
		return token, ends, nil, i.said(err)
	case got.GetToken() == "" || strings.ContainsAny(got.GetToken(), "\r\n\x00"):
		return token, ends, nil, errors.New("GitHub has given an App a token that is none")
	}
	return secret.NewValue([]byte(got.GetToken())), got.GetExpiresAt().Time, wanted, nil
}

// said is an answer of GitHub to an App as one that says what to do, if anybody can.
func (i *installation) said(err error) error {
	var failed *github.ErrorResponse
	if !errors.As(err, &failed) || failed.Response == nil {
		return fmt.Errorf("ask for a token of GitHub App %d: %w", i.app.ID, err)
	}

	switch status := failed.Response.StatusCode; {
	case status == http.StatusUnauthorized:
		return i.problem(AppRefused, "GitHub does not take the key in secret %s for App %d (%s): compare the App ID, see "+
			"whether the App's settings still have this key, and whether this machine's clock is right", i.app.Key, i.app.ID,
			cut(failed.Message, 200))
	case status == http.StatusForbidden && strings.Contains(failed.Message, "suspended"):
		return i.suspended()
	case status == http.StatusUnprocessableEntity && strings.Contains(failed.Message, "permissions"):
		// One was taken away between two questions: the next time it is named.
	case status == http.StatusNotFound, status == http.StatusUnprocessableEntity:
		where := "where the repository is"
		if i.app.Installation != 0 {
			where = fmt.Sprintf("as %d for that repository", i.app.Installation)
		}
		return i.problem(AppAbsent, "GitHub App %d is not installed %s (%s/%s: %s): install it there, or add the repository "+
			"in the settings of %s, GitHub Apps, Configure", i.app.ID, where, i.owner, i.name, cut(failed.Message, 200), i.owner)
	}
	return fmt.Errorf("ask for a token of GitHub App %d: %w", i.app.ID, err)
}

func (i *installation) suspended() error {
	return i.problem(AppSuspended, "the installation of GitHub App %d at %s is suspended: end that in the settings of "+
		"%s, GitHub Apps, Configure", i.app.ID, i.owner, i.owner)
}

func (i *installation) problem(what AppProblem, format string, args ...any) error {
	return &AppError{Problem: what, Text: fmt.Sprintf(format, args...)}
}

// sameJSON brings what JSON writes the same way from one type to another.
func sameJSON(from, to any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}

// appKey reads a private key as GitHub makes it, or as openssl has turned it into PKCS #8.
// Its errors repeat nothing of it.
func appKey(value secret.Value) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(value.Reveal())
	if block == nil {
		return nil, errors.New("it is no PEM file")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := any.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("it holds no RSA key without a passphrase")
	}
	return key, nil
}

// appSigner is the credential of an App itself: it says who it is, signed with its key.
type appSigner struct {
	id  int64
	key *rsa.PrivateKey
	now func() time.Time
}

// token implements credential: a JWT (RFC 7519), signed by RS256.
func (s *appSigner) token(context.Context) (secret.Value, error) {
	now := s.now()
	claims, err := json.Marshal(struct {
		Issued int64  `json:"iat"`
		Ends   int64  `json:"exp"`
		Issuer string `json:"iss"`
	}{now.Add(-signedSince).Unix(), now.Add(signedFor).Unix(), strconv.FormatInt(s.id, 10)})
	if err != nil {
		return secret.Value{}, err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." +
		base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, sum[:])
	if err != nil {
		return secret.Value{}, fmt.Errorf("sign with the App's private key: %w", err)
	}
	return secret.NewValue([]byte(text + "." + base64.RawURLEncoding.EncodeToString(signature))), nil
}

// refused implements credential.
func (*appSigner) refused(secret.Value) bool { return false }

// repositoryAt is the repository that an address ends in, as its forge calls it.
func repositoryAt(address string) string {
	rest, name := path.Split(strings.TrimSuffix(strings.TrimSuffix(address, "/"), ".git"))
	return path.Join(path.Base(rest), name)
}
