package appspec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// LambdaSpec is an application specification file for AWS Lambda: which function's
// alias moves from which version to which.
type LambdaSpec struct {
	File string // its name, for messages

	Name    string // of the function
	Alias   string
	Current int // version that the alias is at; 0: whichever it is at
	Target  int // version that it goes to; 0: the one that the release is

	Before, After string // functions that have a say: BeforeAllowTraffic, AfterAllowTraffic; "": none

	At Position // of the resource
}

// FunctionName is the form of names of functions, and that of aliases is alike.
var (
	FunctionName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`) })
	functionARN  = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(
			`^arn:[a-z-]+:lambda:[a-z0-9-]+:[0-9]{12}:function:([a-zA-Z0-9_-]{1,64})(:[a-zA-Z0-9$_-]+)?$`)
	})
)

const lambdaExample = "write Resources: and below it - myFunction: {Type: AWS::Lambda::Function, Properties: {Name: myFunction, Alias: live}}"

// ParseLambda reads a file for Lambda as CodeDeploy does: in YAML or JSON, with keys in
// any case. Versions may be left out, which CodeDeploy does not know. Its results are
// like those of Parse.
func ParseLambda(file string, data []byte) (*LambdaSpec, yamlfile.Problems, error) {
	p := &parser{file: file}
	top := p.document(data)
	if top == nil {
		return nil, p.warnings, p.problems.Err()
	}
	if platform := platformOf(top); platform != Lambda && field(top, "resources") == nil {
		p.problem(top, "declare the environment with target: hosts; for a function "+lambdaExample,
			"is for %s, not for AWS Lambda", platform)
		return nil, p.warnings, p.problems.Err()
	} else if platform == ECS {
		p.problem(platform.at(top), platform.advice(), "is for %s, not for AWS Lambda", platform)
		return nil, p.warnings, p.problems.Err()
	}
	s := &LambdaSpec{File: file}
	p.version(top, field(top, "version"))
	p.caseless(top, "the file", "version", "resources", "hooks")
	p.resource(s, top, field(top, "resources"))
	p.lambdaHooks(s, field(top, "hooks"))
	if err := p.problems.Err(); err != nil {
		return nil, p.warnings, err
	}
	return s, p.warnings, nil
}

// field is the value of a key in any case, nil without one.
func field(n *yaml.Node, name string) *yaml.Node {
	for key, value := range yamlfile.Pairs(n) {
		if strings.EqualFold(key.Value, name) {
			return value
		}
	}
	return nil
}

// caseless refuses keys that are given twice, and tells of unknown ones.
func (p *parser) caseless(n *yaml.Node, of string, known ...string) {
	seen := map[string]bool{}
	for key := range yamlfile.Pairs(n) {
		name := strings.ToLower(key.Value)
		switch {
		case seen[name]:
			p.problem(key, "keep one of them", "%q is given twice", key.Value)
		case !slices.Contains(known, name):
			p.ignored(key, "known keys: "+strings.Join(known, ", "), "unknown key %q of %s is ignored", key.Value, of)
		}
		seen[name] = true
	}
}

// single is the only pair of a mapping.
func single(n *yaml.Node) (key, value *yaml.Node) {
	pairs := 0
	for k, v := range yamlfile.Pairs(n) {
		key, value = k, v
		pairs++
	}
	if pairs != 1 {
		return nil, nil
	}
	return key, value
}

func (p *parser) resource(s *LambdaSpec, top, n *yaml.Node) {
	switch {
	case isNull(n):
		p.problem(top, lambdaExample, "names no function: Resources is missing")
		return
	case n.Kind != yaml.SequenceNode || len(n.Content) == 0:
		p.problem(n, lambdaExample, "Resources is %s, not a list with one function", kind(n))
		return
	case len(n.Content) > 1:
		p.problem(n.Content[1], "keep one; another function needs an application of its own, with its own directory",
			"Resources has more than one function")
		return
	}
	key, value := single(n.Content[0])
	if key == nil || value.Kind != yaml.MappingNode {
		p.problem(n.Content[0], lambdaExample, "an entry of Resources is %s, not one name with Type and Properties below it",
			kind(n.Content[0]))
		return
	}
	s.At = Position{key.Line, key.Column}
	what := "resource " + key.Value
	p.caseless(value, what, "type", "properties")
	if t := field(value, "type"); !isText(t) || t.Value != "AWS::Lambda::Function" {
		p.problem(or(t, key), "write Type: AWS::Lambda::Function", "%s is not of the type AWS::Lambda::Function", what)
	}
	properties := field(value, "properties")
	if isNull(properties) || properties.Kind != yaml.MappingNode {
		p.problem(or(properties, key), "write Properties: {Name: myFunction, Alias: live}", "%s has no Properties", what)
		return
	}
	p.caseless(properties, what, "name", "alias", "currentversion", "targetversion")
	s.Name = p.functionName(or(field(properties, "name"), key), field(properties, "name"), "Name of "+what)
	alias := field(properties, "alias")
	switch {
	case isNull(alias):
		p.problem(or(alias, properties), "write Alias: live", "%s has no Alias", what)
	case !isText(alias) || !FunctionName().MatchString(alias.Value):
		p.problem(alias, "use letters, digits, _ and -", "Alias of %s is %s", what, kind(alias))
	case allDigits(alias.Value):
		p.problem(alias, "name it otherwise, such as live", "Alias of %s is %s, which looks like a version",
			what, kind(alias))
	default:
		s.Alias = alias.Value
	}
	s.Current = p.lambdaVersion(field(properties, "currentversion"), "CurrentVersion of "+what)
	target := field(properties, "targetversion")
	s.Target = p.lambdaVersion(target, "TargetVersion of "+what)
	if s.Target > 0 && s.Target == s.Current {
		p.problem(target, "leave both out: the alias goes from where it is to the version that the release is",
			"%s: CurrentVersion and TargetVersion are both %d, so that nothing would move", what, s.Target)
	}
}

func or(n, instead *yaml.Node) *yaml.Node {
	if n != nil {
		return n
	}
	return instead
}

func allDigits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// functionName takes a name, or an ARN, of which the name counts.
func (p *parser) functionName(at, n *yaml.Node, what string) string {
	if isText(n) {
		if FunctionName().MatchString(n.Value) {
			return n.Value
		}
		if arn := functionARN().FindStringSubmatch(n.Value); arn != nil {
			return arn[1]
		}
	}
	p.problem(at, "write a name of letters, digits, _ and -, or the function's ARN", "%s is %s", what, kind(n))
	return ""
}

// lambdaVersion is a positive integer, as a number or as text.
func (p *parser) lambdaVersion(n *yaml.Node, what string) int {
	if isNull(n) {
		return 0
	}
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < 1 || !allDigits(n.Value) {
		p.problem(n, "write the number of a version, or leave it out", "%s is %s, not the number of a version", what, kind(n))
		return 0
	}
	return v
}

// lambdaHooks reads a list of one-key mappings; one mapping occurs as well.
func (p *parser) lambdaHooks(s *LambdaSpec, n *yaml.Node) {
	const example = "write Hooks: and below it - BeforeAllowTraffic: nameOfAFunction"
	if isNull(n) {
		return
	}
	entries := n.Content
	switch n.Kind {
	case yaml.MappingNode:
		entries = []*yaml.Node{n}
	case yaml.SequenceNode:
	default:
		p.problem(n, example, "Hooks is %s, not a list", kind(n))
		return
	}
	seen := map[string]bool{}
	for _, entry := range entries {
		if entry.Kind != yaml.MappingNode {
			p.problem(entry, example, "an entry of Hooks is %s, not a lifecycle event with the name of a function", kind(entry))
			continue
		}
		for key, value := range yamlfile.Pairs(entry) {
			to := map[string]*string{"beforeallowtraffic": &s.Before, "afterallowtraffic": &s.After}[strings.ToLower(key.Value)]
			switch {
			case to == nil:
				p.problem(key, "name one of BeforeAllowTraffic, AfterAllowTraffic",
					"functions have no lifecycle event %q", key.Value)
			case seen[strings.ToLower(key.Value)]:
				p.problem(key, "keep one of them", "hook %s is given twice", key.Value)
			case !isNull(value):
				*to = p.functionName(value, value, fmt.Sprintf("hook %s", key.Value))
			}
			seen[strings.ToLower(key.Value)] = true
		}
	}
}
