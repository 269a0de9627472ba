package sbom

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	files := map[string][]byte{}
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.26\n\nrequire example.com/one v1.2.3 // indirect\nrequire (\n\texample.com/Two v0.1.0\n\texample.com/gone v1.0.0\n)\nreplace example.com/gone => example.com/fork v2.0.0\nreplace example.com/one v1 => ./one\n",
		"web/package-lock.json": `{"lockfileVersion": 3, "packages": {"": {"version": "9"}, "lib": {"version": "8"}, "node_modules/a": {"version": "1.0.0"},
			"node_modules/a/node_modules/@s/b": {"version": "2.0.0-rc.1+x"}, "node_modules/lib": {"link": true}}}`,
		"old/package-lock.json":  `{"dependencies": {"c": {"version": "3.0.0", "dependencies": {"d": {"version": "4.0.0"}}}}}`,
		"requirements.txt":       "# ours\nFlask_Login[x]==0.6.3 ; python_version > '3'\nurllib3>=1\n-r more.txt\n",
		"poetry.lock":            "[[package]]\nname = \"Requests\"\nversion = \"2.32.0\"\n\n[package.dependencies]\nname = \"not\"\n\n[metadata]\nversion = \"no\"\n",
		"Cargo.lock":             "version = 3\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n",
		"Gemfile.lock":           "GEM\n  specs:\n    rack (3.0.1)\n      base64 (>= 0.1)\n\nBUNDLED WITH\n   2.4.1\n",
		"pom.xml":                `<project xmlns="http://maven.apache.org/POM/4.0.0"><properties><j>5.1</j></properties><dependencies><dependency><groupId>org.j</groupId><artifactId>j</artifactId><version>${j}</version></dependency><dependency><groupId>g</groupId><artifactId>managed</artifactId></dependency></dependencies></project>`,
		"broken/pom.xml":         "<project", // names nothing, and spoils nothing
		"node_modules/x/pom.xml": "",
	} {
		if Wanted(name) {
			files[name] = []byte(text)
		}
	}
	c := Of("hello", "c0ffee", files)
	var doc struct {
		BOMFormat, SpecVersion, SerialNumber string
		Components                           []struct{ Name, Group, Version, PURL string }
	}
	if err := json.Unmarshal(c.JSON, &doc); err != nil || doc.BOMFormat != "CycloneDX" || doc.SpecVersion != "1.6" ||
		!strings.HasPrefix(doc.SerialNumber, "urn:uuid:") || len(doc.SerialNumber) != 45 {
		t.Fatalf("%v %s", err, c.JSON)
	}
	var got []string
	for _, e := range doc.Components {
		got = append(got, e.PURL)
	}
	want := []string{
		"pkg:cargo/serde@1.0.200",
		"pkg:gem/rack@3.0.1",
		"pkg:golang/example.com/Two@v0.1.0",
		"pkg:golang/example.com/fork@v2.0.0",
		"pkg:golang/example.com/one@v1.2.3",
		"pkg:maven/org.j/j@5.1",
		"pkg:npm/%40s/b@2.0.0-rc.1+x",
		"pkg:npm/a@1.0.0",
		"pkg:npm/c@3.0.0",
		"pkg:npm/d@4.0.0",
		"pkg:pypi/flask-login@0.6.3",
		"pkg:pypi/requests@2.32.0",
	}
	if !slices.Equal(got, want) || c.Components != len(want) || len(c.Files) != 9 || c.Cut {
		t.Errorf("%d of %v:\n%s", c.Components, c.Files, strings.Join(got, "\n"))
	}
	if again := Of("hello", "c0ffee", maps.Clone(files)); !bytes.Equal(again.JSON, c.JSON) {
		t.Error("made again it is another")
	}
	if none := Of("hello", "c0ffee", nil); none.JSON != nil {
		t.Errorf("of nothing: %s", none.JSON)
	}
}
