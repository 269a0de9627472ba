package receive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// quarantineOf checks what a hook calls the quarantine of its push: a directory
// that receive-pack made inside the repository. The empty path is a push
// without objects.
func quarantineOf(r *repo.Repository, path string) (repo.Quarantine, error) {
	if path == "" {
		return repo.Quarantine{}, nil
	}
	objects, err := filepath.EvalSymlinks(filepath.Join(r.Dir(), "objects"))
	if err != nil {
		return repo.Quarantine{}, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return repo.Quarantine{}, err
	}
	if filepath.Dir(real) != objects || !strings.HasPrefix(filepath.Base(real), "tmp_objdir-") {
		return repo.Quarantine{}, errors.New("the quarantine is not one of this repository")
	}
	alternates := objects
	if strings.ContainsAny(alternates, `:"`) { // git splits the list at colons, and unquotes
		alternates = strconv.Quote(alternates)
	}
	return repo.Quarantine{Objects: real, Alternates: alternates, Path: real}, nil
}

// empty removes everything in a quarantine, which stays: git moves what is left of it
// into the repository. "" is a push without objects.
func empty(quarantine string) error {
	if quarantine == "" {
		return nil
	}
	entries, err := os.ReadDir(quarantine)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(quarantine, e.Name())))
	}
	return err
}

// arriving lists the directories below objects/ into which the objects of a
// quarantine will be moved.
func arriving(q repo.Quarantine) ([]string, error) {
	if q.Objects == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(q.Objects)
	if err != nil {
		return nil, err
	}
	dirs := []string{"."}
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		}
	}
	return dirs, nil
}

// reader reads objects of a push that is not accepted yet, through one git child
// that sees the quarantine. It is for one goroutine; close it.
type reader struct {
	end    context.CancelFunc
	wait   func() error
	stdin  io.WriteCloser
	stdout *bufio.Reader
	total  int // bytes read so far
}

// Bounds of what a push may make the server read: one object, and all of them.
const (
	maxObject = 4 << 20
	maxTotal  = 256 << 20
)

func newReader(ctx context.Context, r *repo.Repository, q repo.Quarantine) (*reader, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := r.CommandIn(ctx, q, "cat-file", "--batch-command")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start git cat-file: %w", err)
	}
	return &reader{end: cancel, wait: cmd.Wait, stdin: stdin, stdout: bufio.NewReader(stdout)}, nil
}

func (rd *reader) close() {
	rd.stdin.Close()
	rd.end()
	_ = rd.wait() // ended by us
}

// errTooBig is returned for an object over maxObject, or a push over maxTotal.
var errTooBig = errors.New("too big to be checked")

// object reads an object; a missing one is repo.ErrNoFile.
func (rd *reader) object(h repo.Hash) (kind string, content []byte, err error) {
	kind, size, err := rd.ask("info", h)
	if err != nil {
		return "", nil, err
	}
	if size > maxObject {
		return kind, nil, fmt.Errorf("%s %s is %d bytes, over the limit of %d: %w", kind, h, size, maxObject, errTooBig)
	}
	if rd.total+size > maxTotal {
		return kind, nil, fmt.Errorf("commits, trees and tags are more than %d MiB together: %w", maxTotal>>20, errTooBig)
	}
	rd.total += size
	if kind, size, err = rd.ask("contents", h); err != nil {
		return "", nil, err
	}
	content = make([]byte, size)
	if _, err := io.ReadFull(rd.stdout, content); err != nil {
		return "", nil, fmt.Errorf("read object %s: %w", h, err)
	}
	_, err = rd.stdout.Discard(1)
	return kind, content, err
}

// kind is an object's type without reading it.
func (rd *reader) kind(h repo.Hash) (string, error) {
	kind, _, err := rd.ask("info", h)
	return kind, err
}

// size is an object's size in bytes, without reading it.
func (rd *reader) size(h repo.Hash) (int64, error) {
	_, size, err := rd.ask("info", h)
	return int64(size), err
}

// ask sends a command about an object and reads the first line of the answer; a
// missing object is repo.ErrNoFile.
func (rd *reader) ask(verb string, h repo.Hash) (kind string, size int, err error) {
	if _, err := io.WriteString(rd.stdin, verb+" "+h.String()+"\n"); err != nil {
		return "", 0, err
	}
	line, err := rd.stdout.ReadString('\n')
	if err != nil {
		return "", 0, fmt.Errorf("read object %s: %w", h, err)
	}
	f := strings.Fields(line)
	if len(f) == 2 && f[1] == "missing" {
		return "", 0, repo.ErrNoFile
	}
	if len(f) != 3 || f[0] != h.String() {
		return "", 0, fmt.Errorf("read object %s: git answered %q", h, line)
	}
	size, err = strconv.Atoi(f[2])
	return f[1], size, err
}

// commit is what a push needs to know of a commit.
type commit struct {
	tree    repo.Hash
	parents []repo.Hash
	author  string // e-mail address, unproven
	name    string
	subject string
	signed  bool
	message string
}

func (rd *reader) commit(h repo.Hash) (commit, error) {
	kind, content, err := rd.object(h)
	if err != nil {
		return commit{}, err
	}
	if kind != "commit" {
		return commit{}, fmt.Errorf("%s is a %s, not a commit", h, kind)
	}
	return parseCommit(content), nil
}

func parseCommit(content []byte) commit {
	var c commit
	head, message, _ := bytes.Cut(content, []byte("\n\n"))
	for line := range bytes.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch key {
		case "tree":
			c.tree, _ = repo.ParseHash(value)
		case "parent":
			if p, ok := repo.ParseHash(value); ok {
				c.parents = append(c.parents, p)
			}
		case "author":
			name, rest, _ := strings.Cut(value, " <")
			c.name = name
			c.author, _, _ = strings.Cut(rest, ">")
		case "gpgsig":
			c.signed = true
		}
	}
	c.message = string(message)
	c.subject = repo.Subject(c.message)
	return c
}

// Blob reads a file (repo.Objects).
func (rd *reader) Blob(h repo.Hash) ([]byte, error) {
	_, content, err := rd.object(h)
	return content, err
}

// Tree lists a tree's entries (repo.Objects).
func (rd *reader) Tree(h repo.Hash) ([]repo.Entry, error) {
	kind, content, err := rd.object(h)
	if err != nil {
		return nil, err
	}
	if kind != "tree" {
		return nil, fmt.Errorf("%s is a %s, not a tree", h, kind)
	}
	var entries []repo.Entry
	for len(content) > 0 {
		head, rest, ok := bytes.Cut(content, []byte{0})
		mode, name, ok2 := strings.Cut(string(head), " ")
		if !ok || !ok2 || len(rest) < 20 {
			return nil, fmt.Errorf("tree %s is damaged", h)
		}
		m, err := filemode.New(mode)
		if err != nil {
			return nil, fmt.Errorf("tree %s is damaged", h)
		}
		e := repo.Entry{Name: name, Mode: m}
		copy(e.Hash[:], rest[:20])
		entries = append(entries, e)
		content = rest[20:]
	}
	return entries, nil
}
