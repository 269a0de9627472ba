package services

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/headgate-cd/headgate/reconciler/target"
)

var update = flag.Bool("update", false, "rewrite what is wanted in testdata")

// TestGolden reads directories in the manner of real projects: testdata/*/*.txtar hold
// the files, and in "want" what is read from them, its problems and its warnings.
func TestGolden(t *testing.T) {
	archives, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(archives) < 24 {
		t.Fatalf("%d directories to read: %v", len(archives), err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(name, "testdata/"), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files, want := filesIn(archive)
			got := described(t, files)
			if some := described(t, wanted(files)); some != got {
				t.Errorf("of the files that are wanted it reads\n%s\nof all\n%s", some, got)
			}
			if strings.HasPrefix(filepath.Base(name), "refused-") != strings.Contains(got, "problem: ") {
				t.Errorf("it is refused, or is not, against its name")
			}
			if got == want {
				return
			}
			if !*update {
				t.Fatalf("got\n%s\nwant\n%s\nsee all of it with -update and git diff", got, want)
			}
			archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
			archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(got)})
			if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// filesIn are the files of an archive, and what is wanted of them.
func filesIn(archive *txtar.Archive) (files target.Files, want string) {
	files = target.Files{}
	for _, f := range archive.Files {
		if f.Name == "want" {
			want = string(f.Data)
			continue
		}
		files[f.Name] = f.Data
	}
	return files, want
}

// wanted are those of the files that are read when nothing is but what Reads and Wants
// say.
func wanted(files target.Files) target.Files {
	some := target.Files{}
	for names := Reads; len(names) > 0; {
		before := len(some)
		for _, name := range names {
			for each, data := range files {
				if each == name || strings.HasPrefix(each, name+"/") {
					some[each] = data
				}
			}
		}
		if names = Wants(some); len(some) == before {
			break
		}
	}
	return some
}

// described is what is read from files, in lines.
func described(t *testing.T, files target.Files) string {
	var out strings.Builder
	c, warnings, err := Read("deploy", files)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(&out, "problem:", line)
		}
	}
	for _, w := range warnings {
		fmt.Fprintln(&out, "warning:", w.Error())
	}
	if c == nil {
		return out.String()
	}
	for _, s := range c.Services {
		text, err := json.Marshal(s)
		var said any
		if err == nil {
			err = json.Unmarshal(text, &said)
		}
		if err == nil {
			text, err = json.MarshalIndent(brief(said), "", "  ")
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s: %s\n", s.Name, text)
		for _, n := range s.Needs {
			fmt.Fprintf(&out, "%s needs %s %s\n", s.Name, n.Service, n.Until)
		}
	}
	if d := c.Deployment; d.Strategy != "" || d.Staged() {
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "deployment: %s\n", text)
	}
	return out.String()
}

// brief is a JSON value without what says nothing.
func brief(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = brief(v[i])
		}
	case map[string]any:
		for name, member := range v {
			v[name] = brief(member)
		}
		return withoutZeros(v)
	}
	return v
}
