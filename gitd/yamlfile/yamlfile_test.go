package yamlfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

type sample struct {
	Build struct {
		Image   string `yaml:"image"`
		Timeout int    `yaml:"timeout"`
	} `yaml:"build"`
	Names []string             `yaml:"names"`
	Envs  map[string]sampleEnv `yaml:"environments"`
	Raw   yaml.Node            `yaml:"raw"`
}

type sampleEnv struct {
	Target string `yaml:"target"`
}

// decode reads data as a file is read.
func decode(data []byte, into any) error {
	top, err := Parse("f.yaml", data)
	if err != nil {
		return err
	}
	return DecodeNode("f.yaml", top, into)
}

func TestDecodeSaysWhereAndWhat(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"good", "build: {image: host}\nraw: {any: [1]}\n", ""},
		{"empty", "", "f.yaml: is empty; write it, or remove it"},
		{"comment only", "# nothing\n", "f.yaml: is empty; write it, or remove it"},
		{"unknown key", "build:\n  imagge: host\n", `f.yaml:2: unknown key "imagge" in "build"; did you mean "image"?`},
		{"unknown key far", "zebra: 1\n", `f.yaml:1: unknown key "zebra" here; known keys: build, environments, names, raw`},
		{"unknown key in map", "environments:\n  prod:\n    taget: x\n",
			`f.yaml:3: unknown key "taget" in "environments.prod"; did you mean "target"?`},
		{"duplicate", "names: [a]\nnames: [b]\n", `f.yaml:2: "names" was already set on line 1; keep one of them`},
		{"wrong type", "build:\n  timeout: soon\n", `f.yaml:2: "build.timeout" is text (soon), where a number belongs`},
		{"wrong type among others", "environments: {prod: {target: [x]}, test: {target: y}}\n",
			`f.yaml:1: "environments.prod.target" is a list, where text belongs`},
		{"one of several", "build: {timeout: {}}\n", `f.yaml:1: "build.timeout" is a mapping, where a number belongs`},
		{"wrong type in a list", "names: [a, [b]]\n", `f.yaml:1: "names" is a list, where text belongs`},
		{"wrong type, long", "build: {timeout: quarter of an hour}\n",
			`f.yaml:1: "build.timeout" is text (quarter of an hour), where a number belongs`},
		{"scalar for list", "names: x\n", `f.yaml:1: "names" is text (x), where a list belongs`},
		{"syntax", "build: [\n", "f.yaml:1: is not YAML"},
		{"syntax on the first line", "\t:::\nnames: []\n", "f.yaml:1: is not YAML"},
		{"syntax where it is parsed", "names: []\n\n\n}\n", "f.yaml:4: is not YAML"},
		{"syntax in a list", "names: []\nraw: 1\n- c\n", "f.yaml:3: is not YAML"},
		{"syntax where it is scanned", "names: []\n\nraw: @x\n", "f.yaml:3: is not YAML"},
		{"unknown anchor", "names: []\nraw: *b\n", "f.yaml:2: is not YAML"},
		{"control character", "names: []\nraw: \x01\n", "f.yaml:2: holds the control character U+0001; remove it"},
		{"tab", "build:\n\timage: x\n", "indent with spaces"},
		{"alias", "names: &a [x]\nraw: *a\n", "f.yaml:2: uses a YAML alias (*a); write the value out"},
		{"two documents", "names: []\n---\nnames: []\n", "more than one YAML document"},
		{"nesting", strings.Repeat("[", 100_000), "nests deeper than 64 levels"},
		{"not utf-8", "names: [\"\xff\"]", "f.yaml: is not UTF-8 text; save it as UTF-8"},
		{"too large", strings.Repeat("#", MaxBytes+1), "over the limit"},
		{"byte order mark", "\ufeffbuild: {image: host}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got sample
			err := decode([]byte(c.in), &got)
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("unexpected: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("build: {image: host}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		if err := decode(data, &s); err != nil {
			if _, ok := ProblemsIn(err); !ok {
				t.Fatalf("an error that is no Problem: %v", err)
			}
		}
	})
}

// TestAliasesAreBounded: what aliases stand for counts, and the result has none left.
func TestAliasesAreBounded(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i,
			strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	if _, err := ParseAliased("f.yaml", []byte(bomb)); err == nil ||
		!strings.Contains(err.Error(), "holds more than 100000 values") {
		t.Errorf("a bomb: %v", err)
	}
	top, err := ParseAliased("f.yaml",
		[]byte("base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nall: {<<: [*b, *o], x: 5}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]int
	if err := top.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"x": 5, "y": 2, "z": 4}; !reflect.DeepEqual(got["all"], want) {
		t.Errorf("%v, want %v", got["all"], want)
	}
}

func TestParseJSON(t *testing.T) {
	n, err := ParseJSON("t.json", []byte("\ufeff{\n\t\"a\": [1, 2.5,\n\t\tnull, true],\n\t\"b\": {\"c\": \"x\\ny\"}\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for key, v := range Pairs(n) {
		lines = append(lines, fmt.Sprint(key.Value, ":", key.Line))
		for _, c := range v.Content {
			lines = append(lines, fmt.Sprintf("%s %s:%d", c.ShortTag(), c.Value, c.Line))
		}
	}
	want := "a:2 | !!int 1:2 | !!float 2.5:2 | !!null null:3 | !!bool true:3 | b:4 | !!str c:4 | !!str x\ny:4"
	if got := strings.Join(lines, " | "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	for in, want := range map[string]string{
		"":                               "t.json: is empty",
		"{\n\"a\": 1,\n}":                "t.json:3: is not JSON: invalid character '}'",
		"{\n\"a\": [1":                   "t.json:2: is not JSON: it ends too early",
		"{}\n{}":                         "t.json:2: holds more than one JSON document",
		strings.Repeat("[", 70):          "nests deeper than 64 levels",
		"\xff":                           "is not UTF-8",
		strings.Repeat(" ", 1<<20) + "1": "over the limit",
		"{a: 1}":                         "t.json:1: is not JSON",
	} {
		_, err := ParseJSON("t.json", []byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %s", in, err, want)
		}
	}
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`{"a": [1, "x", null, {"b": false}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ParseJSON("f", data)
		if (err == nil) != json.Valid(bytes.TrimPrefix(data, []byte("\ufeff"))) && utf8.Valid(data) &&
			!strings.Contains(fmt.Sprint(err), "nests deeper") {
			t.Fatalf("%q: %v", data, err)
		}
		if _, ok := ProblemsIn(err); err != nil && !ok {
			t.Fatalf("%v is no Problem", err)
		}
		if err == nil && (n.Line < 1 || n.Column < 1) {
			t.Fatalf("%+v", n)
		}
	})
}
