package cluster

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// inventory is what is written down of an application in its cluster, before anything is done about it: a ConfigMap in
// the agent's own namespace. It is never deleted, since it is the fence.
type inventory struct {
	Version  int        `json:"version"`
	Key      target.Key `json:"key"`
	Sequence int        `json:"sequence"` // nothing older is taken any more, for ever
	Commit   string     `json:"commit"`
	Objects  []entry    `json:"objects"`        // that there are, or may be
	Done     []string   `json:"done,omitempty"` // hooks of Sequence that have succeeded, by name

	declared *target.Declared // nil: it was removed
	known    bool             // this place was claimed before, so that objects may have been applied
	version  string           // resource version; "" when there is none yet
}

// entry is one object of an inventory.
type entry struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Resource  string `json:"resource"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Hook      bool   `json:"hook,omitempty"`
}

func (e entry) gvr() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: e.Group, Version: e.Version, Resource: e.Resource}
}

func (e entry) String() string {
	if e.Namespace == "" {
		return e.Kind + " " + e.Name
	}
	return e.Kind + " " + e.Namespace + "/" + e.Name
}

// same reports whether two are the same object, whatever version it is spoken of in.
func (e entry) same(f entry) bool {
	e.Version, f.Version, e.Hook, f.Hook = "", "", false, false
	return e == f
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

const (
	inventoryLabel = "headgate.dev/inventory"
	inventoryFile  = "inventory.json"
	declaredFile   = "declared.json.gz"

	// maxKept is what fits into a ConfigMap, with some room for the inventory.
	maxKept = 700 << 10
)

// idOf is what an application is called in a cluster, as the value of a label and the name of its inventory.
func idOf(k target.Key) string {
	sum := sha256.Sum256([]byte(k.Repository + "\x00" + k.Application + "\x00" + k.Environment))
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(k.Application+"-"+k.Environment))
	return strings.Trim(plain[:min(len(plain), 40)], "-") + "-" + hex.EncodeToString(sum[:8])
}

// readInventory reads that of an application, an empty one when there is none.
func (t *Target) readInventory(ctx context.Context, k target.Key) (*inventory, error) {
	u, err := t.Client.Resource(configMaps).Namespace(t.Namespace).Get(ctx, idOf(k), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &inventory{Version: 1, Key: k, Sequence: -1}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the inventory: %w", err)
	}
	return parseInventory(u)
}

func parseInventory(u *unstructured.Unstructured) (*inventory, error) {
	fail := func(err error) (*inventory, error) {
		return nil, fmt.Errorf(
			"the inventory ConfigMap %s/%s cannot be read: %w; whoever repairs or removes it answers for what older state may do",
			u.GetNamespace(), u.GetName(), err)
	}
	text, _, _ := unstructured.NestedString(u.Object, "data", inventoryFile)
	inv := &inventory{version: u.GetResourceVersion()}
	if err := json.Unmarshal([]byte(text), inv); err != nil {
		return fail(err)
	}
	if inv.Version != 1 || idOf(inv.Key) != u.GetName() {
		return fail(fmt.Errorf("it is of version %d, or of another application", inv.Version))
	}
	packed, kept, _ := unstructured.NestedString(u.Object, "binaryData", declaredFile)
	if !kept {
		return inv, nil
	}
	data, err := base64.StdEncoding.DecodeString(packed)
	if err != nil {
		return fail(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fail(err)
	}
	if err := json.NewDecoder(io.LimitReader(z, 64<<20)).Decode(&inv.declared); err != nil {
		return fail(err)
	}
	return inv, nil
}

// errChanged is that somebody else has written an inventory meanwhile.
var errChanged = errors.New("somebody else has written the inventory meanwhile")

// writeInventory writes it, unless it is another than was read.
func (t *Target) writeInventory(ctx context.Context, inv *inventory) error {
	text, err := json.Marshal(inv)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata": map[string]any{
			"name":      idOf(inv.Key),
			"namespace": t.Namespace,
			"labels":    map[string]any{inventoryLabel: "true"},
		},
		"data": map[string]any{inventoryFile: string(text)},
	}}
	if inv.declared != nil {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if err := errors.Join(json.NewEncoder(z).Encode(inv.declared), z.Close()); err != nil {
			return err
		}
		if packed.Len() > maxKept {
			return permanent(
				"what is declared is %d bytes when compressed, and a ConfigMap holds %d; give it to several applications", packed.Len(), maxKept)
		}
		u.Object["binaryData"] = map[string]any{declaredFile: base64.StdEncoding.EncodeToString(packed.Bytes())}
	}
	client := t.Client.Resource(configMaps).Namespace(t.Namespace)
	var written *unstructured.Unstructured
	if inv.version == "" {
		written, err = client.Create(ctx, u, metav1.CreateOptions{FieldManager: manager})
	} else {
		u.SetResourceVersion(inv.version)
		written, err = client.Update(ctx, u, metav1.UpdateOptions{FieldManager: manager})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return errChanged
	}
	if err != nil {
		return fmt.Errorf("write the inventory: %w", err)
	}
	inv.version = written.GetResourceVersion()
	return nil
}

// Load takes up what was declared last, as the cluster has it. It is called before Run.
func (t *Target) Load(ctx context.Context) error {
	list, err := t.Client.Resource(configMaps).Namespace(t.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: inventoryLabel})
	if err != nil {
		return fmt.Errorf("read inventories in namespace %s: %w", t.Namespace, err)
	}
	for i := range list.Items {
		inv, err := parseInventory(&list.Items[i])
		if err != nil {
			return err
		}
		t.mu.Lock()
		t.init()
		t.fences[inv.Key] = max(t.fenceOf(inv.Key), inv.Sequence)
		t.loaded[inv.Key] = inv
		t.mu.Unlock()
		if inv.declared != nil {
			t.Converge(*inv.declared)
		} else if len(inv.Objects) > 0 {
			t.Remove(inv.Key, inv.Sequence) // which had begun
		}
	}
	return nil
}

// takeLoaded is an inventory as Load has read it, once, where nothing has to be written: if it is another by now, objects
// say so. nil: it is to be read.
func (t *Target) takeLoaded(k target.Key, sequence int, d *target.Declared) *inventory {
	t.mu.Lock()
	inv := t.loaded[k]
	delete(t.loaded, k)
	t.mu.Unlock()
	if inv == nil || d == nil || inv.Sequence != sequence || inv.Commit != d.Commit {
		return nil
	}
	return inv
}

// claim writes down what is about to be: from here on nothing older acts. what there was is in it, too.
func (a *app) claim(ctx context.Context, k target.Key, sequence int, d *target.Declared,
	objects []entry) (*inventory, error) {
	t := a.t
	inv := t.takeLoaded(k, sequence, d)
	if inv == nil {
		var err error
		if inv, err = t.readInventory(ctx, k); err != nil {
			return nil, err
		}
	}
	if inv.Sequence > sequence {
		return nil, &fencedError{inv.Sequence}
	}
	before := *inv
	var renamed []*inventory
	if d != nil {
		for _, name := range d.Was {
			was, err := t.readInventory(ctx, target.Key{Repository: k.Repository, Application: k.Application, Environment: name})
			if err != nil {
				return nil, err
			}
			if was.version != "" && (was.declared != nil || len(was.Objects) > 0) {
				renamed = append(renamed, was)
			}
		}
		inv.Commit = d.Commit
	}
	if inv.Sequence != sequence {
		inv.Done = nil
	}
	inv.Sequence, inv.declared = sequence, d
	known := len(inv.Objects)
	for _, was := range renamed {
		inv.Objects = merge(inv.Objects, was.Objects)
	}
	inv.Objects = merge(inv.Objects, objects)
	same := before.version != "" && before.Sequence == sequence && before.Commit == inv.Commit &&
		len(inv.Objects) == known &&
		(before.declared == nil) == (d == nil) && (d == nil || before.declared.Drift == d.Drift)
	if inv.known = same; !same {
		if err := t.writeInventory(ctx, inv); err != nil {
			return nil, err
		}
	}
	crash.Point("kube.claimed")
	for _, was := range renamed { // which nobody declares any more
		was.declared, was.Objects = nil, nil
		if err := t.writeInventory(ctx, was); err != nil {
			return nil, err
		}
	}
	return inv, nil
}

// merge adds what is not there yet.
func merge(all, more []entry) []entry {
	for _, e := range more {
		found := false
		for i := range all {
			if all[i].same(e) {
				all[i], found = e, true
				break
			}
		}
		if !found {
			all = append(all, e)
		}
	}
	return all
}
