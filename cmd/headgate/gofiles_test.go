package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// goFile is one Go file of this repository.
type goFile struct {
	name string // from the top, with slashes
	test bool
	set  *token.FileSet
	file *ast.File
}

// at is where something stands in the file.
func (f goFile) at(n ast.Node) token.Position { return f.set.Position(n.Pos()) }

// allGoFiles are those of the product and of its tests, parsed once for all who look.
var allGoFiles = sync.OnceValues(func() (all []goFile, err error) {
	root := filepath.Join("..", "..")
	set := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		all = append(all, goFile{name, strings.HasSuffix(path, "_test.go"), set, f})
		return err
	})
	return all, err
})

// goFiles are allGoFiles, of which there must be many: a test that looks at none would pass.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	all, err := allGoFiles()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 300 {
		t.Fatalf("only %d files were read", len(all))
	}
	return all
}
