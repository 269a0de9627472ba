package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// TestPatternsAreBounded: a pattern whose alternatives multiply is refused before it
// is matched, which nothing could interrupt.
func TestPatternsAreBounded(t *testing.T) {
	for pattern, want := range map[string]int{
		"**/*.go":                1,
		"{a,b,c}/x":              3,
		"{a,b}{c,d}":             4,
		`\{a,b}`:                 1,
		"{a,{b,c}}":              4, // three, and never fewer than there are
		strings.Repeat("{,", 50): 1, // closed nowhere: not a pattern
	} {
		if got := choices(pattern); got != want {
			t.Errorf("%s: %d, want %d", pattern, got, want)
		}
	}

	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, strings.Repeat("a", 60)+"b"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	hostile := strings.Repeat("{a,aa}", 40)
	for name, try := range map[string]func() error{
		"files": func() error {
			_, err := match(t.Context(), source, ".", []string{hostile}, buildspec.Artifact{})
			return err
		},
		"exclude-paths": func() error {
			_, err := match(t.Context(), source, ".", []string{"*"}, buildspec.Artifact{Exclude: []string{hostile}})
			return err
		},
		"base-directory": func() error {
			_, err := match(t.Context(), source, hostile, []string{"*"}, buildspec.Artifact{})
			return err
		},
	} {
		var no *clientError
		if err := try(); !errors.As(err, &no) || no.fix == "" || !strings.Contains(no.what, "alternatives") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSearchForBasesEnds: a pattern with several ** has more ways through a deep tree
// than there is time; the search ends with its context.
func TestSearchForBasesEnds(t *testing.T) {
	source := t.TempDir()
	deep := source
	for range 150 {
		deep = filepath.Join(deep, "a")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := match(ctx, source, strings.Repeat("**/a/", 12)+"b", []string{"*"}, buildspec.Artifact{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
}
