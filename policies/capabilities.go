package policies

import (
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// allowed are the built-ins that policies may use: pure, so that a decision can be
// evaluated again. A name that ends in "." allows all below it. Whatever OPA adds
// later is not allowed until somebody has looked at it.
var allowed = []string{
	// comparison, arithmetic, aggregates
	"eq", "equal", "neq", "lt", "lte", "gt", "gte", "assign", "plus", "minus", "mul", "div", "rem", "abs", "ceil",
	"floor", "round",
	"count", "sum", "product", "max", "min", "sort", "and", "or", "intersection", "union", "internal.member_2",
	"internal.member_3",
	// types
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name", "to_number",
	// text; regex is RE2, which takes linear time, and glob is not
	"concat", "contains", "endswith", "startswith", "indexof", "indexof_n", "lower", "upper", "replace", "split",
	"sprintf", "substring",
	"trim", "trim_left", "trim_prefix", "trim_right", "trim_space", "trim_suffix", "format_int",
	"strings.any_prefix_match", "strings.any_suffix_match", "strings.reverse", "strings.count",
	"regex.match", "regex.is_valid", "regex.split", "regex.find_n", "regex.find_all_string_submatch_n",
	// collections
	"array.", "object.", "json.filter", "json.remove", "json.marshal", "json.unmarshal", "json.is_valid", "walk",
	// digests and versions
	"crypto.sha256", "semver.",
	// the instant is the input's, not the clock's
	"time.",
	// for people who look for a fault; ends up in the record
	"print", "internal.print",
}

// capabilities is the language of a policy.
var capabilities = sync.OnceValue(func() *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	caps.AllowNet = []string{}
	caps.Builtins = slices.Clip(slices.DeleteFunc(slices.Clone(caps.Builtins), func(b *ast.Builtin) bool {
		return !slices.ContainsFunc(allowed, func(a string) bool {
			return b.Name == a || strings.HasSuffix(a, ".") && strings.HasPrefix(b.Name, a)
		})
	}))
	return caps
})

// testCapabilities adds what the test runner itself compiles in.
var testCapabilities = sync.OnceValue(func() *ast.Capabilities {
	caps := *capabilities()
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if strings.HasPrefix(b.Name, "internal.test_case") {
			caps.Builtins = append(caps.Builtins, b)
		}
	}
	return &caps
})
