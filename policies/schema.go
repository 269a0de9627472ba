package policies

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// inputs are the documents that the queries are given.
var inputs = map[string]reflect.Type{
	"push":     reflect.TypeFor[PushInput](),
	"land":     reflect.TypeFor[LandInput](),
	"promote":  reflect.TypeFor[PromoteInput](),
	"rollback": reflect.TypeFor[RollbackInput](),
	"converge": reflect.TypeFor[ConvergeInput](),
	"exec":     reflect.TypeFor[ExecInput](),
}

// Schema is the JSON Schema of a query's input, by which a repository's Rego
// is compiled: a misspelt field is a fault of the file, not a rule that never
// applies. It is nil for what is not a query.
func Schema(query string) []byte {
	t, ok := inputs[query]
	if !ok {
		return nil
	}
	top := schemaOf(t)
	top["$schema"] = "http://json-schema.org/draft-07/schema#"
	top["title"] = "input of the query " + query
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(top); err != nil {
		panic(err) // maps and text only
	}
	return b.Bytes()
}

// schemaSet is what the compiler checks input against.
func schemaSet(query string) *ast.SchemaSet {
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, any(schemaOf(inputs[query])))
	return set
}

func schemaOf(t reflect.Type) map[string]any {
	if t == reflect.TypeFor[time.Time]() {
		return map[string]any{"type": "string", "format": "date-time"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Struct:
		properties := map[string]any{}
		required := []any{}
		for f := range jsonFields(t) {
			properties[f.name] = schemaOf(f.typ)
			if !f.optional {
				required = append(required, f.name)
			}
		}
		return map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "required": required}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.String:
		return map[string]any{"type": "string"}
	}
	panic(fmt.Sprintf("policies: an input holds a %s", t)) // the tests reach every field
}

type jsonField struct {
	index    int
	name     string
	typ      reflect.Type
	optional bool // left out when it is not known
}

func jsonFields(t reflect.Type) func(yield func(jsonField) bool) {
	return func(yield func(jsonField) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !yield(jsonField{i, name, f.Type, options != ""}) {
				return
			}
		}
	}
}

// document is an input as the policies see it: what is not known is left out,
// never null, and a list without members is empty, so that no rule trips over
// the difference.
func document(v reflect.Value) any {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		return v.Interface().(time.Time).UTC().Format(time.RFC3339Nano)
	case v.Kind() == reflect.Pointer:
		return document(v.Elem())
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = document(v.Index(i))
		}
		return list
	case v.Kind() == reflect.Struct:
		fields := map[string]any{}
		for f := range jsonFields(v.Type()) {
			if field := v.Field(f.index); !f.optional || !field.IsZero() {
				fields[f.name] = document(field)
			}
		}
		return fields
	}
	return v.Interface()
}
