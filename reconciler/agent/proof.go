package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Proof is what proves a declared state to a machine that believes a server nothing but
// what a key has signed that it was told when it enrolled: Git objects, of which each is
// what its id says.
type Proof struct {
	Release  string `json:"release"`            // id of the tag of the release that is declared
	Fallback string `json:"fallback,omitempty"` // likewise, of target.Declared.Fallback
	// Keys is the id of the newest commit of the record of the server's keys (repo.KeysRef),
	// in its own repository, and RepositoryKeys in the one that declares this; "": there are
	// none, the key has been the same.
	Keys           string   `json:"keys,omitempty"`
	RepositoryKeys string   `json:"repository_keys,omitempty"`
	Objects        []Object `json:"objects"`
}

// Object is a Git object, whole.
type Object struct {
	Kind    string `json:"kind"`
	Content []byte `json:"content"`
}

// Keys are the fingerprints of the keys that a server signs with.
type Keys struct {
	Signing string   `json:"signing_key"`           // by now
	Former  []string `json:"former_keys,omitempty"` // until another took over
}

// ParseKeys reads fingerprints with commas between them, the present key first.
func ParseKeys(text string) (Keys, error) {
	all := strings.Split(text, ",")
	for _, one := range all {
		if !strings.HasPrefix(one, fingerprintPrefix) {
			return Keys{}, fmt.Errorf("%.60q is not the fingerprint of a key, which begins with %s", one, fingerprintPrefix)
		}
	}
	return Keys{all[0], all[1:]}, nil
}

const fingerprintPrefix = "SHA256:"

// String is what ParseKeys reads.
func (k Keys) String() string { return strings.Join(append([]string{k.Signing}, k.Former...), ",") }

// Equal reports whether two are the same.
func (k Keys) Equal(l Keys) bool { return k.Signing == l.Signing && slices.Equal(k.Former, l.Former) }

// pathProven is pathDeclared with what proves it.
const pathProven = "/v1/proven" // PUT a provenDeclared; 409 as pathDeclared, 422 with an unproven

type provenDeclared struct {
	Declared target.Declared `json:"declared"`
	Proof    Proof           `json:"proof"`
}

// unproven is the answer to what is not proven.
type unproven struct {
	Why string `json:"why"`
}

// errUnproven is that an agent refused what is declared.
type errUnproven string

func (e errUnproven) Error() string { return string(e) }

// Refusal is something that an agent was to deploy and did not, since it is not proven.
type Refusal struct {
	target.Key
	Commit string `json:"commit"`
	Why    string `json:"why"`
}

// errNoKey is that an agent has not been told whose signatures count.
var errNoKey = errors.New("this agent does not know the server's signing key\n" +
	"hint: on this machine: headgate agent trust --signing-key SHA256:..., which `ssh host agent enrol` prints")

// maxRefusals bounds how many are remembered, for people.
const maxRefusals = 100

// Verify verifies what a server elsewhere declares, before anything is done about it.
func (w *Worker) Verify(d *target.Declared, p Proof) error {
	w.proving.Lock()
	defer w.proving.Unlock()
	keys, err := w.Uplink.Keys, errNoKey
	if keys.Signing != "" {
		keys, err = w.Prove(keys, d, p, w.Hosts.Fence(d.Key))
	}
	if err == nil && !keys.Equal(w.Uplink.Keys) {
		// What the former key signs does not count from here on.
		if err = w.Uplink.follow(w.Dir, keys); err != nil {
			return fmt.Errorf("note that the server has another key: %w", err)
		}
		w.Log.Warn("the server signs with another key, for which the former one signed", "key", keys.Signing)
	}
	if err == nil {
		delete(w.refusals, d.Key)
		return nil
	}
	w.Log.Error("refused what the server declares", "app", d.Key.String(), "commit", d.Commit, "err", err)
	if w.refusals == nil {
		w.refusals = map[target.Key]Refusal{}
	}
	if _, known := w.refusals[d.Key]; known || len(w.refusals) < maxRefusals {
		w.refusals[d.Key] = Refusal{d.Key, d.Commit, err.Error()}
	}
	return errUnproven(err.Error())
}

// Refused lists what was refused last, in order.
func (w *Worker) Refused() (all []Refusal) {
	w.proving.Lock()
	defer w.proving.Unlock()
	for _, r := range w.refusals {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Refusal) int { return a.Key.Compare(b.Key) })
	return all
}
