package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster/planetest"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/targettest"
)

func TestMain(m *testing.M) { os.Exit(planetest.Main(m)) }

func settingsOf(namespace string) []byte {
	return []byte("tags: {cluster: test}\nnamespace: " + namespace + "\ntimeout: 2m\n")
}

func filesOf(namespace string, manifests ...string) target.Files {
	return target.Files{"kubernetes.yaml": settingsOf(namespace), "all.yaml": []byte(strings.Join(manifests, "---\n"))}
}

func newTarget(t testing.TB, p *planetest.Plane, own string) *Target {
	t.Helper()
	target, err := Connect(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	target.Namespace, target.Registry, target.Log = own, "git.example.org", slog.New(slog.DiscardHandler)
	return target
}

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {says: %s}\n"

func TestContract(t *testing.T) {
	p := planetest.Get(t)
	targettest.Run(t, func(t *testing.T) targettest.Subject {
		own, shop := p.Namespace(t, "agent"), p.Namespace(t, "shop")
		// The suite's applications share their files: each makes what has its own name.
		good := target.Files{
			"kubernetes.yaml":    settingsOf(shop),
			"kustomization.yaml": []byte("resources: [all.yaml]\n"),
			"all.yaml":           fmt.Appendf(nil, configMap, "web", "good"),
		}
		return targettest.Subject{
			Target: &named{newTarget(t, p, own)},
			Good:   good,
			Broken: filesOf(shop, "apiVersion: nowhere.example.org/v1\nkind: Nothing\nmetadata: {name: x}\n"),
			Bad: map[string]target.Files{
				"kubernetes.yaml": {"all.yaml": good["all.yaml"]},
				"all.yaml:2":      filesOf(shop, "\nkind: ConfigMap\n"),
			},
			Release: func(n int) target.Release {
				return target.Release{Number: n, Commit: fmt.Sprint("release-", n)}
			},
		}
	})
}

// named gives each application of the suite a namePrefix of its own, since what is declared of all is the same.
type named struct{ *Target }

func (n *named) Converge(d target.Declared) {
	if k, ok := d.Files["kustomization.yaml"]; ok {
		files := target.Files{}
		for name, data := range d.Files {
			files[name] = data
		}
		files["kustomization.yaml"] = append([]byte("namePrefix: "+d.Application+"-\n"), k...)
		d.Files = files
	}
	n.Target.Converge(d)
}

// subject is a running target, and what a test needs of it.
type subject struct {
	testing.TB
	*Target
	plane     *planetest.Plane
	own, shop string
	key       target.Key
	end       func()
}

func start(t testing.TB, p *planetest.Plane, own, shop string) *subject {
	t.Helper()
	s := &subject{
		TB:     t,
		Target: newTarget(t, p, own),
		plane:  p,
		own:    own,
		shop:   shop,
		key:    target.Key{Repository: "hello", Application: "web", Environment: "staging"},
	}
	if err := s.Target.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Target.Run(ctx) }()
	s.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.end)
	return s
}

func fresh(t testing.TB) *subject {
	p := planetest.Get(t)
	return start(t, p, p.Namespace(t, "agent"), p.Namespace(t, "shop"))
}

func (s *subject) declare(sequence int, manifests ...string) target.Declared {
	return target.Declared{
		Key:      s.key,
		Commit:   fmt.Sprint("commit-", sequence),
		Sequence: sequence,
		Files:    filesOf(s.shop, manifests...),
		Release:  target.Release{Number: sequence, Images: map[string]string{"web": "sha256:" + strings.Repeat("0", 64)}},
	}
}

func (s *subject) await(what string, ok func(o target.Observed) bool) target.Observed {
	s.Helper()
	changed, end := s.Target.Watch(s.key)
	defer end()
	late := time.After(2 * time.Minute)
	for {
		o := s.Target.Observe(s.key)
		if ok(o) {
			return o
		}
		select {
		case <-changed:
		case <-late:
			s.Fatalf("it is not %s: %s, place %d, %s, %+v", what, o.State, o.Sequence, o.Message, o.Units)
		}
	}
}

func is(sequence int, state target.State) func(target.Observed) bool {
	return func(o target.Observed) bool { return o.Sequence == sequence && o.State == state }
}

func (s *subject) get(resource, name string) *unstructured.Unstructured {
	s.Helper()
	u, err := s.Client.Resource(gvrOf(resource)).Namespace(s.shop).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return u
}

func (s *subject) there(resource, name string) bool {
	s.Helper()
	_, err := s.Client.Resource(gvrOf(resource)).Namespace(s.shop).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		s.Fatal(err)
	}
	return err == nil
}

// change changes an object as a person would, by hand.
func (s *subject) change(resource, name, merge string, sub ...string) {
	s.Helper()
	_, err := s.Client.Resource(gvrOf(resource)).Namespace(s.shop).Patch(s.Context(), name,
		types.MergePatchType, []byte(merge),
		metav1.PatchOptions{FieldManager: "somebody"}, sub...)
	if err != nil {
		s.Fatal(err)
	}
}

// gvrOf reads "apps/v1/deployments".
func gvrOf(resource string) schema.GroupVersionResource {
	parts := strings.Split(resource, "/")
	if len(parts) == 2 {
		parts = append([]string{""}, parts...)
	}
	return schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web
        resources: {limits: {cpu: 1000m, memory: 1Gi}}
`

// ready is the status that a controller writes of a Deployment that is as declared.
const ready = `{"status": {"observedGeneration": %d, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}}`

func TestDeployment(t *testing.T) {
	s := fresh(t)
	s.Converge(s.declare(1, deployment))
	o := s.await("waiting for its controller", func(o target.Observed) bool {
		return o.State == target.Converging && strings.Contains(o.Message, "not seen it yet")
	})
	if len(o.Units) != 1 || o.Units[0].Name != "deployment/web" {
		t.Errorf("%+v", o.Units)
	}
	got := s.get("apps/v1/deployments", "web")
	containers, _, _ := unstructured.NestedSlice(got.Object, "spec", "template", "spec", "containers")
	if image := containers[0].(map[string]any)["image"]; image != "git.example.org/hello/web@sha256:"+
		strings.Repeat("0", 64) {
		t.Errorf("its image is %v", image)
	}
	s.change("apps/v1/deployments", "web", fmt.Sprintf(ready, got.GetGeneration()), "status")
	s.await("healthy", is(1, target.Healthy))

	// What somebody changes by hand is changed back.
	s.change("apps/v1/deployments", "web", `{"spec": {"replicas": 5}}`)
	for late := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got = s.get("apps/v1/deployments", "web")
		if n, _, _ := unstructured.NestedInt64(got.Object, "spec", "replicas"); n == 2 {
			break
		}
		if time.Now().After(late) {
			t.Fatal("the number of replicas stays as somebody had it by hand")
		}
	}
	s.change("apps/v1/deployments", "web", fmt.Sprintf(ready, got.GetGeneration()), "status")
	s.await("healthy again", is(1, target.Healthy))

	// One that never becomes healthy has failed, for good.
	s.Converge(s.declare(2, strings.Replace(deployment, "replicas: 2", "replicas: 3", 1)))
	s.await("applied", func(o target.Observed) bool {
		return is(2, target.Converging)(o) && strings.Contains(o.Message, "its controller has seen generation")
	})
	got = s.get("apps/v1/deployments", "web")
	s.change("apps/v1/deployments", "web", fmt.Sprintf(`{"status": {"observedGeneration": %d, "conditions": [
		{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}]}}`, got.GetGeneration()), "status")
	if o := s.await("failed", is(2, target.Failed)); !o.RollBack ||
		!strings.Contains(o.Message, "ProgressDeadlineExceeded") {
		t.Errorf("%s, rolled back %v", o.Message, o.RollBack)
	}
}

func TestDriftIsReported(t *testing.T) {
	s := fresh(t)
	d := s.declare(1, fmt.Sprintf(configMap, "web", "one"))
	d.Drift = target.Report
	s.Converge(d)
	s.await("healthy", is(1, target.Healthy))
	s.change("v1/configmaps", "web", `{"data": {"says": "mine", "more": "x"}}`)
	o := s.await("degraded", is(1, target.Degraded))
	if !o.Unhealed || !strings.Contains(o.Message, "data.says is mine, and not one") ||
		strings.Contains(o.Message, "more") {
		t.Errorf("%+v", o)
	}
	// The next commit finds a field that somebody else has, and does not take it.
	d = s.declare(2, fmt.Sprintf(configMap, "web", "two"))
	d.Drift = target.Report
	s.Converge(d)
	o = s.await("failed", is(2, target.Failed))
	if !strings.Contains(o.Message, ".data.says") || !strings.Contains(o.Message, "somebody") {
		t.Errorf("%+v", o)
	}
	d.Drift = target.Heal
	s.Converge(d)
	s.await("healthy", is(2, target.Healthy))
	if data, _, _ := unstructured.NestedStringMap(s.get("v1/configmaps", "web").Object, "data"); !reflect.DeepEqual(data,
		map[string]string{"says": "two", "more": "x"}) {
		t.Errorf("it has %v", data)
	}
	// What is deleted comes back.
	if err := s.Client.Resource(configMaps).Namespace(s.shop).Delete(t.Context(), "web",
		metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(time.Minute); !s.there("v1/configmaps", "web"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("what was deleted stays so")
		}
	}
}

func TestPrune(t *testing.T) {
	s := fresh(t)
	protected := strings.Replace(configMap, "name: %s", "name: %s, annotations: {headgate.dev/prune: disabled}", 1)
	s.Converge(s.declare(1, fmt.Sprintf(configMap, "a", "x"), fmt.Sprintf(configMap, "b", "x"),
		fmt.Sprintf(protected, "c", "x")))
	s.await("healthy", is(1, target.Healthy))
	s.Converge(s.declare(2, fmt.Sprintf(configMap, "a", "x")))
	s.await("healthy", is(2, target.Healthy))
	if s.there("v1/configmaps", "b") || !s.there("v1/configmaps", "c") || !s.there("v1/configmaps", "a") {
		t.Error("the wrong objects are left")
	}
	// Another process goes on: it knows what there was, and takes nothing older.
	s.end()
	next := start(t, s.plane, s.own, s.shop)
	next.await("healthy", is(2, target.Healthy))
	if next.Fence(s.key) != 2 {
		t.Errorf("its fence is %d", next.Fence(s.key))
	}
	next.Converge(s.declare(3, fmt.Sprintf(configMap, "d", "x")))
	next.await("healthy", is(3, target.Healthy))
	if next.there("v1/configmaps", "a") {
		t.Error("what an earlier process applied is not pruned")
	}
	next.Remove(s.key, 3)
	next.await("gone", func(o target.Observed) bool { return reflect.DeepEqual(o, target.Observed{}) })
	if next.there("v1/configmaps", "d") || !next.there("v1/configmaps", "c") {
		t.Error("the wrong objects are left")
	}
	next.end()
	if again := start(t, s.plane, s.own, s.shop); again.Fence(s.key) != 3 || len(again.Keys()) != 0 {
		t.Errorf("fence %d, keys %v", again.Fence(s.key), again.Keys())
	}
}

// TestTwoAgents: of two agents on one environment the one with what is newer wins, whoever comes last.
func TestTwoAgents(t *testing.T) {
	s := fresh(t)
	other := start(t, s.plane, s.own, s.shop)
	s.Converge(s.declare(1, fmt.Sprintf(configMap, "a", "one")))
	s.await("healthy", is(1, target.Healthy))
	other.Converge(s.declare(2, fmt.Sprintf(configMap, "a", "two")))
	other.await("healthy", is(2, target.Healthy))
	s.change("v1/configmaps", "a", `{"data": {"says": "three"}}`)
	o := s.await("fenced", is(1, target.Failed))
	if o.RollBack || !strings.Contains(o.Message, "place 2") {
		t.Errorf("%+v", o)
	}
	for late := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if says, _, _ := unstructured.NestedString(s.get("v1/configmaps", "a").Object, "data", "says"); says == "two" {
			break
		}
		if time.Now().After(late) {
			t.Fatal("it does not become what is newer")
		}
	}
}

func TestWhatIsAnothersStays(t *testing.T) {
	s := fresh(t)
	s.Converge(s.declare(1, fmt.Sprintf(configMap, "a", "one")))
	s.await("healthy", is(1, target.Healthy))
	theirs := s.declare(1, fmt.Sprintf(configMap, "a", "two"))
	theirs.Application = "other"
	s.Converge(theirs)
	s.key = theirs.Key
	if o := s.await("failed", is(1, target.Failed)); !strings.Contains(o.Message, "another application (web-staging-") {
		t.Errorf("%+v", o)
	}
	if says, _, _ := unstructured.NestedString(s.get("v1/configmaps", "a").Object, "data", "says"); says != "one" {
		t.Errorf("it says %s", says)
	}
	s.Remove(theirs.Key, 1)
	s.await("gone", func(o target.Observed) bool { return o.Commit == "" })
	if !s.there("v1/configmaps", "a") {
		t.Error("what is another's was pruned")
	}
}

const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]ss.example.org, annotations: {headgate.dev/prune: enabled}}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Thing%[1]s, plural: %[1]ss, singular: %[1]s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// TestDefinitionAndObject: both in one promotion, in whatever order they are written.
func TestDefinitionAndObject(t *testing.T) {
	s := fresh(t)
	kind := "thing" + strings.ReplaceAll(s.shop, "-", "")
	d := s.declare(1, "apiVersion: example.org/v1\nkind: Thing"+kind+"\nmetadata: {name: x}\nspec: {a: 1}\n",
		fmt.Sprintf(definition, kind))
	s.Converge(d)
	s.await("healthy", is(1, target.Healthy))
	if !s.there("example.org/v1/"+kind+"s", "x") {
		t.Error("the object is not there")
	}
	s.Remove(s.key, 1)
	s.await("gone", func(o target.Observed) bool { return o.Commit == "" })
	if _, err := s.Client.Resource(gvrOf("apiextensions.k8s.io/v1/customresourcedefinitions")).Get(t.Context(),
		kind+"s.example.org", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the definition is still there: %v", err)
	}
}

// TestRefusals: what the cluster does not take is said, by object.
func TestRefusals(t *testing.T) {
	s := fresh(t)
	for i, c := range []struct{ manifest, want string }{
		{strings.Replace(deployment, "app: web}}\n  template", "app: other}}\n  template", 1),
			"Deployment " + s.shop + "/web: "},
		{strings.Replace(fmt.Sprintf(configMap, "x", "x"), "name: x", "name: x, namespace: nowhere", 1),
			"there is no namespace nowhere"},
		{strings.Replace(fmt.Sprintf(configMap, "x", "x"), "name: x", "name: x, namespace: "+s.own, 1),
			"which is the agent's own"},
		{"apiVersion: apps/v7\nkind: Deployment\nmetadata: {name: x}\n", "no kind Deployment of apps/v7"},
	} {
		s.Converge(s.declare(i+1, c.manifest))
		if o := s.await("failed", is(i+1, target.Failed)); !strings.Contains(o.Message, c.want) || !o.RollBack {
			t.Errorf("%q is not in %+v", c.want, o)
		}
	}
}

// TestPhantomsAreNoDrift: what the cluster writes otherwise than it was declared is no drift.
func TestPhantomsAreNoDrift(t *testing.T) {
	s := fresh(t)
	// The cluster says 1 where it says 1000m, which is known to be the same, and 1Gi, of which the cluster says so.
	s.Converge(s.declare(1, deployment+"      volumes: [{name: tmp, emptyDir: {sizeLimit: 1024Mi}}]\n"))
	s.await("waiting", func(o target.Observed) bool { return strings.Contains(o.Message, "not seen") })
	before := s.get("apps/v1/deployments", "web")
	s.change("apps/v1/deployments", "web", fmt.Sprintf(ready, before.GetGeneration()), "status")
	s.await("healthy", is(1, target.Healthy))
	if after := s.get("apps/v1/deployments", "web"); after.GetGeneration() != before.GetGeneration() {
		data, _ := json.Marshal(after.Object)
		t.Errorf("it was changed although nothing differs: %s", data)
	}
}

// TestKept: a Pod that is another one is the same agent, and its token is spent once it has enrolled.
func TestKept(t *testing.T) {
	s := fresh(t)
	_, err := s.Client.Resource(secrets).Namespace(s.own).Create(t.Context(),
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1",
			"kind":       "Secret",
			"metadata":   map[string]any{"name": "agent"},
			"stringData": map[string]any{"token": "once"},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := &Kept{Client: s.Client, Namespace: s.own, Name: "agent", Dir: t.TempDir()}
	if token, err := first.Load(t.Context()); token != "once" || err != nil {
		t.Fatalf("%q %v", token, err)
	}
	write := func(k *Kept, name, text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(filepath.Join(k.Dir, name), []byte(text), 0o600),
			k.Save(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	write(first, KeyName, "private")
	second := &Kept{Client: s.Client, Namespace: s.own, Name: "agent", Dir: t.TempDir()}
	if token, err := second.Load(t.Context()); token != "once" || err != nil {
		t.Fatalf("killed before it had enrolled: %q %v", token, err)
	}
	if key, err := os.ReadFile(filepath.Join(second.Dir, KeyName)); string(key) != "private" || err != nil {
		t.Errorf("its key is %q, %v", key, err)
	}
	write(second, "server.json", "{}")
	third := &Kept{Client: s.Client, Namespace: s.own, Name: "agent", Dir: t.TempDir()}
	if token, err := third.Load(t.Context()); token != "" || err != nil {
		t.Errorf("enrolled: %q %v", token, err)
	}
	if server, err := os.ReadFile(filepath.Join(third.Dir, "server.json")); string(server) != "{}" || err != nil {
		t.Errorf("its server is %q, %v", server, err)
	}
}
