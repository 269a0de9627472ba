package repo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
)

// Hash is an object id. The zero Hash stands for "no such ref".
type Hash = plumbing.Hash

// Zero is the Hash of nothing.
var Zero = plumbing.ZeroHash

// ParseHash reads 40 lower-case hexadecimal digits.
func ParseHash(s string) (h Hash, ok bool) {
	if len(s) != 2*len(h) {
		return Zero, false
	}
	for i := range h {
		high, low := digits[s[2*i]], digits[s[2*i+1]]
		if high|low > 15 {
			return Zero, false
		}
		h[i] = high<<4 | low
	}
	return h, true
}

// digits are what hexadecimal digits stand for, and more than 15 for what is none.
var digits = func() (all [256]byte) {
	for c := range all {
		all[c] = 0xff
	}
	for value, c := range []byte("0123456789abcdef") {
		all[c] = byte(value)
	}
	return all
}()

// ErrMoved is returned by Move when the ref was not where the caller said.
var ErrMoved = errors.New("the ref has moved")

// Ref is one ref and what it points at.
type Ref struct {
	Name string
	Hash Hash
}

// Ref returns what the ref called name points at, Zero when there is none. A ref
// that is there and cannot be read is an error, *Damaged, and never Zero: who
// takes it for none begins anew where there is a history.
func (r *Repository) Ref(name string) (Hash, error) {
	h, err := r.ref(name, 0)
	if why := unreadable(""); errors.As(err, &why) {
		return Zero, fmt.Errorf("read ref %s: %w", name, r.damaged(why.Error()))
	}
	if err != nil {
		return Zero, fmt.Errorf("read ref %s of %s: %w", name, r.name, err)
	}
	return h, nil
}

func (r *Repository) ref(name string, depth int) (Hash, error) {
	if name != "HEAD" && (!strings.HasPrefix(name, "refs/") || plumbing.ReferenceName(name).Validate() != nil) {
		return Zero, nil // no ref has such a name
	}
	if depth > 5 {
		return Zero, unreadable(name + " stands for itself")
	}
	h, symbolic, err := readRef(filepath.Join(r.dir, name))
	why := unreadable("")
	switch {
	case err == nil && symbolic != "":
		return r.ref(symbolic, depth+1)
	case errors.As(err, &why):
		return Zero, unreadable(name + " " + why.Error())
	case err == nil || !absent(err):
		return h, err
	}
	packed, err := r.packedRefs()
	if err != nil {
		return Zero, err
	}
	return packed.ref(name), nil
}

// Refs lists the refs whose name begins with prefix, sorted by name. Symbolic
// refs are left out. One among them that cannot be read is an error, *Damaged.
func (r *Repository) Refs(prefix string) ([]Ref, error) {
	list, err := r.refsBelow([]string{prefix})
	if err := r.unlistable(list, err); err != nil {
		return nil, err
	}
	return list.refs, nil
}

// Move is the one way a ref changes: from old to new, or not at all. Old Zero
// creates, new Zero deletes. In a damaged repository nothing moves. When it returns nil the move is durable; when it
// returns ErrMoved nothing has changed. Afterwards the store's watchers are woken.
func (r *Repository) Move(ctx context.Context, ref string, old, new Hash) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d := r.Damage(); d != nil {
		return fmt.Errorf("move %s: %w", ref, d)
	}
	if err := r.updater.move(r, ref, old, new); err != nil {
		return err
	}
	// git syncs the lock file before it renames it; the directory is ours to sync.
	// A new ref may have made directories: each is an entry of the one above it.
	for dir := filepath.Dir(filepath.Join(r.dir, ref)); len(dir) >= len(r.dir); dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sync ref %s of %s: %w", ref, r.name, err)
		}
		if old != Zero && new != Zero {
			break
		}
	}
	r.moves.Add(1)
	r.witness.note(ref, new)
	r.store.moved.Notify(r.name)
	return nil
}

// updater owns one `git update-ref --stdin` child, restarted when a refused
// transaction has ended it.
type updater struct {
	mu     sync.Mutex
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *bounded
}

func (u *updater) start(r *Repository) error {
	cmd := r.Command(context.Background(), "update-ref", "--stdin")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	u.stderr = &bounded{max: 4 << 10}
	cmd.Stderr = u.stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start git update-ref: %w", err)
	}
	u.cmd, u.stdin, u.stdout = cmd, stdin, bufio.NewReader(stdout)
	return nil
}

// stop ends the child and returns what it said on standard error.
func (u *updater) stop() string {
	if u.cmd == nil {
		return ""
	}
	u.stdin.Close()
	_ = u.cmd.Wait() // its exit status repeats what it wrote to standard error
	said := u.stderr.String()
	u.cmd = nil
	return said
}

func (u *updater) move(r *Repository, ref string, old, new Hash) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cmd == nil {
		if err := u.start(r); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("update %s %s %s\n", ref, new, old)
	if new == Zero {
		line = fmt.Sprintf("delete %s %s\n", ref, old)
	}
	if strings.Count(line, "\n") != 1 {
		return fmt.Errorf("ref name %q holds a newline", ref)
	}
	_, err := io.WriteString(u.stdin, "start\n"+line+"commit\n")
	for _, want := range []string{"start: ok\n", "commit: ok\n"} {
		if err != nil {
			break
		}
		var got string
		if got, err = u.stdout.ReadString('\n'); err == nil && got != want {
			err = fmt.Errorf("answered %q", strings.TrimSpace(got))
		}
	}
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(u.stop())
	if strings.Contains(said, "but expected") || strings.Contains(said, "reference already exists") ||
		strings.Contains(said, "unable to resolve reference") {
		return ErrMoved
	}
	if said == "" {
		said = err.Error()
	}
	return fmt.Errorf("move %s of %s: %s", ref, r.name, strings.TrimPrefix(said, "fatal: "))
}
