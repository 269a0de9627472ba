package forge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// remote is a repository at a forge, as git reaches it.
type remote struct {
	kind       Kind
	url        string
	credential credential // over https

	key      secret.Value // over ssh
	hostKeys []string
}

// Move is a ref of a mirror that was moved to where the forge has it.
type Move struct {
	Ref      string
	Old, New repo.Hash // Zero: made, deleted
}

// listing is what a forge has.
type listing struct {
	refs map[string]repo.Hash // branches and tags that are mirrored
	head string               // the branch that it calls its default
	left int                  // refs whose names are not mirrored
}

// Bounds of what is fetched.
const (
	maxRefs      = 20_000
	listTimeout  = time.Minute
	fetchTimeout = 30 * time.Minute
)

// fetchConfig is what git is told besides repo.Env when it asks a forge. Old
// histories hold what tools of their time wrote (see repo.Env).
var fetchConfig = []string{
	"-c", "protocol.allow=never",
	"-c", "protocol.https.allow=always",
	"-c", "protocol.http.allow=always", // server.yaml takes it for this machine only
	"-c", "protocol.ssh.allow=always",
	"-c", "http.followRedirects=false", // the address is the administrators', not the forge's
	"-c", "http.lowSpeedLimit=1000",
	"-c", "http.lowSpeedTime=60",
	"-c", "fetch.fsck.badTimezone=warn",
	"-c", "fetch.fsck.missingSpaceBeforeDate=warn",
	"-c", "fetch.fsck.zeroPaddedFilemode=warn",
	"-c", "credential.helper=",
}

// tokenVariable is where the token is, in the environment of git's child alone:
// who reads that can read the token's file.
const tokenVariable = "HEADGATE_FORGE_TOKEN"

// git runs a git child that talks to the forge. A token is in neither its words nor the
// address: git asks its credential helper, which is a built-in of the shell. A private
// key stays in this process (keyAgent).
func (m remote) git(ctx context.Context, r *repo.Repository, input []byte, args ...string) ([]byte, error) {
	if !strings.HasPrefix(m.url, "ssh://") {
		token, err := m.credential.token(ctx)
		if err != nil {
			return nil, err
		}
		out, err := repo.Run(m.command(ctx, r, token, args...), input)
		// Who is not let in has changed nothing.
		if !notLetIn(err) || !m.credential.refused(token) {
			return out, err
		}
		if token, err = m.credential.token(ctx); err != nil {
			return nil, err
		}
		return repo.Run(m.command(ctx, r, token, args...), input)
	}
	cmd := m.command(ctx, r, secret.Value{}, args...)
	a, err := openKeyAgent(m.url, m.key, m.hostKeys)
	if err != nil {
		return nil, err
	}
	defer a.close()
	cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND="+a.command(), "GIT_SSH_VARIANT=ssh")
	out, err := repo.Run(cmd, input)
	var failed *repo.GitError
	if errors.As(err, &failed) && (strings.HasPrefix(failed.Stderr, "@@@") ||
		strings.Contains(failed.Stderr, "host key is known for")) {
		return nil, errors.New("the host has another key than host_keys of server.yaml name: nothing was shown to it")
	}
	return out, err
}

// notLetIn reports whether git has been told that its credentials are not taken.
func notLetIn(err error) bool {
	var failed *repo.GitError
	return errors.As(err, &failed) && strings.Contains(failed.Stderr, "Authentication failed for")
}

func (m remote) command(ctx context.Context, r *repo.Repository, shown secret.Value, args ...string) *exec.Cmd {
	user := map[Kind]string{GitHub: "x-access-token", GitLab: "oauth2", Gitea: "oauth2"}[m.kind]
	options := slices.Clone(fetchConfig)
	token := shown.Reveal()
	if len(token) > 0 {
		helper := `!f() { test "$1" = get || exit 0; printf 'username=%s\npassword=%s\n' ` + user + ` "$` +
			tokenVariable + `"; }; f`
		options = append(options, "-c", "credential.helper="+helper)
	}
	cmd := r.Command(ctx, append(options, args...)...)
	if len(token) > 0 {
		cmd.Env = append(cmd.Env, tokenVariable+"="+string(token))
	}
	return cmd
}

// list asks the forge, by protocol v2, where its branches and tags are.
func (m remote) list(ctx context.Context, r *repo.Repository) (listing, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	out, err := m.git(ctx, r, nil, "ls-remote", "--symref", "--end-of-options", m.url, "HEAD", "refs/heads/*",
		"refs/tags/*")
	if err != nil {
		return listing{}, gitSaid("list the refs at the forge", err)
	}
	return parseListing(out)
}

// refsAt is where refs are at the forge; one that is not there is left out.
func (m remote) refsAt(ctx context.Context, r *repo.Repository, names ...string) (map[string]repo.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	out, err := m.git(ctx, r, nil, append([]string{"ls-remote", "--end-of-options", m.url}, names...)...)
	if err != nil {
		return nil, gitSaid("list the refs at the forge", err)
	}
	at := map[string]repo.Hash{}
	for line := range strings.Lines(string(out)) {
		value, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if hash, ok := repo.ParseHash(value); ok && slices.Contains(names, name) {
			at[name] = hash
		}
	}
	return at, nil
}

// gitSaid is an error of git, without the words it was started with.
func gitSaid(what string, err error) error {
	var ge *repo.GitError
	if errors.As(err, &ge) && ge.Stderr != "" {
		return fmt.Errorf("%s: %s", what, ge.Stderr)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// parseListing reads what git ls-remote --symref writes.
func parseListing(out []byte) (listing, error) {
	l := listing{refs: map[string]repo.Hash{}}
	for line := range strings.Lines(string(out)) {
		value, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			return l, fmt.Errorf("the forge's list of refs has a line that is none: %.100q", line)
		}
		if target, ok := strings.CutPrefix(value, "ref: "); ok {
			if name == "HEAD" {
				l.head = target
			}
			continue
		}
		if name == "HEAD" || strings.HasSuffix(name, "^{}") {
			continue
		}
		hash, ok := repo.ParseHash(value)
		if !ok {
			return l, fmt.Errorf("the forge has %.100q at %.100q, which is no SHA-1", name, value)
		}
		if !mirrored(name) {
			l.left++
			continue
		}
		l.refs[name] = hash
		if len(l.refs) > maxRefs {
			return l, fmt.Errorf("the forge has over %d branches and tags", maxRefs)
		}
	}
	return l, nil
}

// mirrored reports whether a ref follows the forge. What belongs to the server,
// and names that git would read as something else, do not.
func mirrored(name string) bool {
	switch {
	case len(name) > 240, strings.ContainsFunc(name,
		func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(`"\~^:?*[`, c) }):
		return false
	case strings.HasPrefix(name, "refs/heads/env/"), strings.HasPrefix(name, "refs/heads/promote/"):
		return false
	}
	return strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/")
}

// sync brings the branches and tags of r to where the forge has them: forced
// pushes and deletions too. It looks at what is on either side and nothing else,
// so that it may be stopped anywhere and run again. record is called before each move.
func (m remote) sync(ctx context.Context, r *repo.Repository,
	record func(Move) error) (moves []Move, left int, err error) {
	// What is here is read first: a branch that the gate lands on meanwhile, there and
	// here, is then not where it was, and does not go back.
	have, err := mirroredRefs(r)
	if err != nil {
		return nil, 0, err
	}
	want, err := m.list(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	due, err := difference(have, want)
	if err != nil {
		return nil, want.left, err
	}
	if len(due) == 0 {
		return nil, want.left, m.setHead(ctx, r, want)
	}
	if err := m.fetch(ctx, r, due); err != nil {
		return nil, want.left, err
	}
	crash.Point("mirror.fetched")
	for _, move := range due {
		if err := record(move); err != nil {
			return moves, want.left, fmt.Errorf("record %s: %w", move.Ref, err)
		}
		if err := r.Move(ctx, move.Ref, move.Old, move.New); err != nil {
			return moves, want.left, fmt.Errorf("move %s: %w", move.Ref, err)
		}
		crash.Point("mirror.moved")
		moves = append(moves, move)
	}
	return moves, want.left, m.setHead(ctx, r, want)
}

// pushTimeout bounds moving one branch at the forge: the gate of the repository waits
// for it.
const pushTimeout = 2 * time.Minute

// push moves a branch at the forge from old to new, or not at all. A branch that is
// at new already was moved before. Zero: it is not there, before or afterwards.
// repo.ErrMoved: it is elsewhere.
func (m remote) push(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	ref := "refs/heads/" + branch
	lease := old.String()
	if old == repo.Zero {
		lease = "" // it must not be there
	}
	source := new.String()
	if new == repo.Zero {
		source = ""
	}
	_, refused := m.git(ctx, r, nil, "push", "--quiet", "--no-verify", "--no-follow-tags", "--no-signed",
		"--recurse-submodules=no",
		"--force-with-lease="+ref+":"+lease, "--end-of-options", m.url, source+":"+ref)
	if refused == nil {
		return nil
	}
	now, err := m.refsAt(ctx, r, ref)
	switch {
	case err != nil:
		return gitSaid("push to the forge", refused)
	case now[ref] == new:
		return nil
	case now[ref] != old:
		return fmt.Errorf("%s at the forge is at %s: %w", branch, now[ref], repo.ErrMoved)
	}
	return gitSaid("push to the forge", refused)
}

// difference is what has to move: deletions first, for they make room for names
// above and below.
func difference(have map[string]repo.Hash, want listing) (due []Move, err error) {
	branches := 0
	for name := range want.refs {
		if strings.HasPrefix(name, "refs/heads/") {
			branches++
		}
	}
	if branches == 0 && len(have) > 0 {
		return nil, errors.New("the forge lists no branch at all: nothing is deleted because of that")
	}

	var moved []Move
	for name, old := range have {
		if want.refs[name] == repo.Zero {
			due = append(due, Move{Ref: name, Old: old})
		}
	}
	for name, hash := range want.refs {
		if have[name] != hash {
			moved = append(moved, Move{Ref: name, Old: have[name], New: hash})
		}
	}
	byName := func(a, b Move) int { return strings.Compare(a.Ref, b.Ref) }
	slices.SortFunc(due, byName)
	slices.SortFunc(moved, byName)
	return append(due, moved...), nil
}

// mirroredRefs is where the refs that follow the forge are here.
func mirroredRefs(r *repo.Repository) (map[string]repo.Hash, error) {
	have := map[string]repo.Hash{}
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		refs, err := r.Refs(prefix)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if mirrored(ref.Name) {
				have[ref.Name] = ref.Hash
			}
		}
	}
	return have, nil
}

// fetch brings in the objects of what is about to move, by their ids, so that
// what was listed is what comes. It writes no ref.
func (m remote) fetch(ctx context.Context, r *repo.Repository, due []Move) error {
	var ids bytes.Buffer
	for _, move := range due {
		if move.New != repo.Zero {
			fmt.Fprintln(&ids, move.New)
		}
	}
	if ids.Len() == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if _, err := m.git(ctx, r, ids.Bytes(), "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc",
		"--no-recurse-submodules", "--stdin", "--end-of-options", m.url); err != nil {
		return gitSaid("fetch from the forge", err)
	}
	return nil
}

// setHead has clones check out what they check out of the forge.
func (m remote) setHead(ctx context.Context, r *repo.Repository, want listing) error {
	if want.refs[want.head] == repo.Zero || !strings.HasPrefix(want.head, "refs/heads/") {
		return nil
	}
	if head, err := r.Head(); err != nil || head == want.head {
		return err
	}
	_, err := r.Git(ctx, "symbolic-ref", "HEAD", want.head)
	return err
}
