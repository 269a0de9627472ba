package services

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// version is what instances of a version of a service are.
type version struct {
	Service     Service        `json:"service"`
	Environment string         `json:"environment"`
	Release     target.Release `json:"release"`
	Digest      string         `json:"digest"`

	Secrets map[string]string `json:"secrets,omitempty"` // revisions, by name
}

// health is how instances of a version are checked, as far as that is known: an image
// may have something to say about it.
func (a *app) health(version string, s Service) Health {
	image, _ := a.images.known(version)
	return s.health(image.Image)
}

// artifactOf is the digest of the artifact that a service runs from.
func artifactOf(s Service, r target.Release) (string, error) {
	names := slices.Sorted(maps.Keys(r.Artifacts))
	if s.Artifact != "" {
		if d, ok := r.Artifacts[s.Artifact]; ok {
			return d, nil
		}
		return "", fmt.Errorf(
			"service %s wants artifact %q, but release %d has %s; correct x-headgate.artifact in compose.yaml, or name the artifact so in buildspec.yml",
			s.Name, s.Artifact, r.Number, list(names))
	}
	if len(names) == 1 {
		return r.Artifacts[names[0]], nil
	}
	if d, ok := r.Artifacts[s.Name]; ok {
		return d, nil
	}
	if len(names) == 0 {
		return "", fmt.Errorf(
			"release %d has no artifact for service %s to run from; list files under artifacts in buildspec.yml", r.Number, s.Name)
	}
	return "", fmt.Errorf(
		"release %d has artifacts %s, and service %s does not say which; add x-headgate: {artifact: %s} in compose.yaml", r.Number, list(names), s.Name, names[0])
}

// Parts are those of a release that the files of an application's directory name.
func Parts(files target.Files) (all []target.PartUse) {
	for _, s := range servicesIn(files) {
		switch of := s.Container; {
		case s.Artifact != "":
			all = append(all, target.PartUse{Name: s.Artifact, Unit: s.Name, File: s.artifactAt.file, Line: s.artifactAt.line})
		case of != nil && of.OwnImage && of.imageAt.file != "": // else the build names it
			all = append(all, target.PartUse{Name: of.Image, Image: true, Unit: s.Name, File: of.imageAt.file,
				Line: of.imageAt.line})
		}
	}
	return all
}

// servicesIn are those that the files of an application's directory declare; none when
// they are wrong, which is said elsewhere.
func servicesIn(files target.Files) []Service {
	if !declares(files) {
		return nil
	}
	c, _, err := Read("", files)
	if err != nil {
		return nil
	}
	return c.Services
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// idOf names a version as its files are now.
func (t *Target) idOf(v *version) string {
	if v.Digest == "" {
		return v.id(0)
	}
	return v.id(t.releases.Generation(v.Digest))
}

// firstTimeout is the default of checks in the names of versions, whatever it has
// become since: what runs under a name goes on.
const firstTimeout = 2 * time.Second

// id names a version: everything that an instance is made of. What can change
// without a new instance (replicas, ports, draining) is left out, and so is all
// that a service does not say: a newer program, which knows more that could be
// said, names it the same, and starts nothing anew.
func (v *version) id(generation int64) string {
	s := v.Service
	s.Replicas, s.Drain, s.StopGrace, s.Ports, s.Restart = 0, 0, 0, nil, rollout.Restart{}
	s.MaxTime, s.Health.Passes, s.Health.HealthyFor = 0, 0, 0
	if s.Health.unsaid {
		s.Health.Timeout = firstTimeout
	}
	if c := s.Container; c != nil && c.Login != "" {
		without := *c
		without.Login = ""
		s.Container = &without
	}
	text, err := json.Marshal(s)
	var said any
	if err == nil {
		err = json.Unmarshal(text, &said)
	}
	release := v.Release
	if err == nil && s.lasting(text, release) {
		release = target.Release{}
	}
	if err == nil {
		all := []any{withoutZeros(said), release.Number, release.Commit, v.Digest, generation}
		if len(v.Secrets) > 0 {
			all = append(all, v.Secrets)
		}
		text, err = json.Marshal(all)
	}
	if err != nil {
		panic(err) // strings, numbers and maps of them always marshal
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%d-%s", release.Number, hex.EncodeToString(sum[:6]))
}

// withoutZeros is a JSON value without the members of objects that say nothing.
func withoutZeros(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for name, member := range m {
		member = withoutZeros(member)
		if m[name] = member; member == nil || member == "" || member == false || member == 0.0 ||
			reflect.DeepEqual(member, map[string]any{}) {
			delete(m, name)
		}
	}
	return m
}

// listenKeys names what the proxy listens on for a service. Several free ports
// are told apart by a number.
func listenKeys(s Service, address netip.Addr) (keys []string) {
	for i, p := range s.Ports {
		k := p.on(address)
		if p.Host == 0 {
			k = fmt.Sprintf("%s#%s.%d", k, s.Name, i)
		}
		keys = append(keys, k)
	}
	return keys
}
