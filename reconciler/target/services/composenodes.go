package services

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// clone copies a node with all in it.
func (p *parser) clone(n *yaml.Node) *yaml.Node {
	c := *n
	p.copied++
	if s := p.from[n]; s != nil {
		p.from[&c] = s
	}
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		if p.copied > maxCopied {
			c.Content = nil
			break
		}
		c.Content[i] = p.clone(child)
	}
	return &c
}

// tooMuch reports whether more was taken over from elsewhere than is allowed.
func (p *parser) tooMuch(at *yaml.Node) bool {
	if p.copied > maxCopied {
		p.problem(at, "write less into what is extended and included",
			"takes over more than %d values from elsewhere", maxCopied)
	}
	return p.copied > maxCopied
}

// new is a node in the place of another one.
func (p *parser) new(at *yaml.Node, kind yaml.Kind, tag, value string) *yaml.Node {
	n := &yaml.Node{Kind: kind, Tag: tag, Value: value, Line: at.Line, Column: at.Column}
	if s := p.from[at]; s != nil {
		p.from[n] = s
	}
	return n
}

// value is what a mapping has for a key, nil for nothing.
func value(n *yaml.Node, key string) *yaml.Node {
	for k, v := range yamlfile.Pairs(n) {
		if k.Value == key {
			return v
		}
	}
	return nil
}

// without is a mapping without a key.
func (p *parser) without(n *yaml.Node, key string) *yaml.Node {
	c := *n
	c.Content = nil
	for k, v := range yamlfile.Pairs(n) {
		if k.Value != key {
			c.Content = append(c.Content, k, v)
		}
	}
	if s := p.from[n]; s != nil {
		p.from[&c] = s
	}
	return &c
}

// scalar is the text of a scalar that is not null, its variables replaced. An
// instance's are not set: there is none yet.
func (p *parser) scalar(n *yaml.Node, what string) (string, bool) {
	s := p.of(n)
	v := variables{of: s.vars, unset: func(name string) error {
		if slices.Contains(instanceVariables, name) {
			return fmt.Errorf("$%s is known only to an instance, in its command, environment, labels, image and checks", name)
		}
		return fmt.Errorf("$%s is not set", name)
	}}
	return p.replaced(n, v, what)
}

// plain is what Compose makes of a value without quotes that becomes text: 1.10 is 1.1.
func (p *parser) plain(n *yaml.Node, what string) *yaml.Node {
	kinds := []string{"!!int", "!!float", "!!bool", "!!timestamp"}
	if n.Kind != yaml.ScalarNode || !slices.Contains(kinds, n.Tag) || p.of(n).text {
		return n
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return n // it is text then
	}
	text := fmt.Sprint(v)
	if text == n.Value {
		return n
	}
	p.warning(n, fmt.Sprintf("write %q if that is not meant", n.Value), "%s: %s is %s, as Compose reads it", what, n.Value, text)
	return p.new(n, yaml.ScalarNode, "!!str", text)
}

// text is the text of a scalar that is not null; the variables of an instance are
// not yet replaced.
func (p *parser) text(n *yaml.Node, what string) (string, bool) {
	return p.replaced(n, variables{of: p.of(n).vars, unset: noSuchVariable, late: true}, what)
}

func (p *parser) replaced(n *yaml.Node, v variables, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.problem(n, "write text or a number", "%s is %s, where text belongs", what, yamlfile.Describe(n))
		return "", false
	}
	if strings.ContainsRune(n.Value, 0) {
		p.problem(n, "remove it", "%s holds a NUL byte", what)
		return "", false
	}
	if p.of(n).text {
		if v.late {
			return literal(n.Value), true
		}
		return n.Value, true
	}
	text, err := v.replace(n.Value)
	if err != nil {
		p.problem(
			n, `write "$$" for a dollar sign that is meant for the program, or set the variable in .env beside compose.yaml`, "%s: %v", what, err)
		return "", false
	}
	return text, true
}

// quiet is what scalar says of a node, whether or not it is one.
func (p *parser) quiet(n *yaml.Node) string {
	problems := p.problems
	text, _ := p.scalar(n, "")
	p.problems = problems
	return text
}

// with is a mapping that has another value for a key.
func (p *parser) with(n *yaml.Node, key string, v *yaml.Node) *yaml.Node {
	c := *n
	c.Content = slices.Clone(n.Content)
	for i := 0; i+1 < len(c.Content); i += 2 {
		if c.Content[i].Value == key {
			c.Content[i+1] = v
		}
	}
	if s := p.from[n]; s != nil {
		p.from[&c] = s
	}
	return &c
}

// listed is a node's elements, or itself where it is no list.
func listed(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

// same reports whether two nodes say the same.
func same(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, same)
}

func (p *parser) integer(n *yaml.Node, what string, low, high int) int {
	text, ok := p.scalar(n, what)
	if !ok {
		return low
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < low || v > high {
		p.problem(n, fmt.Sprintf("write a number from %d to %d", low, high), "%s is %q", what, text)
		return low
	}
	return v
}

func (p *parser) boolean(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.problem(n, "write true or false", "%s is %s", what, yamlfile.Describe(n))
		return false
	}
	text, ok := p.scalar(n, what)
	if ok && text != "true" && text != "false" {
		p.problem(n, "write true or false", "%s is %s", what, cmp.Or(yamlfile.Describe(n), text))
	}
	return text == "true"
}
