package check_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/check"
	"github.com/headgate-cd/headgate/policies"
)

// TestMain is also the process that judges policies in these tests.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "policy-worker" {
		policies.Work()
		return
	}
	defer pool.Close()
	m.Run()
}

var pool = &policies.Pool{Program: []string{"/proc/self/exe", "policy-worker"}}

// checker knows a target whose file says what is wrong with it.
var checker = &check.Checker{Policies: pool.Check, Targets: map[string]check.Target{"services": {
	Reads: []string{"compose.yaml", "compose.yml"},
	Check: func(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
		data, ok := files["compose.yaml"]
		if !ok {
			problems = append(problems, yamlfile.Problem{File: dir + "/compose.yaml", What: "is not there"})
		}
		if strings.Contains(string(data), "wrong") {
			problems = append(problems, yamlfile.Problem{File: dir + "/compose.yaml", Line: 1, What: "is wrong"})
		}
		if strings.Contains(string(data), "odd") {
			warnings = append(warnings, yamlfile.Problem{File: dir + "/compose.yaml", Line: 1, What: "is odd"})
		}
		return problems, warnings
	},
	Addresses: func(dir string, files map[string][]byte) (all []check.Address) {
		for i, line := range strings.Split(string(files["compose.yaml"]), "\n") {
			a, err := netip.ParseAddrPort(line)
			if port, isBare := strings.CutPrefix(line, ":"); isBare {
				n, bad := strconv.ParseUint(port, 10, 16)
				a, err = netip.AddrPortFrom(netip.Addr{}, uint16(n)), bad
			}
			if err == nil {
				all = append(all, check.Address{AddrPort: a, File: dir + "/compose.yaml", Line: i + 1})
			}
		}
		return all
	},
	Parts: func(dir string, files map[string][]byte) (all []check.Part) {
		for i, line := range strings.Split(string(files["compose.yaml"]), "\n") {
			if kind, name, ok := strings.Cut(line, " of "); ok {
				all = append(all, check.Part{Name: name, Image: kind == "image", For: "web", File: dir + "/compose.yaml",
					Line: i + 1})
			}
		}
		return all
	},
}}}

const good = "version: 0.2\nphases: {build: {commands: [make test]}}\n"

// said is a result as lines: problems, "warning: …", "missing …".
func said(r check.Result) string {
	var lines []string
	for _, p := range r.Problems {
		lines = append(lines, p.Error())
	}
	for _, w := range r.Warnings {
		lines = append(lines, "warning: "+w.Error())
	}
	if r.Missing != nil {
		lines = append(lines, "missing "+r.Missing.File)
	}
	return strings.Join(lines, "\n")
}

func TestTree(t *testing.T) {
	t.Parallel()
	const staging = "environments: {staging: {target: services, path: deploy/staging}}\n"
	const two = "environments: {a: {target: services}, b: {target: services}}\n"
	const packs = good + "artifacts: {name: v1, files: x, secondary-artifacts: {web: {files: x}}}\n"
	const images = "images: {site: {artifact: web, entrypoint: [/x]}}\n"
	const nightly = "schedules:\n- name: n\n  cron: '@daily'\n  buildspec: nightly.yml\n"
	for _, tt := range []struct {
		name  string
		files map[string]string // "-> target" is a link
		read  string
		want  []string // in what is said; none: nothing is said
	}{
		{"smallest", map[string]string{"buildspec.yml": good}, "buildspec.yml", nil},
		{"nothing", map[string]string{"README": "x"}, "",
			[]string{"buildspec.yml: is not there: nothing says how to test this tree; run `headgate init`",
				"missing buildspec.yml"}},
		{"a link", map[string]string{"buildspec.yml": "-> ci.yml", "ci.yml": good}, "",
			[]string{"buildspec.yml: is a symbolic link, not a file", "put the file itself there"}},
		{"a directory", map[string]string{"buildspec.yml/x": "1"}, "", []string{"buildspec.yml: is a directory, not a file"}},
		{"the other ending", map[string]string{"buildspec.yaml": good}, "",
			[]string{"rename buildspec.yaml to buildspec.yml"}},
		{"other case", map[string]string{"BuildSpec.yml": good}, "", []string{"rename BuildSpec.yml to buildspec.yml"}},
		{"moved", map[string]string{"headgate.yaml": "build: {buildspec: ci/b.yml}", "ci/b.yml": good},
			"ci/b.yml headgate.yaml", nil},
		{"moved and broken", map[string]string{"headgate.yaml": "build: {buildspec: ci/b.yml}",
			"ci/b.yml": "version: 0.2\nphases:\n  biuld: {}\n"}, "ci/b.yml headgate.yaml", []string{"ci/b.yml:3:",
			`did you mean "build"?`}},
		{"moved and not there", map[string]string{"headgate.yaml": "build: {buildspec: ci/b.yml}", "buildspec.yml": good},
			"headgate.yaml", []string{"missing ci/b.yml"}},
		{"behind a link", map[string]string{"headgate.yaml": "build: {buildspec: ci/b.yml}", "ci": "-> real",
			"real/b.yml": good}, "headgate.yaml", []string{"missing ci/b.yml"}},
		{"builtin is the server's own", map[string]string{"headgate.yaml": "build: {buildspec: 'builtin:server.yaml'}"},
			"headgate.yaml", []string{"missing builtin:server.yaml"}},
		{"settings broken", map[string]string{"headgate.yaml": "enviroments: {}", "buildspec.yml": good},
			"buildspec.yml headgate.yaml", []string{"headgate.yaml:1:", "environments"}},
		{"settings a link", map[string]string{"headgate.yaml": "-> x", "buildspec.yml": good}, "buildspec.yml",
			[]string{"headgate.yaml: is a symbolic link"}},
		{"environment", map[string]string{"headgate.yaml": staging, "buildspec.yml": good,
			"deploy/staging/compose.yaml": "fine",
			"deploy/staging/other":        "1"}, "buildspec.yml deploy/staging/compose.yaml headgate.yaml", nil},
		{"environment without its file", map[string]string{"headgate.yaml": staging, "buildspec.yml": good,
			"deploy/staging/x": "1"}, "buildspec.yml headgate.yaml", []string{"deploy/staging/compose.yaml: is not there"}},
		{"environment without its directory",
			map[string]string{"headgate.yaml": staging, "buildspec.yml": good, "deploy/x": "1"}, "buildspec.yml headgate.yaml",
			[]string{`headgate.yaml:1: environment "staging" is declared in deploy/staging, which is not there`}},
		{"environment a file", map[string]string{"headgate.yaml": staging, "buildspec.yml": good, "deploy/staging": "1"},
			"buildspec.yml headgate.yaml", []string{"which is a file"}},
		{"unknown target", map[string]string{"headgate.yaml": "environments:\n  staging:\n    target: servcies\n",
			"buildspec.yml": good}, "buildspec.yml headgate.yaml",
			[]string{`headgate.yaml:3: environment "staging" has the target "servcies", which this server does not have; did you mean "services"?`}},
		{"one port for two", map[string]string{"headgate.yaml": two, "buildspec.yml": good,
			"deploy/a/compose.yaml": "127.0.0.1:80", "deploy/b/compose.yaml": "x\n0.0.0.0:80"},
			"buildspec.yml deploy/a/compose.yaml deploy/b/compose.yaml headgate.yaml",
			[]string{`deploy/b/compose.yaml:2: 0.0.0.0:80 of environment "b" is that of environment "a" too (deploy/a/compose.yaml:1: 127.0.0.1:80); give one of them another port`}},
		{"one port twice in one", map[string]string{"headgate.yaml": two, "buildspec.yml": good,
			"deploy/a/compose.yaml": "127.0.0.1:80\n127.0.0.1:80", "deploy/b/compose.yaml": "127.0.0.1:81\n127.0.0.2:80"},
			"buildspec.yml deploy/a/compose.yaml deploy/b/compose.yaml headgate.yaml",
			[]string{`deploy/a/compose.yaml:2: environment "a" asks for 127.0.0.1:80 twice (deploy/a/compose.yaml:1: 127.0.0.1:80)`}},
		{"environment wrong and odd",
			map[string]string{"headgate.yaml": staging, "buildspec.yml": good, "deploy/staging/compose.yaml": "wrong odd"},
			"buildspec.yml deploy/staging/compose.yaml headgate.yaml",
			[]string{"compose.yaml:1: is wrong", "warning: deploy/staging/compose.yaml:1: is odd"}},
		{"artifacts that there will be", map[string]string{"headgate.yaml": staging + images, "buildspec.yml": packs,
			"deploy/staging/compose.yaml": "artifact of web\nimage of site\nartifact of v1"},
			"buildspec.yml deploy/staging/compose.yaml headgate.yaml", nil},
		{"an unknown artifact", map[string]string{"headgate.yaml": staging, "buildspec.yml": packs,
			"deploy/staging/compose.yaml": "artifact of web\nartifact of wob\nimage of site"},
			"buildspec.yml deploy/staging/compose.yaml headgate.yaml", []string{
				`compose.yaml:2: web: artifact "wob", which the build does not have; did you mean "web"?`,
				`compose.yaml:3: web: image "site", which headgate.yaml does not make`}},
		{"no artifact at all", map[string]string{"headgate.yaml": staging + "images: {site: {entrypoint: [/x]}}\n",
			"buildspec.yml": good, "deploy/staging/compose.yaml": "artifact of main"},
			"buildspec.yml deploy/staging/compose.yaml headgate.yaml", []string{
				`headgate.yaml:2: image "site" is made of artifact "main", which the build does not have; list its files`,
				`compose.yaml:1: web: artifact "main", which the build does not have; list its files`}},
		{"an artifact whose name the build makes", map[string]string{"headgate.yaml": staging,
			"buildspec.yml":               strings.Replace(packs, "name: v1", "name: v$N", 1),
			"deploy/staging/compose.yaml": "artifact of v7"},
			"buildspec.yml deploy/staging/compose.yaml headgate.yaml", nil},
		{"artifacts of a batch", map[string]string{"headgate.yaml": staging,
			"buildspec.yml": packs + "batch: {build-list: [{identifier: a}, {identifier: b, buildspec: b.yml}]}\n", "b.yml": packs,
			"deploy/staging/compose.yaml": "artifact of a/v1\nartifact of b/web\nartifact of web"},
			"b.yml buildspec.yml deploy/staging/compose.yaml headgate.yaml", []string{
				`compose.yaml:3: web: artifact "web", which the build does not have; `}},
		{"artifacts of applications", map[string]string{"buildspec.yml": packs,
			"headgate.yaml": images + "applications:\n  one:\n    artifacts: [web, site]\n    environments: {a: {target: services}}\n" +
				"  two:\n    artifacts: [v2]\n    environments: {}\n",
			"one/deploy/a/compose.yaml": "artifact of web\nimage of site\nartifact of v1"},
			"buildspec.yml headgate.yaml one/deploy/a/compose.yaml", []string{
				`headgate.yaml:7: application "two" has artifact "v2", which the build does not have; did you mean "v1"?`,
				`compose.yaml:3: web: artifact "v1", which is none of application "one"; name one of: web, site`}},
		{"schedule", map[string]string{"headgate.yaml": nightly, "buildspec.yml": good, "nightly.yml": good},
			"buildspec.yml headgate.yaml nightly.yml", nil},
		{"schedule without its buildspec", map[string]string{"headgate.yaml": nightly, "buildspec.yml": good,
			"nightly.yaml": good}, "buildspec.yml headgate.yaml",
			[]string{`headgate.yaml:4: schedule "n" builds by nightly.yml, which is not there; did you mean "nightly.yaml"?`}},
		{"schedule's buildspec broken", map[string]string{"headgate.yaml": nightly, "buildspec.yml": good,
			"nightly.yml": "version: 9\n"}, "buildspec.yml headgate.yaml nightly.yml",
			[]string{"nightly.yml:1:"}},
		{"schedule never", map[string]string{"headgate.yaml": "schedules:\n- name: n\n  cron: 61 * * * *\n",
			"buildspec.yml": good}, "buildspec.yml headgate.yaml",
			[]string{`headgate.yaml:3: schedule "n": invalid schedule "61 * * * *"`}},
		{"schedule nowhere", map[string]string{"headgate.yaml": "schedules:\n- name: n\n  cron: '@daily'\n  zone: Prague\n",
			"buildspec.yml": good}, "buildspec.yml headgate.yaml",
			[]string{`headgate.yaml:4: schedule "n": unknown time zone "Prague"`}},
		{"policy broken", map[string]string{"buildspec.yml": good,
			"policies/a/push.rego": "package headgate.push\n\ndeny contains x if http.send({})\n"}, "buildspec.yml policies/a/push.rego", []string{"policies/a/push.rego:3:"}},
		{"policy behind a link", map[string]string{"buildspec.yml": good, "policies": "-> rules",
			"rules/push.rego": "nonsense"}, "buildspec.yml", nil},
		{"too big", map[string]string{"buildspec.yml": strings.Repeat("#", yamlfile.MaxBytes+1)}, "",
			[]string{"buildspec.yml: is 1048577 bytes, over the limit"}},
		{"a batch", map[string]string{"buildspec.yml": "version: 0.2\nbatch:\n  build-list:\n    - {identifier: a, buildspec: ci/a.yml}\n    - {identifier: b, buildspec: ci/b.yml}\n", "ci/a.yml": "version: 9\n"}, "buildspec.yml ci/a.yml", []string{"buildspec.yml:5: task b of the batch builds by ci/b.yml, which is not there", "ci/a.yml:1:10: version"}},
		{"all at once", map[string]string{"headgate.yaml": staging, "buildspec.yml": "version: 9\n",
			"deploy/staging/compose.yaml": "wrong"}, "buildspec.yml deploy/staging/compose.yaml headgate.yaml", []string{"buildspec.yml:1:", "compose.yaml:1: is wrong"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for kind, files := range everyWay(t, tt.files) {
				r, err := checker.Tree(t.Context(), files)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				text := said(r)
				if len(tt.want) == 0 && text != "" {
					t.Errorf("%s: said\n%s\nwant nothing", kind, text)
				}
				for _, want := range tt.want {
					if !strings.Contains(text, want) {
						t.Errorf("%s: said\n%s\nwant %q", kind, text, want)
					}
				}
				if got := strings.Join(r.Read, " "); got != tt.read {
					t.Errorf("%s: read %q, want %q", kind, got, tt.read)
				}
			}
		})
	}
}

// What is on the server is seen by a push that a laptop cannot see.
func TestServer(t *testing.T) {
	t.Parallel()
	config, err := access.Parse("server.yaml", []byte(`users: {ada: {keys: ["`+key+`"]}}
groups: {administrators: [ada], release: [ada]}
`))
	if err != nil {
		t.Fatal(err)
	}
	c := *checker
	c.Server = &check.Server{
		Access: config,
		Holder: func(a netip.AddrPort) (string, error) {
			if a.Port() == 80 {
				return "live of hello", nil
			}
			return "", nil
		},
	}
	files := fstest.MapFS{}
	for name, content := range map[string]string{
		"buildspec.yml": good,
		"headgate.yaml": `environments:
  a: {target: services, approvals: {from: everyone}}
  b:
    target: services
    approvals: {from: relaese}
schedules:
- {name: n, cron: "@daily", notify: ada}
- {name: o, cron: "@daily", notify: adda}
`,
		"deploy/a/compose.yaml": "127.0.0.1:79\n127.0.0.1:80",
		"deploy/b/compose.yaml": "",
	} {
		files[name] = &fstest.MapFile{Data: []byte(content)}
	}
	r, err := c.Tree(t.Context(), files)
	const want = `deploy/a/compose.yaml:2: 127.0.0.1:80 of environment "a" is held by live of hello; declare another port; 0 is any free one
headgate.yaml:5: approvals of environment "b" are asked of "relaese", which is not a group of this server; did you mean "release"?
headgate.yaml:8: schedule "o" notifies "adda", which is not a user or group of this server; did you mean "ada"?`
	if got := said(r); err != nil || got != want {
		t.Errorf("said\n%s\n%v, want\n%s", got, err, want)
	}
	if r, err := checker.Tree(t.Context(), files); err != nil || said(r) != "" {
		t.Errorf("a laptop said %q, %v", said(r), err)
	}
}

// TestPortsWithoutAnAddress: Compose would listen everywhere; who relies on that is
// told, unless the server says where.
func TestPortsWithoutAnAddress(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{}
	for name, content := range map[string]string{
		"buildspec.yml":         good,
		"headgate.yaml":         "environments: {a: {target: services}, b: {target: services}}\n",
		"deploy/a/compose.yaml": ":8000\n:0\n127.0.0.1:0\n0.0.0.0:8001",
		"deploy/b/compose.yaml": "127.0.0.1:8000",
	} {
		files[name] = &fstest.MapFile{Data: []byte(content)}
	}
	const (
		twice = "deploy/b/compose.yaml:1: 127.0.0.1:8000 of environment \"b\" is that of environment \"a\" too " +
			"(deploy/a/compose.yaml:1: %s:8000); give one of them another port; 0 is any free one"
		reach = "\nwarning: deploy/a/compose.yaml:%d: %s is reached from the server's machine%s only, where Compose would listen everywhere; " +
			"write \"0.0.0.0:%d:…\" for everywhere, or \"127.0.0.1:%d:…\" to say that it is meant"
	)
	warned := func(unless string) string {
		return fmt.Sprintf(reach, 1, "port 8000", unless, 8000, 8000) + fmt.Sprintf(reach, 2, "any free port", unless, 0, 0)
	}
	user := "users: {ada: {keys: [\"" + key + "\"]}}\ngroups: {administrators: [ada]}\n"
	for name, tt := range map[string]struct {
		server string
		want   string
	}{
		"a laptop":                 {"", fmt.Sprintf(twice, "127.0.0.1") + warned(" (unless its server.yaml says address:)")},
		"a server that says none":  {user, fmt.Sprintf(twice, "127.0.0.1") + warned("")},
		"a server that says where": {user + "address: 0.0.0.0\n", fmt.Sprintf(twice, "0.0.0.0")},
	} {
		c := *checker
		if tt.server != "" {
			config, err := access.Parse("server.yaml", []byte(tt.server))
			if err != nil {
				t.Fatal(err)
			}
			c.Server = &check.Server{Access: config}
		}
		r, err := c.Tree(t.Context(), files)
		if got := said(r); err != nil || got != tt.want {
			t.Errorf("%s: said\n%s\n%v, want\n%s", name, got, err, tt.want)
		}
	}
}

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICh4RXstWIuzJvE0gaJLRaDfs9efSCdiZLwgMyFzafWR"

// everyWay is the same tree as each file system that Tree is used with.
func everyWay(t *testing.T, files map[string]string) map[string]check.Files {
	t.Helper()
	dir := t.TempDir()
	edits := map[string]repo.Edit{}
	store := newRepository(t)
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := filemode.Regular
		link, isLink := strings.CutPrefix(content, "-> ")
		var err error
		if isLink {
			mode, content = filemode.Symlink, link
			err = os.Symlink(link, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		blob := repo.Blob([]byte(content))
		if err := store.Write(blob); err != nil {
			t.Fatal(err)
		}
		edits[name] = repo.Edit{Mode: mode, Hash: blob.Hash()}
	}
	tree, err := store.TreeWith(repo.Zero, edits)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return map[string]check.Files{"a repository": store.FilesOf(tree), "a work tree": root.FS().(check.Files)}
}

func newRepository(t *testing.T) *repo.Repository {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	store, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r, err := store.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestServerTree(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":                        "server.yaml: is not there",
		"users: {}\ngruops: {}\n": `server.yaml:2: unknown key "gruops"`,
	} {
		files := map[string]string{"README": "x"}
		if content != "" {
			files["server.yaml"] = content
		}
		for kind, fsys := range everyWay(t, files) {
			r, err := checker.ServerTree(t.Context(), fsys)
			if err != nil || !strings.Contains(said(r), want) {
				t.Errorf("%s: said %q, %v; want %q", kind, said(r), err, want)
			}
		}
	}
}

// Whatever a tree holds, reading it ends within its bounds and says so.
func TestTreeBounds(t *testing.T) {
	t.Parallel()
	many, deep := fstest.MapFS{}, fstest.MapFS{}
	for i := range 3000 {
		many[fmt.Sprintf("policies/%d/x.rego", i)] = &fstest.MapFile{Data: []byte("package headgate.push\n")}
	}
	for i := range 30 {
		deep["policies/"+strings.Repeat("d/", i)+"x.txt"] = &fstest.MapFile{}
	}
	for want, fsys := range map[string]fstest.MapFS{"more than 2000 files": many, "nests deeper than 16": deep} {
		fsys["buildspec.yml"] = &fstest.MapFile{Data: []byte(good)}
		r, err := checker.Tree(t.Context(), fsys)
		if err != nil || !strings.Contains(said(r), want) {
			t.Errorf("said %.300q, %v; want %q", said(r), err, want)
		}
	}

	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := checker.Tree(done, many); err == nil {
		t.Error("a tree was read although the context was done")
	}
}

// Measure agrees with counting one by one, and does not expand what is shared.
func TestMeasure(t *testing.T) {
	t.Parallel()
	limit := repo.Extent{Entries: 1 << 40, Bytes: 1 << 40, Depth: 100, Paths: 1 << 40}
	rapid.Check(t, func(t *rapid.T) {
		trees := map[repo.Hash][]repo.Entry{}
		naive := map[repo.Hash]repo.Extent{}
		paths := map[repo.Hash][]string{} // of files
		sizes := map[repo.Hash]int64{}
		hash := func(n int) (h repo.Hash) { h[0], h[1] = byte(n), byte(n>>8)+1; return h }
		for i := range rapid.IntRange(1, 12).Draw(t, "trees") {
			x := repo.Extent{Depth: 1}
			var entries []repo.Entry
			for j := range rapid.IntRange(0, 5).Draw(t, "entries") {
				e := repo.Entry{Name: fmt.Sprint(j), Mode: filemode.Regular, Hash: hash(1000 + j)}
				sizes[e.Hash] = int64(j * 10)
				if i > 0 && rapid.Bool().Draw(t, "directory") {
					e.Mode, e.Hash = filemode.Dir, hash(rapid.IntRange(0, i-1).Draw(t, "which"))
					sub := naive[e.Hash]
					x.Entries += sub.Entries
					x.Bytes += sub.Bytes
					x.Depth = max(x.Depth, sub.Depth+1)
					for _, below := range paths[e.Hash] {
						paths[hash(i)] = append(paths[hash(i)], e.Name+"/"+below)
					}
				} else {
					x.Bytes += int64(j * 10)
					paths[hash(i)] = append(paths[hash(i)], e.Name)
				}
				x.Entries++
				entries = append(entries, e)
			}
			x.Files = int64(len(paths[hash(i)]))
			for _, p := range paths[hash(i)] {
				x.Paths += int64(len(p) + 1)
			}
			trees[hash(i)], naive[hash(i)] = entries, x
		}
		reads := 0
		top := hash(len(trees) - 1)
		got, err := repo.Measure(context.Background(), top, limit, func(h repo.Hash) ([]repo.Entry, error) {
			reads++
			return trees[h], nil
		}, func(h repo.Hash) (int64, error) { return sizes[h], nil }, map[repo.Hash]repo.Extent{})
		if err != nil || got != naive[top] || reads > len(trees) {
			t.Fatalf("Measure = %+v, %v in %d reads; want %+v in at most %d", got, err, reads, naive[top], len(trees))
		}
	})
}

func TestMeasureLimits(t *testing.T) {
	t.Parallel()
	leaf, mid, top := repo.Hash{1}, repo.Hash{2}, repo.Hash{3}
	trees := map[repo.Hash][]repo.Entry{
		leaf: {{Name: "a", Mode: filemode.Regular, Hash: repo.Hash{9}},
			{Name: "b", Mode: filemode.Regular, Hash: repo.Hash{9}}},
		mid: {{Name: "x", Mode: filemode.Dir, Hash: leaf}, {Name: "y", Mode: filemode.Dir, Hash: leaf}},
		top: {{Name: "p", Mode: filemode.Dir, Hash: mid}, {Name: "q", Mode: filemode.Submodule, Hash: repo.Hash{8}}},
	}
	for _, tt := range []struct {
		limit repo.Extent
		want  string
	}{
		{repo.Extent{Entries: 8, Bytes: 400, Depth: 3, Paths: 30}, ""}, // p/x/a, p/x/b, p/y/a, p/y/b, q
		{repo.Extent{Entries: 7, Bytes: 400, Depth: 3, Paths: 30}, "the tree holds more than 7 entries"},
		{repo.Extent{Entries: 5, Bytes: 400, Depth: 3, Paths: 30}, "p holds more than 5 entries"},
		{repo.Extent{Entries: 8, Bytes: 399, Depth: 3, Paths: 30}, "p holds more than 399 bytes"},
		{repo.Extent{Entries: 8, Bytes: 99, Depth: 3, Paths: 30}, "p/x/a holds more than 99 bytes"},
		{repo.Extent{Entries: 8, Bytes: 400, Depth: 2, Paths: 30}, "p/x holds more than 2 levels"},
		{repo.Extent{Entries: 8, Bytes: 400, Depth: 3, Paths: 25}, "the tree holds more than 25 bytes of paths"},
		{repo.Extent{Entries: 8, Bytes: 400, Depth: 3, Paths: 15}, "p holds more than 15 bytes of paths"},
	} {
		_, err := repo.Measure(t.Context(), top, tt.limit, func(h repo.Hash) ([]repo.Entry, error) { return trees[h], nil },
			func(repo.Hash) (int64, error) { return 100, nil }, map[repo.Hash]repo.Extent{})
		if err == nil && tt.want != "" || err != nil && err.Error() != tt.want {
			t.Errorf("%+v: %v, want %q", tt.limit, err, tt.want)
		}
	}
}

// What files name is read too, directories whole, and nothing else.
func TestFilesThatFilesName(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"buildspec.yml":             "version: 0.2\nphases: {build: {commands: [x]}}\n",
		"headgate.yaml":             "environments: {stage: {target: services, path: deploy}}\n",
		"deploy/compose.yaml":       "parts/a.yaml gone.yaml",
		"deploy/parts/a.yaml":       "config link",
		"deploy/parts/b.yaml":       "nobody names it",
		"deploy/config/x":           "1",
		"deploy/config/deeper/y":    "2",
		"deploy/link":               "-> compose.yaml",
		"outside/config/not/wanted": "3",
	}
	for kind, fsys := range everyWay(t, files) {
		var read []string
		c := &check.Checker{Policies: pool.Check, Targets: map[string]check.Target{"services": {
			Reads: []string{"compose.yaml"},
			Wants: func(files map[string][]byte) (names []string) {
				for _, data := range files {
					names = append(names, strings.Fields(string(data))...)
				}
				return names
			},
			Check: func(_ string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
				read = slices.Sorted(maps.Keys(files))
				return nil, nil
			},
		}}}
		if _, err := c.Tree(t.Context(), fsys); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(read, " "), "compose.yaml config/deeper/y config/x parts/a.yaml"; got != want {
			t.Errorf("%s: read %s, want %s", kind, got, want)
		}
	}
}
