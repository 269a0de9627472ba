package build_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every row of doc/codebuild.md's table has a test that bears its number, in its
// name or in that of its row.
func TestEveryRowOfTheTableIsTested(t *testing.T) {
	doc, err := os.ReadFile("../../doc/codebuild.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (B\d\d) \|`).FindAllStringSubmatch(string(doc), -1)
	if len(rows) < 61 {
		t.Errorf("the table has %d rows", len(rows))
	}
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "*/*_test.go"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(data)
		}
	}
	named := regexp.MustCompile(`B\d\d`).FindAllString(
		strings.Join(regexp.MustCompile(`"B\d\d[^"]*"|func Test\w+`).FindAllString(tests.String(), -1), "\n"), -1)
	for _, row := range rows {
		if !slices.Contains(named, row[1]) {
			t.Errorf("%s has no test", row[1])
		}
	}
}
