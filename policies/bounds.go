package policies

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A built-in runs to its end whatever the deadline says, so one call must not
// be able to make, or walk through, more than these. Doubling a text forty times
// takes forty short rules; and comparing arrays of some million parts overflows
// the stack, which ends the whole process.
const (
	maxMade   = 8 << 20 // bytes that the built-ins of one evaluation may make together
	partSize  = 48      // bytes of one small part
	maxWalked = 1 << 20 // weight of a value that a built-in walks through or builds on, and of an answer
)

var (
	errMade   = fmt.Errorf("the policy makes values of more than %d MiB", maxMade>>20)
	errWalked = fmt.Errorf("the policy makes a value with more than %d parts", maxWalked/8)
	errNumber = errors.New("the policy makes a number that is too large")
)

// OPA looks built-ins up in one table of the process. Nothing else in it
// evaluates Rego, so the table is where they are bounded.
func init() {
	for name, made := range map[string]func(args []*ast.Term) int{
		ast.Concat.Name:       concatMakes,
		ast.Sprintf.Name:      sprintfMakes,
		ast.Replace.Name:      replaceMakes,
		ast.JSONMarshal.Name:  func(args []*ast.Term) int { return 2 * weight(args[0].Value) },
		ast.ArrayConcat.Name:  func(args []*ast.Term) int { return 16 * (length(args[0]) + length(args[1])) },
		ast.ArrayFlatten.Name: func(args []*ast.Term) int { return weight(args[0].Value) },

		// The same text again, or one part for a few bytes of it.
		ast.Lower.Name:         func(args []*ast.Term) int { return length(args[0]) },
		ast.Upper.Name:         func(args []*ast.Term) int { return length(args[0]) },
		ast.StringReverse.Name: func(args []*ast.Term) int { return length(args[0]) },
		ast.JSONUnmarshal.Name: func(args []*ast.Term) int { return partSize * length(args[0]) },
		ast.Split.Name:         func(args []*ast.Term) int { return partSize * length(args[0]) },
		ast.RegexSplit.Name:    func(args []*ast.Term) int { return partSize * length(args[1]) },
		ast.RegexFind.Name:     func(args []*ast.Term) int { return partSize * length(args[1]) },

		ast.RegexFindAllStringSubmatch.Name: func(args []*ast.Term) int { return partSize * length(args[1]) },
	} {
		ast.BuiltinMap[name].CanSkipBctx = false // the budget is kept in it
		bound(name, func(bctx topdown.BuiltinContext, args []*ast.Term) error {
			total := made(args)
			if before, ok := bctx.Cache.Get(madeKey{}); ok {
				total += before.(int)
			}
			if total > maxMade {
				return errMade
			}
			bctx.Cache.Put(madeKey{}, total)
			return nil
		})
	}
	for _, name := range []string{
		ast.ObjectUnion.Name, ast.ObjectUnionN.Name, ast.ObjectSubset.Name, ast.JSONFilter.Name, ast.JSONRemove.Name, ast.WalkBuiltin.Name,
		ast.Sort.Name, ast.Max.Name, ast.Min.Name, ast.JSONMarshal.Name, ast.Sprintf.Name, ast.ArrayFlatten.Name,
		ast.ArrayConcat.Name, ast.Or.Name, ast.Union.Name,
	} {
		bound(name, func(_ topdown.BuiltinContext, args []*ast.Term) error {
			for _, a := range args {
				if a != nil && weight(a.Value) > maxWalked {
					return errWalked
				}
			}
			return nil
		})
	}
	for _, name := range []string{
		ast.Plus.Name, ast.Minus.Name, ast.Multiply.Name, ast.Divide.Name, ast.Rem.Name, ast.Abs.Name, ast.Ceil.Name, ast.Floor.Name, ast.Round.Name,
		ast.FormatInt.Name, ast.Sum.Name, ast.Product.Name,
	} {
		bound(name, func(_ topdown.BuiltinContext, args []*ast.Term) error {
			for _, a := range args {
				if !finite(a) {
					return errNumber
				}
			}
			return nil
		})
	}
}

type madeKey struct{}

// bound puts a check in front of a built-in. What it refuses ends the evaluation
// even where an error of a built-in would not.
func bound(name string, check func(topdown.BuiltinContext, []*ast.Term) error) {
	f := topdown.GetBuiltin(name)
	topdown.RegisterBuiltinFunc(name, func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		if err := check(bctx, args); err != nil {
			return topdown.Halt{Err: err}
		}
		return f(bctx, args, iter)
	})
}

func concatMakes(args []*ast.Term) int {
	delimiter, made := length(args[0]), 0
	each(args[1].Value, func(t *ast.Term) bool {
		made += length(t) + delimiter
		return made > maxMade
	})
	return made
}

// sprintfMakes counts as if every verb took every argument, which it may, and
// every number in the format were a width.
func sprintfMakes(args []*ast.Term) int {
	format, ok := args[0].Value.(ast.String)
	if !ok {
		return 0
	}
	made, number := len(format), 0
	each := 400 + weight(args[1].Value) // the longest float is under 400 digits
	for _, c := range []byte(format) {
		switch {
		case c >= '0' && c <= '9':
			number = min(10*number+int(c-'0'), maxMade)
			continue
		case c == '%':
			made += each
		case c == '*': // a width from the arguments
			made += maxMade
		}
		made, number = min(made+number, 2*maxMade), 0
	}
	return made
}

func replaceMakes(args []*ast.Term) int {
	text, ok := args[0].Value.(ast.String)
	old, ok2 := args[1].Value.(ast.String)
	if !ok || !ok2 {
		return 0
	}
	return len(text) + strings.Count(string(text), string(old))*length(args[2])
}

// length is that of a text or an array, without looking into it.
func length(t *ast.Term) int {
	switch v := t.Value.(type) {
	case ast.String:
		return len(v)
	case *ast.Array:
		return v.Len()
	}
	return 0
}

func each(v ast.Value, f func(*ast.Term) (stop bool)) {
	switch v := v.(type) {
	case *ast.Array:
		v.Until(f)
	case ast.Set:
		v.Until(f)
	}
}

// weight counts the parts and bytes of a value as they would be written out,
// and stops soon after maxWalked: parts may be shared so often that nobody could
// write them all.
func weight(v ast.Value) int {
	total := 0 // 8 for each part, and its bytes
	var add func(t *ast.Term) bool
	add = func(t *ast.Term) bool {
		total += 8
		switch v := t.Value.(type) {
		case ast.String:
			total += len(v)
		case ast.Number:
			total += len(v)
		case ast.Object:
			v.Until(func(k, value *ast.Term) bool { return add(k) || add(value) })
		default:
			each(v, add)
		}
		return total > maxWalked
	}
	add(&ast.Term{Value: v})
	return total
}

// finite reports whether a number, or every number in a collection, is one that
// arithmetic can write out: 1e1000000000 is short only as long as nobody does.
func finite(t *ast.Term) bool {
	n, ok := t.Value.(ast.Number)
	if !ok {
		all := true
		each(t.Value, func(t *ast.Term) bool {
			if n, ok := t.Value.(ast.Number); ok && !small(n) {
				all = false
			}
			return !all
		})
		return all
	}
	return small(n)
}

func small(n ast.Number) bool {
	if len(n) <= 18 && !strings.ContainsAny(string(n), "eE") {
		return true
	}
	f, err := strconv.ParseFloat(string(n), 64)
	return err == nil && !math.IsInf(f, 0) && len(n) <= 400
}

// boundedJSON turns a result into plain Go values, if it is not too large for that.
func boundedJSON(t *ast.Term, _ *rego.EvalContext) (any, error) {
	if weight(t.Value) > maxWalked {
		return nil, errWalked
	}
	return ast.JSONWithOpt(t.Value, ast.JSONOpt{SortSets: true})
}
