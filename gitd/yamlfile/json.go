package yamlfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// ParseJSON reads one JSON document and returns its top node, as Parse does of YAML:
// who reads the nodes need not know which of the two a file is in. The error is
// Problems.
func ParseJSON(file string, data []byte) (*yaml.Node, error) {
	fail := func(line int, fix, format string, args ...any) (*yaml.Node, error) {
		return nil, Problems{{File: file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix}}
	}
	switch {
	case len(data) > MaxBytes:
		return fail(0, "keep it small; move data to files of its own", "is %d bytes, over the limit of %d",
			len(data), MaxBytes)
	case !utf8.Valid(data):
		return fail(0, "save it as UTF-8", "is not UTF-8 text")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(bytes.TrimSpace(data)) == 0 {
		return fail(0, "write it, or remove it", "is empty")
	}
	r := &jsonReader{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	n, err := r.value(1)
	if err == nil {
		if _, more := r.dec.Token(); !errors.Is(more, io.EOF) {
			r.move(r.dec.InputOffset())
			return fail(r.line(), "keep the first", "holds more than one JSON document")
		}
		return n, nil
	}
	var syntax *json.SyntaxError
	at := r.dec.InputOffset()
	if errors.As(err, &syntax) {
		at = syntax.Offset
	}
	line := 1 + bytes.Count(data[:min(int(at), len(data))], []byte("\n"))
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(line, "close what is open", "is not JSON: it ends too early")
	}
	return fail(line, "", "is not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
}

type jsonReader struct {
	data  []byte
	dec   *json.Decoder
	count int

	offset int64 // up to which lines have been counted
	lines  int   // before it
	begins int64 // offset of the line's first byte
}

func (r *jsonReader) move(offset int64) {
	for ; r.offset < offset; r.offset++ {
		if r.data[r.offset] == '\n' {
			r.lines++
			r.begins = r.offset + 1
		}
	}
}

func (r *jsonReader) line() int { return r.lines + 1 }

// token is the next token, with a node at its place. A token holds no newline.
func (r *jsonReader) token() (json.Token, *yaml.Node, error) {
	t, err := r.dec.Token()
	if err != nil {
		return nil, nil, err
	}
	if r.count++; r.count > MaxNodes {
		return nil, nil, fmt.Errorf("holds more than %d values", MaxNodes)
	}
	r.move(r.dec.InputOffset())
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.line(), Column: max(1, int(r.offset-r.begins))}
	switch t := t.(type) {
	case string:
		n.Tag, n.Value = "!!str", t
	case json.Number:
		n.Tag, n.Value = "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(t)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return t, n, nil
}

func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nests deeper than %d levels", MaxDepth)
	}
	t, n, err := r.token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
	case json.Delim('['):
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
	default:
		return n, nil
	}
	for r.dec.More() {
		if n.Kind == yaml.MappingNode {
			_, key, err := r.token()
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, key)
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, v)
	}
	_, _, err = r.token()
	return n, err
}
