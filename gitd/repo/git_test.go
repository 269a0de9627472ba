package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// Every line of the fixed configuration counts for a git child, whatever stands
// in the repository's own file.
func TestFixedConfigurationCounts(t *testing.T) {
	_, r := testStore(t)
	f, err := os.OpenFile(filepath.Join(r.Dir(), "config"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range config {
		section, key, _ := strings.Cut(kv[0], ".")
		if sub, name, ok := strings.Cut(key, "."); ok {
			section, key = section+` "`+sub+`"`, name
		}
		if _, err := f.WriteString("[" + section + "]\n\t" + key + " = 1\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, kv := range config {
		out, err := r.Git(t.Context(), "config", "--get-all", kv[0])
		if err != nil {
			t.Fatal(err)
		}
		values := strings.Split(strings.TrimSpace(string(out)), "\n")
		if kv[0] == "receive.hideRefs" || kv[0] == "safe.directory" || kv[0] == "receive.procReceiveRefs" { // lists
			if !slices.Contains(values, kv[1]) {
				t.Errorf("%s holds %q, without %q", kv[0], values, kv[1])
			}
			continue
		}
		if got := values[len(values)-1]; got != kv[1] {
			t.Errorf("%s is %q, want %q", kv[0], got, kv[1])
		}
	}
}

// A small pack stands for a large file: unpacking it takes a small part of that,
// whichever way git does it.
func TestUnpackingTakesLittleMemory(t *testing.T) {
	t.Parallel()
	_, r := testStore(t)
	const size = 200 << 20
	cmd := r.Command(t.Context(), "hash-object", "-w", "--stdin")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(stdin, io.LimitReader(zeros{}, size))
	if err := errors.Join(err, stdin.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	pack, err := r.GitIn(t.Context(), Quarantine{}, out.Bytes(), "pack-objects", "--stdout", "-q")
	if err != nil || len(pack) > 1<<20 {
		t.Fatalf("a pack of %d bytes, %v", len(pack), err)
	}
	for _, args := range [][]string{{"unpack-objects", "-q"}, {"index-pack", "--strict", "--stdin"}} {
		_, to := testStore(t)
		cmd := to.Command(t.Context(), args...)
		// How much it has taken the kernel does not say: that is at least what this process had.
		cmd.Args = append([]string{"sh", "-c", `ulimit -d "$0" && exec "$@"`, strconv.Itoa(size / 4 >> 10), cmd.Path},
			cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		if _, err := Run(cmd, pack); err != nil {
			t.Errorf("git %s with %d MiB: %v", args[0], size/4>>20, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestAnswersAreBounded: a child that answers without end is ended, and its answer is
// an error.
func TestAnswersAreBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := Run(exec.CommandContext(ctx, "yes", "and so on"), nil)
	if err == nil || !strings.Contains(err.Error(), "answered more than") || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}

// TestLargeTreesAreListed: what ls-tree says of a tree that is as large as a tree may be
// is longer than what other children may answer.
func TestLargeTreesAreListed(t *testing.T) {
	_, r := testStore(t)
	file := Blob(nil)
	at, mode := file.Hash(), filemode.Regular
	objects := []Object{file}
	for range 3 {
		var entries []Entry
		for i := range 84 {
			entries = append(entries, Entry{Name: fmt.Sprintf("an-entry-of-a-tree-%02d", i), Mode: mode, Hash: at})
		}
		tree := TreeObject(entries)
		objects = append(objects, tree)
		at, mode = tree.Hash(), filemode.Dir
	}
	if err := r.Write(objects...); err != nil {
		t.Fatal(err)
	}
	if err := r.CheckExtent(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	var files, bytes int
	err := r.listTree(t.Context(), at, func(e listed) error {
		files++
		bytes += len("100644 blob ") + 2*len(e.hash) + len("\t") + len(e.path) + len("\x00")
		return nil
	})
	if err != nil || files != 84*84*84 || bytes <= maxOutput {
		t.Errorf("%d files in %d bytes, %v", files, bytes, err)
	}

	// The first error ends the child; what lists without end is ended, too.
	stop := errors.New("stop")
	if err := r.listTree(t.Context(), at, func(listed) error { return stop }); err != stop {
		t.Error(err)
	}
	var fault *TreeFault
	w := recordWriter{each: func(string) error { return nil }, left: 3}
	if _, err := w.Write([]byte("a\x00bc")); !errors.As(err, &fault) {
		t.Error(err)
	}
}
