package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/headgate-cd/headgate/cmd/headgate-kube/cluster/planetest"
)

// installed is a cluster to which the manifest of an agent was applied, and the agent's process. There is no node on
// which its Pod could run, so it runs here, with the account and the arguments that its Deployment gives it.
type installed struct {
	t      testing.TB
	server *server
	client dynamic.Interface // of the cluster's administrator
	mapper meta.ResettableRESTMapper
	args   []string // of the agent's container
	config string   // file of its kubeconfig
	cmd    *exec.Cmd
	exited chan error
}

// kubectl applies a manifest as `kubectl apply --server-side -f -` does.
func (c *installed) kubectl(manifest string) (applied []*unstructured.Unstructured) {
	c.t.Helper()
	for dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096); ; {
		u := &unstructured.Unstructured{}
		if err := dec.Decode(&u.Object); errors.Is(err, io.EOF) {
			return applied
		} else if err != nil {
			c.t.Fatalf("%v\n%s", err, manifest)
		}
		m, err := c.mapper.RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
		if err != nil {
			c.t.Fatal(err)
		}
		data, err := json.Marshal(u)
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err = c.client.Resource(m.Resource).Namespace(u.GetNamespace()).Patch(c.t.Context(), u.GetName(),
			types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: "kubectl"}); err != nil {
			c.t.Fatalf("apply %s %s: %v", u.GetKind(), u.GetName(), err)
		}
		applied = append(applied, u)
	}
}

// install has an agent be installed in the cluster by what the server prints.
func install(t testing.TB, s *server, enrol ...string) *installed {
	t.Helper()
	p := planetest.Get(t)
	asking, err := discovery.NewDiscoveryClientForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	c := &installed{
		t:      t,
		server: s,
		client: p.Client(t),
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(asking)),
	}
	for _, u := range c.kubectl(s.ask(append([]string{"agent", "enrol", "--kubernetes"}, enrol...)...)) {
		if u.GetKind() != "Deployment" {
			continue
		}
		containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		c.args, _, _ = unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
	}
	token, err := c.client.Resource(gvr("v1/serviceaccounts")).Namespace("headgate").Create(t.Context(),
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authentication.k8s.io/v1",
			"kind":       "TokenRequest",
			"metadata":   map[string]any{"name": "headgate-agent"},
			"spec":       map[string]any{"expirationSeconds": int64(3600)},
		}}, metav1.CreateOptions{}, "token")
	if err != nil {
		t.Fatal(err)
	}
	bearer, _, _ := unstructured.NestedString(token.Object, "status", "token")
	c.config = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: p.Config.Host, InsecureSkipTLSVerify: true}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"a": {Token: bearer}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "a"}},
		CurrentContext: "x",
	}, c.config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.signal(syscall.SIGTERM) })
	return c
}

// start starts the agent, as the cluster would its Pod.
func (c *installed) start(env ...string) {
	c.t.Helper()
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	c.cmd = exec.Command(filepath.Join(c.server.bin, "headgate-kube"), append(c.args, "--kubeconfig="+c.config)...)
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = append(os.Environ(), env...), log, log
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan error) { exited <- cmd.Wait() }(c.cmd, c.exited)
}

func (c *installed) log() string { return c.server.path("headgate-kube.log") }

func (c *installed) told() string {
	data, err := os.ReadFile(c.log())
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

// signal ends the agent's process.
func (c *installed) signal(sig syscall.Signal) {
	c.t.Helper()
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Signal(sig) // it may be gone
	c.ends()
}

// ends waits for the agent's process to end.
func (c *installed) ends() (err error) {
	c.t.Helper()
	select {
	case err = <-c.exited:
	case <-time.After(waitTimeout):
		c.t.Fatalf("the agent does not end:\n%s", c.told())
	}
	c.cmd = nil
	return err
}

// get reads an object, nil when it is not there.
func (c *installed) get(resource, namespace, name string) *unstructured.Unstructured {
	c.t.Helper()
	u, err := c.client.Resource(gvr(resource)).Namespace(namespace).Get(c.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return u
}

// gvr reads "apps/v1/deployments".
func gvr(s string) schema.GroupVersionResource {
	parts := strings.Split(s, "/")
	if len(parts) == 2 {
		parts = append([]string{""}, parts...)
	}
	return schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}
}

// may asks the cluster what the agent's account may do, as the agent itself.
func (c *installed) may(verb, group, resource, namespace, name string) bool {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := client.Resource(gvr("authorization.k8s.io/v1/selfsubjectaccessreviews")).Create(context.Background(),
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1",
			"kind":       "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": map[string]any{
				"verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name,
			}},
		}}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed")
	return allowed
}

const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "registry.example.org/%s"}]}
`

const migrate = `apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {headgate.dev/hook: before}}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: it, image: registry.example.org/migrate}]}}
`

func configMap(name, says, annotations string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, annotations: {%s}}\ndata: {says: %s}\n",
		name, annotations, says)
}

// definition has what the administrator of a cluster has to allow, as doc/kubernetes.md says: see mayDefine.
const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: example.org/v1
kind: Widget
metadata: {name: first}
spec: {size: 1}
`

const mayDefine = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: headgate-agent}
rules:
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get, list, watch, create, patch]}
- {apiGroups: [example.org], resources: [widgets], verbs: [get, list, watch, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: headgate-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: headgate-agent}
subjects: [{kind: ServiceAccount, name: headgate-agent, namespace: headgate}]
`

// TestClusterOfAServer: from a push to a cluster and back, by the programs as they are released.
func TestClusterOfAServer(t *testing.T) {
	p := planetest.Get(t)
	s := serve(t, programs(t))
	s.repository("shop")
	files := map[string]string{
		"buildspec.yml":                  "version: 0.2\nphases: {build: {commands: [\"true\"]}}\n",
		"headgate.yaml":                  "environments: {staging: {target: kubernetes, path: deploy/staging}}\n",
		"deploy/staging/kubernetes.yaml": "tags: {cluster: staging}\nnamespace: shop\n",
		"deploy/staging/web.yaml":        fmt.Sprintf(web, "web:1"),
		"deploy/staging/config.yaml":     configMap("config", "hello", ""),
		"deploy/staging/kept.yaml":       configMap("kept", "hello", "headgate.dev/prune: disabled"),
	}
	if out, err := s.push("shop", "First", files); err == nil || !strings.Contains(out, "no cluster has an agent") {
		t.Fatalf("a push before there is an agent: %v: %s", err, out)
	}

	for _, wrong := range []struct{ args, want string }{
		{"--image x", "add --kubernetes"},
		{"--kubernetes --image x", "with --namespace"},
		{"--kubernetes --namespace shop", "with --image"},
		{"--kubernetes --namespace shop --image not:a:name", "no name of an image"},
		{"--kubernetes --namespace headgate --image x", "is the agent's own"},
		{"--kubernetes --namespace shop,shop --image x", "given twice"},
		{"--kubernetes --namespace Shop --image x", "no name of a namespace"},
		{"--kubernetes --namespace shop --image x --tag target=hosts", "has the tag target=kubernetes"},
	} {
		if out, err := s.try("agent", "enrol", wrong.args); err == nil || !strings.Contains(out, wrong.want) {
			t.Errorf("agent enrol %s: %v: %s", wrong.args, err, out)
		}
	}
	c := install(t, s, "--name", "staging", "--tag", "cluster=staging", "--namespace", "shop", "--image",
		"registry.example.org/headgate-kube:1")
	p.Controllers(t, "shop")

	// It may do what it needs, and nothing else.
	for _, q := range []struct {
		verb, group, resource, namespace, name string
		may                                    bool
	}{
		{"patch", "apps", "deployments", "shop", "web", true},
		{"delete", "", "configmaps", "shop", "", true},
		{"watch", "batch", "jobs", "shop", "", true},
		{"update", "", "secrets", "headgate", "headgate-agent", true},
		{"create", "", "configmaps", "headgate", "", true},
		{"get", "", "secrets", "headgate", "another", false},
		{"delete", "", "configmaps", "headgate", "", false},
		{"create", "", "pods", "headgate", "", false},
		{"get", "", "secrets", "default", "", false},
		{"list", "", "secrets", "", "", false},
		{"patch", "apps", "deployments", "kube-system", "", false},
		{"create", "", "pods/exec", "shop", "", false},
		{"create", "", "serviceaccounts/token", "shop", "", false},
		{"create", "", "namespaces", "", "", false},
		{"create", "rbac.authorization.k8s.io", "rolebindings", "shop", "", false},
		{"impersonate", "", "users", "", "", false},
	} {
		if may := c.may(q.verb, q.group, q.resource, q.namespace, q.name); may != q.may {
			t.Errorf("it may %s %s %s in %q: %v", q.verb, q.group, q.resource, q.namespace, may)
		}
	}

	// It enrols once, and is the same agent when its Pod is another one.
	c.start("HEADGATE_CRASH_AT=join.accepted")
	c.ends()
	c.start()
	s.shows("agent list", "staging", "now, since")
	s.await("its token is gone", func() bool {
		data, _, _ := unstructured.NestedStringMap(c.get("v1/secrets", "headgate", "headgate-agent").Object, "data")
		return data["token"] == "" && data["key"] != "" && data["server.json"] != ""
	})
	c.signal(syscall.SIGKILL)
	c.start()

	// What lands is promoted, and applied.
	s.release("shop", "Second", map[string]string{"deploy/staging/web.yaml": fmt.Sprintf(web, "web:2")})
	s.shows("env show shop staging", "release 1, healthy", "deployment/web")
	replicas := func() int64 {
		n, _, _ := unstructured.NestedInt64(c.get("apps/v1/deployments", "shop", "web").Object, "spec", "replicas")
		return n
	}
	image := func() string {
		u := c.get("apps/v1/deployments", "shop", "web")
		containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		return containers[0].(map[string]any)["image"].(string)
	}
	if n, i := replicas(), image(); n != 2 || i != "registry.example.org/web:2" {
		t.Errorf("there are %d replicas of %s", n, i)
	}

	// What somebody changes by hand is healed.
	before := c.get("apps/v1/deployments", "shop", "web")
	if _, err := c.client.Resource(planetest.Deployments).Namespace("shop").Patch(t.Context(), "web", types.MergePatchType,
		[]byte(`{"spec": {"replicas": 5}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
		t.Fatal(err)
	}
	s.await("the replicas are as declared", func() bool {
		return replicas() == 2 && c.get("apps/v1/deployments", "shop", "web").GetGeneration() > before.GetGeneration()
	})
	s.shows("env show shop staging", "release 1, healthy")

	// A definition and its object in one promotion, once whoever runs the cluster allows it.
	c.kubectl(mayDefine)
	s.release("shop", "Third", map[string]string{"deploy/staging/widget.yaml": definition})
	s.shows("env show shop staging", "release 2, healthy")
	if c.get("example.org/v1/widgets", "shop", "first") == nil {
		t.Error("the object of the new kind is not there")
	}

	// What never becomes healthy comes back by a commit.
	s.release("shop", "Fourth", map[string]string{"deploy/staging/web.yaml": fmt.Sprintf(web, "broken:3")})
	s.shows("env show shop staging", "release 2, healthy", "hold", "no cluster has succeeded")
	if i := image(); i != "registry.example.org/web:2" {
		t.Errorf("the cluster has %s", i)
	}
	if out, err := s.git("shop", "fetch", "-q", "ssh://"+s.ssh+"/shop", "env/staging"); err != nil {
		t.Fatalf("git fetch: %v: %s", err, out)
	}
	said, err := s.git("shop", "log", "-2", "--format=%s", "FETCH_HEAD")
	if !regexp.MustCompile(`^roll ?back .*\npromote .*\n$`).MatchString(said) {
		t.Errorf("Git says: %v: %s", err, said)
	}
	text, err := s.git("shop", "show", "FETCH_HEAD:apps/shop/web.yaml")
	if !strings.Contains(text, "web:2") {
		t.Errorf("Git has: %v: %s", err, text)
	}

	// Killed between two steps of applying and pruning, it goes on; what is protected stays. What was declared before it
	// claims once more when it starts, and has nothing to apply; of what is declared then it applies four objects.
	points := []string{"kube.claimed:2", "kube.applied", "kube.applied:4", "kube.pruned", "kube.settled:2",
		"kube.hook-started", "kube.hook-done"}
	for i, point := range points {
		c.signal(syscall.SIGTERM)
		passed := s.path(fmt.Sprintf("passed-%d", i))
		c.start("HEADGATE_CRASH_AT="+point, "HEADGATE_CRASH_LOG="+passed)
		s.await("what was declared before is settled", func() bool {
			text, _ := os.ReadFile(passed)
			return strings.Contains(string(text), "kube.settled")
		})
		name := fmt.Sprintf("config-%d", i)
		files := map[string]string{
			"deploy/staging/web.yaml":    fmt.Sprintf(web, "web:"+fmt.Sprint(4+i)),
			"deploy/staging/config.yaml": configMap(name, "hello", ""),
			"deploy/staging/kept.yaml":   "",
		}
		if strings.Contains(point, "hook") {
			files["deploy/staging/migrate.yaml"] = migrate
		}
		s.release("shop", point, files)
		if i == 0 { // the hold ends by a person's word
			s.await("the hold is lifted", func() bool {
				out, err := s.try("approve", "shop", "staging")
				return err == nil && strings.Contains(out, "release 4")
			})
		}
		if err := c.ends(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("it was not killed at %s: %v\n%s", point, err, c.told())
		}
		c.start()
		s.shows("env show shop staging", fmt.Sprintf("release %d, healthy", 4+i))
		if c.get("v1/configmaps", "shop", name) == nil || c.get("v1/configmaps", "shop", "kept") == nil {
			t.Errorf("killed at %s: what is declared, or protected, is not there", point)
		}
		for j := range i {
			if was := fmt.Sprintf("config-%d", j); c.get("v1/configmaps", "shop", was) != nil {
				t.Errorf("killed at %s: %s is there still", point, was)
			}
		}
		if c.get("v1/configmaps", "shop", "config") != nil {
			t.Errorf("killed at %s: what is declared no more is there still", point)
		}
	}

	jobs, err := c.client.Resource(planetest.Jobs).Namespace("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(jobs.Items) != 1 {
		t.Errorf("there are %d Jobs of hooks, %v", len(jobs.Items), err)
	}

	// A server that comes back finds it as it was.
	generation := c.get("apps/v1/deployments", "shop", "web").GetGeneration()
	s.stop()
	s.start()
	last := fmt.Sprintf("release %d, healthy", 3+len(points))
	s.shows("env show shop staging", last)
	if now := c.get("apps/v1/deployments", "shop", "web").GetGeneration(); now != generation {
		t.Errorf("it was applied again: generation %d was %d", now, generation)
	}

	// One whose key is gone is gone for good, and what it applied stays.
	s.ask("agent", "remove", "staging")
	s.await("it has been refused", func() bool { return strings.Contains(c.told(), "unable to authenticate") })
	if c.get("apps/v1/deployments", "shop", "web") == nil {
		t.Error("what was applied is gone")
	}
	if out := s.shows("env show shop staging", "no cluster"); strings.Contains(out, last) {
		t.Errorf("it is shown as healthy that nobody looks at:\n%s", out)
	}
}

// TestImage: what the manifest names is made of the program alone, and runs as nobody.
func TestImage(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "headgate-kube.tar")
	assemble := exec.Command("go", "run", "./.ci/image", filepath.Join(programs(t), "headgate-kube"), archive)
	assemble.Dir = "../.."
	if out, err := assemble.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("skopeo", "inspect", "--config", "docker-archive:"+archive).Output()
	if err != nil {
		t.Fatal(err)
	}
	var image struct {
		Config struct {
			User       string
			Entrypoint []string
		}
	}
	if err := json.Unmarshal(out, &image); err != nil {
		t.Fatal(err)
	}
	if image.Config.User != "65532:65532" || !slices.Equal(image.Config.Entrypoint, []string{"/headgate-kube"}) {
		t.Errorf("it is %s", out)
	}
}
