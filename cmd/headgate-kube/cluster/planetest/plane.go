// Package planetest starts a real control plane for tests: an API server and its etcd, without controllers, scheduler
// and nodes. What those would do about Deployments and Jobs, Controllers does.
package planetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// programs says where the control plane's programs are: what .ci/kube/build prints.
const programs = "HEADGATE_KUBE_PROGRAMS"

// Plane is a real control plane, one for all tests of a package.
type Plane struct {
	Config *rest.Config // of its administrator

	dir  string
	etcd *exec.Cmd
	api  *exec.Cmd
}

var (
	onePlane  Plane
	startOnce sync.Once
	startErr  error
	made      atomic.Int64 // namespaces
)

// Main runs a package's tests, and ends what they have started.
func Main(m *testing.M) int {
	defer onePlane.stop()
	return m.Run()
}

// Get is the plane, started by whoever needs it first.
func Get(t testing.TB) *Plane {
	t.Helper()
	startOnce.Do(func() { startErr = onePlane.start() })
	if startErr != nil {
		t.Fatal(startErr)
	}
	return &onePlane
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func find(name string) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv(programs)) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s=%q: run make test-kubernetes", name, programs, os.Getenv(programs))
}

func (p *Plane) start() error {
	etcd, err := find("etcd")
	if err != nil {
		return err
	}
	api, err := find("kube-apiserver")
	if err != nil {
		return err
	}
	if p.dir, err = os.MkdirTemp("", "headgate-kube-"); err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	sa, tokens := filepath.Join(p.dir, "sa.key"), filepath.Join(p.dir, "tokens.csv")
	if err := os.WriteFile(sa, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
		Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(tokens, []byte("admin,admin,admin,\"system:masters\"\n"), 0o600); err != nil {
		return err
	}
	var ports [3]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	p.etcd, err = p.run(etcd, "--data-dir", filepath.Join(p.dir, "etcd"), "--listen-client-urls", client,
		"--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+
			peer, "--unsafe-no-fsync")
	if err != nil {
		return err
	}
	p.api, err = p.run(api, "--etcd-servers="+client, "--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", ports[2]),
		"--cert-dir="+filepath.Join(p.dir, "certs"), "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file="+sa,
		"--service-account-key-file="+sa, "--authorization-mode=RBAC", "--token-auth-file="+tokens,
		"--endpoint-reconciler-type=none", "--profiling=false")
	if err != nil {
		return err
	}
	p.Config = &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", ports[2]),
		BearerToken:     "admin",
		QPS:             200,
		Burst:           400,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
	asking, err := discovery.NewDiscoveryClientForConfig(p.Config)
	if err != nil {
		return err
	}
	for late := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		ready, err := asking.RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Raw()
		if err == nil && bytes.Equal(ready, []byte("ok")) {
			return nil
		}
		if time.Now().After(late) {
			log, _ := os.ReadFile(filepath.Join(p.dir, "kube-apiserver.log"))
			return fmt.Errorf("the API server does not become ready: %v\n%s", err, log[max(0, len(log)-5000):])
		}
	}
}

// run starts a program whose output goes to a file.
func (p *Plane) run(program string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(p.dir, filepath.Base(program)+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	return cmd, cmd.Start()
}

func (p *Plane) stop() {
	for _, cmd := range []*exec.Cmd{p.api, p.etcd} {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed
		}
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// Client is a client of its administrator.
func (p *Plane) Client(t testing.TB) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Namespace makes a namespace of the test's own.
func (p *Plane) Namespace(t testing.TB, what string) string {
	t.Helper()
	name := fmt.Sprintf("%s-%d", what, made.Add(1))
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name}}}
	gvr := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	if _, err := p.Client(t).Resource(gvr).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}
