package function

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// provided is the runtime of programs that speak the runtime API themselves.
const provided = "provided.al2023"

// refuseRuntime says why no function can have a runtime, "" when one can.
func refuseRuntime(name string) (why, fix string) {
	const instead = "build a program named bootstrap that speaks the runtime API, and write runtime: " + provided
	switch {
	case name == provided, name == "provided.al2", name == "provided":
		return "", ""
	case strings.HasPrefix(name, "nodejs"), strings.HasPrefix(name, "python3"):
		return "", ""
	case name == "go1.x":
		return "is not there any more", instead + " (build with -tags lambda.norpc -o bootstrap)"
	case strings.HasPrefix(name, "java"), strings.HasPrefix(name, "dotnet"), strings.HasPrefix(name, "ruby"),
		strings.HasPrefix(name, "python"):
		return "is not one that runs here", instead
	}
	return "is not a runtime of Lambda", "write " + provided + ", nodejs22.x or python3.13"
}

// Where things stand in the sandbox, as in Lambda's.
const (
	taskRoot   = "/var/task"
	runtimeDir = "/var/runtime"
)

// command is what an instance runs: the program of a code directory, with names as they
// are inside. The error says what is missing.
func (c *Config) command(code string) ([]string, error) {
	switch {
	case strings.HasPrefix(c.Runtime, "nodejs"):
		return nodeCommand(code, c.Handler)
	case strings.HasPrefix(c.Runtime, "python"):
		return pythonCommand(code, c.Runtime, c.Handler)
	}
	info, err := os.Stat(filepath.Join(code, "bootstrap"))
	switch {
	case err != nil:
		return nil, fmt.Errorf(
			"the code has no file bootstrap at its top; build the program under that name, or say with code: in %s where it is", settingsFile)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("bootstrap is not a file; build the program under that name")
	case info.Mode()&0o111 == 0:
		return nil, fmt.Errorf("bootstrap is not executable; chmod +x it in the build")
	}
	return []string{taskRoot + "/bootstrap"}, nil
}

func nodeCommand(code, handler string) ([]string, error) {
	node, err := interpreter("node")
	if err != nil {
		return nil, err
	}
	for _, place := range []struct{ outside, inside string }{
		{code, taskRoot},
		{"/usr/lib", "/usr/lib"},
		{"/usr/local/lib", "/usr/local/lib"},
	} {
		for _, file := range []string{"bin/index.mjs", "bin/index.js"} {
			name := filepath.Join("node_modules", "aws-lambda-ric", file)
			if _, err := os.Stat(filepath.Join(place.outside, name)); err == nil {
				return []string{node, filepath.Join(place.inside, name), handler}, nil
			}
		}
	}
	return nil, fmt.Errorf(
		"there is no runtime client of Node; add aws-lambda-ric to the dependencies in package.json, and node_modules to the artifact")
}

func pythonCommand(code, runtime, handler string) ([]string, error) {
	python, err := interpreter(runtime)
	if err != nil {
		if python, err = interpreter("python3"); err != nil {
			return nil, err
		}
	}
	run := []string{python, "-m", "awslambdaric", handler}
	if _, err := os.Stat(filepath.Join(code, "awslambdaric")); err == nil {
		return run, nil
	}
	for _, pattern := range []string{"/usr/lib/python3*/*-packages", "/usr/local/lib/python3*/*-packages"} {
		if found, _ := filepath.Glob(filepath.Join(pattern, "awslambdaric")); len(found) > 0 { // a pattern without fault
			return run, nil
		}
	}
	return nil, fmt.Errorf(
		"there is no runtime client of Python; put awslambdaric into the artifact with pip install --target . awslambdaric")
}

// interpreter finds a program below /usr, which is all that an instance sees.
func interpreter(name string) (string, error) {
	for _, dir := range []string{"/usr/local/bin", "/usr/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf(
		"%s is not installed below /usr on this machine; install it, or build a bootstrap and write runtime: %s", name, provided)
}
