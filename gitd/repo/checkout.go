package repo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// Checkout writes the files of a tree below dir, which must exist and should
// be empty. Trees are hostile: every write goes through os.Root, so that
// nothing lands outside dir whatever names and symbolic links the tree holds;
// submodules become empty directories. No filter, hook or attribute runs.
func (r *Repository) Checkout(ctx context.Context, tree Hash, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
	}
	defer root.Close()
	list, err := r.Git(ctx, "ls-tree", "-r", "-z", "--full-tree", tree.String())
	if err != nil {
		return fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
	}
	type file struct{ mode, hash, path string }
	var files []file
	var asked bytes.Buffer
	for _, line := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		meta, name, ok := strings.Cut(line, "\t")
		f := strings.Fields(meta)
		if !ok || len(f) != 3 {
			continue
		}
		if err := safePath(name); err != nil {
			return fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
		}
		if f[1] == "commit" {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
			}
			continue
		}
		files = append(files, file{f[0], f[2], name})
		asked.WriteString(f[2] + "\n")
	}
	cmd := r.Command(ctx, "cat-file", "--batch", "--buffer")
	cmd.Stdin = &asked
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
	}
	in := bufio.NewReaderSize(stdout, 256<<10)
	for _, f := range files {
		if err = writeFile(root, f.mode, f.hash, f.path, in); err != nil {
			err = fmt.Errorf("check out %s of %s: %s: %w", tree, r.name, f.path, err)
			break
		}
	}
	if err != nil {
		_ = cmd.Cancel()
		_ = cmd.Wait() // ended by us; err says why
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("check out %s of %s: %w", tree, r.name, err)
	}
	return nil
}

func safePath(name string) error {
	for _, part := range strings.Split(name, "/") {
		trimmed := strings.TrimRight(part, " .\r")
		if part == "" || part == "." || part == ".." || strings.EqualFold(trimmed, ".git") || strings.ContainsAny(part, "\x00") {
			return fmt.Errorf("the tree holds the path %q, which cannot be checked out", name)
		}
	}
	return nil
}

func writeFile(root *os.Root, mode, hash, name string, in *bufio.Reader) error {
	head, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	f := strings.Fields(head)
	if len(f) != 3 || f[0] != hash {
		return fmt.Errorf("git answered %q", strings.TrimSpace(head))
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return err
	}
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	body := io.LimitReader(in, size)
	if mode == "120000" {
		target, err := io.ReadAll(io.LimitReader(body, 4096))
		if err != nil {
			return err
		}
		if int64(len(target)) != size {
			return errors.New("is a symbolic link of over 4096 bytes")
		}
		if err := root.Symlink(string(target), name); err != nil {
			return err
		}
	} else {
		perm := os.FileMode(0o644)
		if mode == "100755" {
			perm = 0o755
		}
		out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return err
		}
		n, err := io.Copy(out, body)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
		if n != size {
			return io.ErrUnexpectedEOF
		}
	}
	_, err = in.Discard(1) // the newline after each object
	return err
}
