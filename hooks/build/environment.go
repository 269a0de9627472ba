package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// environment is what the first command begins with: of the sandbox, of CodeBuild,
// of the buildspec, of the project and the server (B31), in that order.
func (r *runner) environment() map[string]string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + toolsDir,
		"HOME": HomeDir, "USER": "root", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "CI": "true",

		"GOCACHE":          CacheDir + "/go-build",
		"GOMODCACHE":       CacheDir + "/go-mod",
		"npm_config_cache": CacheDir + "/npm",
		"PIP_CACHE_DIR":    CacheDir + "/pip",
		"MAVEN_ARGS":       "-Dmaven.repo.local=" + CacheDir + "/maven", // Maven 3.9 and later
	}
	maps.Copy(env, r.codebuild())
	if r.req.Image != "" { // whose own it keeps
		delete(env, "PATH")
	}
	for _, v := range r.spec.Variables {
		env[v.Name] = v.Value
	}
	maps.Copy(env, r.req.Variables)
	// Programs read the one or the other.
	env["AWS_REGION"] = cmp.Or(env["AWS_REGION"], env["AWS_DEFAULT_REGION"])
	env["AWS_DEFAULT_REGION"] = cmp.Or(env["AWS_DEFAULT_REGION"], env["AWS_REGION"])
	if env["AWS_REGION"] == "" {
		delete(env, "AWS_REGION")
		delete(env, "AWS_DEFAULT_REGION")
	}
	env["CODEBUILD_BUILD_ARN"] = r.arn(cmp.Or(env["AWS_REGION"], "local"))
	return env
}

// codebuild is CodeBuild's own variables (ENV).
func (r *runner) codebuild() map[string]string {
	project := projectName(r.req)
	env := map[string]string{
		"CODEBUILD_BUILD_ID":                project + ":" + r.req.ID,
		"CODEBUILD_BUILD_IMAGE":             cmp.Or(r.req.Image, "host"),
		"CODEBUILD_BUILD_NUMBER":            strconv.Itoa(r.req.Number),
		"CODEBUILD_BUILD_SUCCEEDING":        "1",
		"CODEBUILD_BUILD_URL":               r.req.URL,
		"CODEBUILD_CI":                      "true",
		"CODEBUILD_CONTAINER_NAME":          "default",
		"CODEBUILD_GOPATH":                  filepath.Dir(SourceDir),
		"CODEBUILD_INITIATOR":               r.req.Initiator,
		"CODEBUILD_KMS_KEY_ID":              "",
		"CODEBUILD_LAST_EXIT":               "0",
		"CODEBUILD_LOG_PATH":                r.req.ID,
		"CODEBUILD_PROJECT_UUID":            uuid(project),
		"CODEBUILD_PUBLIC_BUILD_URL":        r.req.URL,
		"CODEBUILD_RESOLVED_SOURCE_VERSION": r.req.Commit,
		"CODEBUILD_SOURCE_REPO_URL":         r.req.Repository,
		"CODEBUILD_SOURCE_VERSION":          r.req.Commit,
		"CODEBUILD_SRC_DIR":                 SourceDir,
		"CODEBUILD_START_TIME":              strconv.FormatInt(r.result.Started.UnixMilli(), 10),
	}
	if r.req.Local {
		env["CODEBUILD_LOCAL_BUILD"] = "true"
	}
	if t := r.req.Task; t != nil {
		env["CODEBUILD_BATCH_BUILD_IDENTIFIER"] = t.ID
		if t.Shards > 0 {
			env["HEADGATE_SHARD"], env["HEADGATE_SHARDS"] = strconv.Itoa(t.Shard), strconv.Itoa(t.Shards)
		}
	}
	if r.req.Branch != "" {
		ref := "refs/heads/" + r.req.Branch
		env["CODEBUILD_WEBHOOK_ACTOR_ACCOUNT_ID"] = r.req.Initiator
		env["CODEBUILD_WEBHOOK_BASE_REF"] = ref
		env["CODEBUILD_WEBHOOK_EVENT"] = "PUSH"
		env["CODEBUILD_WEBHOOK_HEAD_REF"] = ref
		env["CODEBUILD_WEBHOOK_PREV_COMMIT"] = r.req.Previous
		env["CODEBUILD_WEBHOOK_TRIGGER"] = "branch/" + r.req.Branch
	}
	return env
}

func (r *runner) arn(region string) string {
	return fmt.Sprintf("arn:aws:codebuild:%s:000000000000:build/%s:%s", region, projectName(r.req), r.req.ID)
}

// uuid is a name in the form of a UUID.
func uuid(name string) string {
	h := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// saveEnvironment writes the environment with which the first command begins.
func (r *runner) saveEnvironment(secrets map[string]string) error {
	env := r.environment()
	maps.Copy(env, secrets)
	var b strings.Builder
	if _, given := env["PATH"]; !given {
		fmt.Fprintf(&b, "export PATH=\"$PATH:%s\"\n", toolsDir)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, quote(env[name]))
	}
	return os.WriteFile(filepath.Join(r.control, "first.sh"), []byte(b.String()), 0o644)
}

// quote makes s one word of a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// secrets finds the values of the secrets that the buildspec names, and has them
// masked in the log from here on (B35, B36). One that a variable of the same name
// stands in for is not asked for (B31).
func (r *runner) secrets(ctx context.Context) (map[string]string, error) {
	values := map[string]string{}
	for _, s := range r.spec.Secrets {
		if given, ok := r.req.Variables[s.Variable]; ok {
			r.log.Mask(given)
			continue
		}
		err := ErrNoSecrets
		if r.req.Secrets != nil {
			values[s.Variable], err = r.req.Secrets(ctx, s)
		}
		if errors.Is(err, ErrNoSecrets) {
			delete(values, s.Variable)
			r.log.NoteAbout("warning", "%s is not set: %v", s.Variable, err)
			continue
		}
		if ps, ok := yamlfile.ProblemsIn(err); ok {
			ps[0].File, ps[0].Line, ps[0].Column = r.file, s.Line, s.Column
			return nil, ps
		}
		if err != nil {
			return nil, fmt.Errorf("secret %s of the build: %w", s.Name, err)
		}
		r.log.Mask(values[s.Variable])
	}
	return values, nil
}

// toolsDir is where the commands stand inside that CodeBuild's images have.
const toolsDir = ControlDir + "/bin"

// tools are those commands. They are small enough to be written in the shell.
var tools = map[string]string{
	// Where a build pauses when somebody watches it. Nobody does.
	"codebuild-breakpoint": "#!/bin/sh\necho 'codebuild-breakpoint: no session is open; the build goes on'\n",
	"codebuild-resume":     "#!/bin/sh\nexit 0\n",

	// The SHA-256 over the files that match patterns (B56).
	"codebuild-hash-files": `#!/bin/sh
for glob in "$@"; do
	flat=$(printf '%s\n' "$glob" | sed 's|\*\*/||g')
	any=$(printf '%s\n' "$glob" | sed 's|\*\*|*|g')
	find . -name .git -prune -o -type f '(' -path "./$flat" -o -path "./$any" ')' -print
done | LC_ALL=C sort -u | while IFS= read -r file; do sha256sum "$file"; done | sha256sum | cut -d' ' -f1
`,
}

// saveTools writes them.
func (r *runner) saveTools() error {
	dir := filepath.Join(r.control, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	all := maps.Clone(tools)
	maps.Copy(all, shardTools)
	for name, text := range all {
		if err := sandbox.WriteProgram(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Problem is why a secret cannot be had, and what to do, at the place where a
// buildspec names it.
func Problem(s buildspec.Secret, what, fix string) error {
	return yamlfile.Problems{{Line: s.Line, Column: s.Column, What: what, Fix: fix}}
}
