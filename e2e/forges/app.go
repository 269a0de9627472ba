package forges

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// App is a GitHub App that is installed where the repository is.
type App struct {
	ID, Installation int64
	Key              *rsa.PublicKey
	Permissions      map[string]string // that its installation was given: read or write
	Suspended        bool
	Elsewhere        bool             // its installation does not have the repository
	Now              func() time.Time // GitHub's clock
}

// tokenLife is how long a token of an installation is good for.
const tokenLife = time.Hour

// given is a token of an installation.
type given struct {
	permissions map[string]string
	ends        time.Time
}

// Install has an App be installed, in the place of one that was. The tokens that were
// given stay good until they end.
func (f *Forge) Install(a App) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.app = &a
}

// Revoke ends all tokens that were given to installations.
func (f *Forge) Revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.given)
}

// Given are the tokens that are good now, with the permissions of each.
func (f *Forge) Given() map[string]map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]map[string]string{}
	for token, g := range f.given {
		all[token] = maps.Clone(g.permissions)
	}
	return all
}

// ofApps reports whether a path of the API is for Apps themselves.
func ofApps(path string) bool {
	return strings.HasPrefix(path, "app/") || path == "repos/"+Name+"/installation"
}

// authentic says what is wrong with a JWT, as GitHub checks it.
func (f *Forge) authentic(token string) error {
	refuse := func(text string) error { return said{http.StatusUnauthorized, text} }
	f.mu.Lock()
	a := f.app
	f.mu.Unlock()
	if a == nil {
		return refuse("Integration not found")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return refuse("A JSON web token could not be decoded")
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return refuse("A JSON web token could not be decoded")
		}
	}
	var header struct{ Alg string }
	var claims struct {
		IAT, EXP int64
		ISS      string
	}
	if json.Unmarshal(raw[0], &header) != nil || json.Unmarshal(raw[1], &claims) != nil || header.Alg != "RS256" {
		return refuse("A JSON web token could not be decoded")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := a.Now().Unix()
	switch {
	case claims.ISS != fmt.Sprint(a.ID):
		return refuse("Integration not found")
	case rsa.VerifyPKCS1v15(a.Key, crypto.SHA256, sum[:], raw[2]) != nil:
		return refuse("A JSON web token could not be decoded")
	case claims.IAT > now:
		return refuse("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
	case claims.EXP <= now:
		return refuse("'Expiration time' claim ('exp') must be a numeric value representing the future time at which the " +
			"assertion expires")
	case claims.EXP > now+600:
		return refuse("'Expiration time' claim ('exp') is too far in the future")
	}
	return nil
}

// may says why a token may not do something, nil if it may: an installation's what it was
// given, the one that the forge was made with everything.
func (f *Forge) may(token, permission, level string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.app == nil || f.Token != "" && token == f.Token {
		if token != f.Token {
			return said{http.StatusUnauthorized, "Bad credentials"}
		}
		return nil
	}
	g, there := f.given[token]
	switch has := g.permissions[permission]; {
	case !there, !f.app.Now().Before(g.ends), f.app.Suspended:
		return said{http.StatusUnauthorized, "Bad credentials"}
	case has != "write" && has != level:
		return said{http.StatusForbidden, "Resource not accessible by integration"}
	}
	return nil
}

// permissionOf is what a call of the API takes.
func permissionOf(method, path string) (permission, level string) {
	level = "write"
	if method == http.MethodGet {
		level = "read"
	}
	area, _, _ := strings.Cut(strings.TrimPrefix(path, "repos/"+Name+"/"), "/")
	switch {
	case strings.HasSuffix(path, "/deployment_protection_rule"):
		area = "deployments"
	case area == "pulls", area == "issues": // comments on requests
		area = "pull_requests"
	case area == "check-runs", strings.HasSuffix(path, "/check-runs"):
		area = "checks"
	case area == "hooks":
		area = "repository_hooks"
	case area == "collaborators":
		area = "metadata"
	}
	return area, level
}

// mayGit says why git may not fetch or push, nil if it may.
func (f *Forge) mayGit(r *http.Request) error {
	user, password, _ := r.BasicAuth()
	f.mu.Lock()
	installed := f.app != nil && password != f.Token
	f.mu.Unlock()
	level := "read"
	if strings.Contains(r.URL.Path+r.URL.RawQuery, "git-receive-pack") {
		level = "write"
	}
	if installed && user != "x-access-token" {
		return said{http.StatusUnauthorized, "Bad credentials"}
	}
	return f.may(password, "contents", level)
}

// apps is what GitHub has for Apps themselves.
func (f *Forge) apps(handle func(string, func(*http.Request, object) (any, error))) {
	shown := func() (any, error) {
		if f.app.Elsewhere {
			return nil, answer(http.StatusNotFound)
		}
		o := object{"id": f.app.Installation, "app_id": f.app.ID, "permissions": f.app.Permissions, "suspended_at": nil}
		if f.app.Suspended {
			o["suspended_at"] = f.app.Now().UTC().Format(time.RFC3339)
		}
		return o, nil
	}
	handle("GET repos/"+Name+"/installation", func(*http.Request, object) (any, error) { return shown() })
	handle("GET app/installations/{id}", func(r *http.Request, _ object) (any, error) {
		if int64(number(r, "id")) != f.app.Installation {
			return nil, answer(http.StatusNotFound)
		}
		return shown()
	})
	handle("POST app/installations/{id}/access_tokens", func(r *http.Request, in object) (any, error) {
		if int64(number(r, "id")) != f.app.Installation {
			return nil, answer(http.StatusNotFound)
		}
		if f.app.Suspended {
			return nil, said{http.StatusForbidden, "This installation has been suspended"}
		}
		// A token for all that the App may do is not what is asked for.
		if list, _ := in["repositories"].([]any); !slices.Equal(list, []any{"name"}) {
			return nil, said{http.StatusUnprocessableEntity, "There is at least one repository that does not exist"}
		}
		wanted, _ := in["permissions"].(map[string]any)
		g := given{permissions: map[string]string{}, ends: f.app.Now().Add(tokenLife)}
		for name, level := range wanted {
			has := f.app.Permissions[name]
			if has == "" || has != "write" && has != level {
				return nil, said{http.StatusUnprocessableEntity, "The permissions requested are not granted to this installation."}
			}
			g.permissions[name], _ = level.(string)
		}
		if len(wanted) == 0 {
			return nil, said{http.StatusUnprocessableEntity, "all permissions were asked for"}
		}
		f.ids++
		token := fmt.Sprintf("ghs_of-the-app-%d", f.ids)
		f.given[token] = g
		return object{"token": token, "expires_at": g.ends.UTC().Format(time.RFC3339)}, nil
	})
}
