package rollout

import (
	"errors"
	"fmt"
	"slices"
)

// Filter is one tag that is asked for.
type Filter struct {
	Key, Value       string
	AnyKey, AnyValue bool // VALUE_ONLY, KEY_ONLY; neither is KEY_AND_VALUE
}

// Matches reports whether a host's tags have it.
func (f Filter) Matches(tags map[string]string) bool {
	for key, value := range tags {
		if (f.AnyKey || key == f.Key) && (f.AnyValue || value == f.Value) {
			return true
		}
	}
	return false
}

// Groups say which hosts a deployment is for: one filter of each group must match.
type Groups [][]Filter

// Matches reports whether a host is among them. Without a group none is.
func (g Groups) Matches(tags map[string]string) bool {
	for _, group := range g {
		if !slices.ContainsFunc(group, func(f Filter) bool { return f.Matches(tags) }) {
			return false
		}
	}
	return len(g) > 0
}

// Meets reports whether a host that has no more tags than one of two asks for is among both.
// Groups that ask for tags with different names may meet on some host, too, which only its
// tags can tell.
func (g Groups) Meets(other Groups) bool {
	return g.within(other) || other.within(g)
}

// within reports whether each tag that is asked for may have a value that another group asks
// for, too.
func (g Groups) within(other Groups) bool {
	for _, group := range g {
		if !slices.ContainsFunc(other, func(theirs []Filter) bool {
			return slices.ContainsFunc(group, func(f Filter) bool { return slices.ContainsFunc(theirs, f.meets) })
		}) {
			return false
		}
	}
	return len(g) > 0
}

// meets reports whether one tag may be what both ask for.
func (f Filter) meets(other Filter) bool {
	return (f.AnyKey || other.AnyKey || f.Key == other.Key) && (f.AnyValue || other.AnyValue || f.Value == other.Value)
}

// Bounds of CodeDeploy.
const (
	maxGroups  = 3
	maxFilters = 10
)

// Check says what is wrong with them.
func (g Groups) Check() error {
	if len(g) > maxGroups {
		return fmt.Errorf("%d tag groups are given; there may be %d", len(g), maxGroups)
	}
	for i, group := range g {
		switch {
		case len(group) == 0:
			return fmt.Errorf("tag group %d is empty", i+1)
		case len(group) > maxFilters:
			return fmt.Errorf("tag group %d has %d tags; it may have %d", i+1, len(group), maxFilters)
		}
		for _, f := range group {
			if f.AnyKey && f.AnyValue {
				return errors.New("a tag filter names neither a key nor a value")
			}
		}
	}
	return nil
}
