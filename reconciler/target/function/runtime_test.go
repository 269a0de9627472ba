package function

import (
	"archive/zip"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCodeInZip: what people bring is a zip in the artifact; links that lead out of it, and
// out of the artifact, are refused.
func TestCodeInZip(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.Unpack = func(_ context.Context, _, dir string) error {
		if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, "hello.zip"))
		if err != nil {
			return err
		}
		defer f.Close()
		w := zip.NewWriter(f)
		header := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate}
		header.SetMode(0o755)
		entry, err := w.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := entry.Write(smallBootstrap); err != nil {
			return err
		}
		return w.Close()
	}
	h.declare(1, 1, files("functions: {hello: {code: hello.zip, timeout: 5m}}\n"))
	h.healthy(1)
	if resp, said := h.invoke("hello:live", `{}`); said != `"1"` {
		t.Errorf("%s: %s", resp.Status, said)
	}
	h.declare(2, 2, files("functions: {hello: {code: out}}\n"))
	if o := h.failed(2); !strings.Contains(o.Message, "the artifact has no out") {
		t.Errorf("a link out: %s", o.Message)
	}
}

// TestManagedRuntimes: the interpreter and the runtime client are found, or what is missing
// is said.
func TestManagedRuntimes(t *testing.T) {
	t.Parallel()
	code := t.TempDir()
	for runtime, c := range map[string]struct{ handler, client, interpreter, missing string }{
		"nodejs22.x": {"index.handler", "node_modules/aws-lambda-ric/bin/index.mjs", "node", "aws-lambda-ric"},
		"python3.13": {"app.handler", "awslambdaric/__main__.py", "python3", "awslambdaric"},
	} {
		config := Config{Runtime: runtime, Handler: c.handler}
		_, noInterpreter := interpreter(c.interpreter)
		_, err := config.command(code)
		switch {
		case err == nil:
			t.Errorf("%s runs without a client", runtime)
		case noInterpreter != nil && !strings.Contains(err.Error(), "is not installed below /usr on this machine"):
			t.Errorf("%s without interpreter: %v", runtime, err)
		case noInterpreter == nil && !strings.Contains(err.Error(), c.missing):
			t.Errorf("%s without client: %v", runtime, err)
		}
		client := filepath.Join(code, c.client)
		if err := os.MkdirAll(filepath.Dir(client), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(client, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		argv, err := config.command(code)
		if noInterpreter == nil && (err != nil || !slices.Contains(argv, c.handler) || !strings.HasPrefix(argv[0], "/usr/")) {
			t.Errorf("%s: %q, %v", runtime, argv, err)
		}
	}
	for _, runtime := range []string{"go1.x", "java21", "ruby3.3", "dotnet8", "python2.7", "cobol"} {
		if why, fix := refuseRuntime(runtime); why == "" || fix == "" {
			t.Errorf("%s is taken", runtime)
		}
	}
}
