package engine

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
)

// Image is an image that the engine has.
type Image struct {
	ID         string  `json:"id"`                   // by its content: what containers are made of
	Digest     string  `json:"digest,omitempty"`     // name@digest by which a registry gave it; "" for one that came from none
	Health     *Health `json:"health,omitempty"`     // its HEALTHCHECK; nil: none
	StopSignal string  `json:"stopSignal,omitempty"` // its STOPSIGNAL
}

// Health is the HEALTHCHECK of an image. Zero durations are not said.
type Health struct {
	Test        []string      `json:"test"` // argv
	Interval    time.Duration `json:"interval,omitempty"`
	Timeout     time.Duration `json:"timeout,omitempty"`
	StartPeriod time.Duration `json:"startPeriod,omitempty"`
	Retries     int           `json:"retries,omitempty"`
}

// Pull says when an image is fetched.
type Pull string

// When it is.
const (
	PullOnce    Pull = ""        // what its registry has under the tag now
	PullAlways  Pull = "always"  // the same, and nothing else when that cannot be asked
	PullMissing Pull = "missing" // when nothing is there under that name
	PullNever   Pull = "never"
)

// Login is how a registry is entered. The zero value is anonymous.
type Login struct {
	User, Password string
	Token          string // that the registry has given for them, instead of both
}

// ParseLogin reads a login: user:password, or {"username": …, "password": …}.
func ParseLogin(data []byte) (l Login, ok bool) {
	var object struct{ Username, Password string }
	if json.Unmarshal(data, &object) == nil && object.Username != "" {
		return Login{User: object.Username, Password: object.Password}, true
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !ok || user == "" || password == "" || strings.ContainsAny(user, "{\n") {
		return Login{}, false
	}
	return Login{User: user, Password: password}, true
}

func (l Login) header() string {
	if l == (Login{}) {
		return ""
	}
	text, err := json.Marshal(registry.AuthConfig{Username: l.User, Password: l.Password, IdentityToken: l.Token})
	if err != nil {
		panic(err) // strings always marshal
	}
	return base64.URLEncoding.EncodeToString(text)
}

// registryTimeout is how long a registry may take to say what a tag is.
const registryTimeout = 30 * time.Second

// Resolve finds out what an image is and has it be there. A tag is what its registry
// has now; where that cannot be asked, and says nothing against it, it is what the
// engine has under that name.
func (e *Engine) Resolve(ctx context.Context, ref string, pull Pull, login Login) (Image, error) {
	name, err := reference.ParseDockerRef(ref)
	if err != nil {
		return Image{}, &Error{
			Reason: ReasonImageInvalid,
			What:   fmt.Sprintf("image %q is not a reference; write it like ghcr.io/acme/web:4", ref),
			Err:    err,
		}
	}
	if _, exact := name.(reference.Digested); exact {
		return e.Have(ctx, Image{Digest: name.String()}, login)
	}
	here, err := e.inspect(ctx, name.String())
	missing := cerrdefs.IsNotFound(err)
	switch {
	case err != nil && !missing:
		return Image{}, e.failure(ctx, "look for image "+ref, err)
	case pull == PullNever && missing:
		return Image{}, &Error{
			Reason: ReasonImageNotFound,
			What: fmt.Sprintf(
				"image %s is not on this machine, and pull_policy is never; put it there, or leave pull_policy out", ref),
		}
	case pull == PullNever, pull == PullMissing && !missing:
		return here, nil
	}

	pinned, err := e.pin(ctx, name, login)
	switch {
	case err == nil:
		return e.Have(ctx, Image{Digest: pinned}, login)
	case missing, pull == PullAlways:
		return Image{}, e.pullFailure(ctx, ref, err)
	}
	return here, nil
}

// pin is name@digest of what a registry has under a tag now. The error is the client's.
func (e *Engine) pin(ctx context.Context, name reference.Named, login Login) (string, error) {
	podman, err := e.Podman(ctx)
	if err != nil {
		return "", err
	}
	if podman {
		// It cannot ask a registry without fetching what that has.
		if err := e.pull(ctx, name.String(), login); err != nil {
			return "", err
		}
		found, err := e.api.ImageInspect(ctx, name.String())
		if err != nil {
			return "", err
		}
		for _, pinned := range found.RepoDigests {
			if strings.HasPrefix(pinned, reference.TrimNamed(name).String()+"@") {
				return pinned, nil
			}
		}
		return "", fmt.Errorf("%s has no digest after it was fetched", name)
	}

	asking, cancel := context.WithTimeoutCause(ctx, registryTimeout, fmt.Errorf("no answer within %s", registryTimeout))
	defer cancel()
	found, err := e.api.DistributionInspect(asking, name.String(),
		client.DistributionInspectOptions{EncodedRegistryAuth: login.header()})
	if err != nil {
		if cause := context.Cause(asking); cause != nil && ctx.Err() == nil {
			return "", cause
		}
		return "", err
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(name), found.Descriptor.Digest)
	if err != nil {
		return "", err
	}
	return pinned.String(), nil
}

// Have has an image be there that was resolved before, by its digest.
func (e *Engine) Have(ctx context.Context, image Image, login Login) (Image, error) {
	ref := image.Digest
	if ref == "" {
		ref = image.ID
	}
	here, err := e.inspect(ctx, ref)
	switch {
	case err == nil:
		if image.Digest != "" {
			here.Digest = image.Digest
		}
		return here, nil
	case !cerrdefs.IsNotFound(err):
		return Image{}, e.failure(ctx, "look for image "+ref, err)
	case image.Digest == "":
		return Image{}, &Error{
			Reason: ReasonImageNotFound,
			What: fmt.Sprintf(
				"image %s, which came from no registry, is not on this machine any more; put it there, or promote again", ref),
		}
	}
	if err := e.pull(ctx, ref, login); err != nil {
		return Image{}, e.pullFailure(ctx, ref, err)
	}
	if here, err = e.inspect(ctx, ref); err != nil {
		return Image{}, e.failure(ctx, "look for image "+ref, err)
	}
	here.Digest = image.Digest
	return here, nil
}

func (e *Engine) pull(ctx context.Context, ref string, login Login) error {
	resp, err := e.api.ImagePull(ctx, ref, client.ImagePullOptions{RegistryAuth: login.header()})
	if err != nil {
		return err
	}
	return errors.Join(resp.Wait(ctx), resp.Close())
}

// Load has an image be there from an archive as `docker save` makes them.
func (e *Engine) Load(ctx context.Context, archive io.Reader) (Image, error) {
	resp, err := e.api.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return Image{}, e.failure(ctx, "load an image", err)
	}
	defer resp.Close()
	said, err := io.ReadAll(io.LimitReader(resp, 64<<10))
	if err != nil {
		return Image{}, e.failure(ctx, "load an image", err)
	}
	id := loadedID.FindSubmatch(said)
	if id == nil {
		return Image{}, e.failure(ctx, "load an image", errors.New(string(bytes.TrimSpace(said))))
	}
	image, err := e.inspect(ctx, string(id[1]))
	if err != nil {
		return Image{}, e.failure(ctx, "look for an image that was loaded", err)
	}
	return image, nil
}

var loadedID = regexp.MustCompile(`Loaded image(?: ID)?: ([^\s"\\]+)`)

// inspect is an image that is there. The error is the client's.
func (e *Engine) inspect(ctx context.Context, ref string) (Image, error) {
	found, err := e.api.ImageInspect(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	image := Image{ID: found.ID}
	if len(found.RepoDigests) > 0 {
		image.Digest = found.RepoDigests[0]
	}
	if found.Config == nil {
		return image, nil
	}
	image.StopSignal = found.Config.StopSignal
	if found.Config.Healthcheck != nil {
		h := found.Config.Healthcheck
		image.Health = &Health{Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries}
		switch {
		case len(h.Test) > 1 && h.Test[0] == "CMD":
			image.Health.Test = h.Test[1:]
		case len(h.Test) == 2 && h.Test[0] == "CMD-SHELL":
			shell := found.Config.Shell
			if len(shell) == 0 {
				shell = []string{"/bin/sh", "-c"}
			}
			image.Health.Test = append(shell[:len(shell):len(shell)], h.Test[1])
		default:
			image.Health = nil
		}
	}
	return image, nil
}

// pullFailure is why an image cannot be had. Engines give the errors of registries as
// text.
func (e *Engine) pullFailure(ctx context.Context, ref string, err error) error {
	if away(err) && ctx.Err() == nil && e.Ping(ctx) != nil {
		return e.failure(ctx, "fetch image "+ref, err)
	}
	text := strings.ToLower(err.Error())
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("unexpected digest", "verification failed", "digest mismatch", "does not match",
		"filesystem layer verification"):
		return &Error{
			Reason: ReasonDigestMismatch,
			What: fmt.Sprintf(
				"what the registry gave as image %s is something else; find out who changed it there, or name what is meant", ref),
			Err: err,
		}
	case cerrdefs.IsUnauthorized(err), cerrdefs.IsPermissionDenied(err),
		has("denied", "unauthorized", "authentication required", "no basic auth"):
		return &Error{
			Reason: ReasonImageDenied,
			What: fmt.Sprintf(
				"the registry does not give image %s to this machine, or has none; correct its name, or name the secret with a login for its registry (registries, below x-headgate in compose.yaml or below build in headgate.yaml)", ref),
			Err: err,
		}
	case cerrdefs.IsNotFound(err), has("manifest unknown", "not found", "name unknown", "no matching manifest"):
		return &Error{
			Reason: ReasonImageNotFound,
			What:   fmt.Sprintf("there is no image %s; correct its name, or push it", ref),
			Err:    err,
		}
	}
	return &Error{
		Reason: ReasonRegistryUnavailable,
		What:   fmt.Sprintf("the registry of image %s does not give it", ref),
		Err:    err,
	}
}
