package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Path is PATH of a build, until a command sets another.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// usual are programs that buildspecs use.
var usual = []string{"bash", "git", "make", "gcc", "g++", "clang", "cmake", "go", "node", "npm", "yarn", "python3", "pip3",
	"java", "mvn", "gradle", "ruby", "bundle", "cargo", "php", "composer", "dotnet", "curl", "wget", "jq", "zip", "unzip", "tar",
	"rsync", "docker", "aws", "sam", "terraform", "kubectl", "helm"}

// Tools are which of the programs that buildspecs use a build finds on this machine, and
// which it does not.
func Tools() (there, missing []string) { return toolsIn("/", filepath.SplitList(Path)) }

func toolsIn(root string, path []string) (there, missing []string) {
	runs := func(dir, name string) bool {
		info, err := os.Stat(filepath.Join(root, dir, name))
		return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
	}
	for _, name := range usual {
		if slices.ContainsFunc(path, func(dir string) bool { return runs(dir, name) }) {
			there = append(there, name)
		} else {
			missing = append(missing, name)
		}
	}
	// What is beside PATH, runtime-versions puts there.
	for _, more := range []struct{ at, of string }{{"usr/local/go*/bin/go", "go"}, {"usr/lib/jvm/*/bin/java", "java"},
		{"opt/node*/bin/node", "node"}} {
		found, _ := filepath.Glob(filepath.Join(root, more.at)) // a pattern without fault
		for _, file := range found {
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == more.of })
			there = append(there, more.of+" ("+filepath.Dir(strings.TrimPrefix(file, strings.TrimSuffix(root, "/")))+")")
		}
	}
	return there, missing
}
