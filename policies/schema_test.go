package policies

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/yamlfile/schematest"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Every input, empty or full, is a document of its query's schema, holds no
// null, and an unknown field is none.
func TestInputsMatchTheirSchemas(t *testing.T) {
	for query, typ := range inputs {
		schema := schematest.Compile(t, Schema(query))
		full := reflect.New(typ).Elem()
		fill(full)
		for name, v := range map[string]reflect.Value{"empty": reflect.New(typ).Elem(), "full": full} {
			raw, err := json.Marshal(document(v))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(raw, []byte("null")) {
				t.Errorf("%s, %s: holds null: %s", query, name, raw)
			}
			instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(instance); err != nil {
				t.Errorf("%s, %s: %v in %s", query, name, err, raw)
			}
			if name == "full" {
				back := reflect.New(typ)
				if err := json.Unmarshal(raw, back.Interface()); err != nil ||
					!reflect.DeepEqual(back.Elem().Interface(), v.Interface()) {
					t.Errorf("%s: comes back as %+v, %v", query, back.Elem(), err)
				}
			}
			instance.(map[string]any)["more"] = true
			if schema.Validate(instance) == nil {
				t.Errorf("%s: any field will do", query)
			}
		}
	}
	if Schema("fly") != nil {
		t.Error("there is a schema of what is not a query")
	}
}

// fill sets every field of v to something.
func fill(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(noon))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	default:
		v.SetInt(7)
	}
}
