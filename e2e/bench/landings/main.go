// Command landings gives a repository of a stopped server the records of many
// landings, for the benchmark that asks what the next one costs: it writes with the
// product's own code what the gate writes, and packs as often as the server does,
// without the pushes, the policies and the builds.
//
//	landings <data directory> <repository> <number> <pack after>
//
// The repository must have had a landing on main; the others are made like it.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "landings:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: landings <data directory> <repository> <number> <pack after>")
	}
	number, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	after, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	signer, err := repo.OpenSigner(filepath.Join(args[0], "keys", "server"),
		repo.Person{Name: "Headgate", Email: "headgate@127.0.0.1"})
	if err != nil {
		return err
	}
	store, _, err := repo.OpenStore(filepath.Join(args[0], "repositories"), filepath.Join(args[0], "hooks"), signer)
	if err != nil {
		return err
	}
	defer store.Close()
	r, err := store.Repository(args[1])
	if err != nil {
		return err
	}
	m := maker{r: r, changes: change.Of(r), releases: release.Of(r)}
	if err := m.learn(ctx); err != nil {
		return fmt.Errorf("read the landing to imitate: %w", err)
	}

	loose := after // of what was there nothing is known
	for range number {
		if err := m.land(ctx); err != nil {
			return err
		}
		if loose += objects; loose < after {
			continue
		}
		if _, err := r.Pack(ctx, time.Now()); err != nil {
			return err
		}
		loose = 0
	}
	return nil
}

// objects is how many objects a landing writes, with what was pushed.
const objects = 13

// maker makes landings like the last one.
type maker struct {
	r        *repo.Repository
	changes  *change.Store
	releases *release.Store

	tip     repo.Hash
	tree    repo.Hash
	message string
	last    change.Change
	verdict verdict.Verdict
	inputs  verdict.Inputs
	push    decision.Saved
	landing decision.Saved
}

// learn reads the newest landing.
func (m *maker) learn(ctx context.Context) error {
	list, err := m.changes.List()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("%s has no changes", m.r.Name())
	}
	m.last = list[len(list)-1]
	e, landed := m.last.Landing()
	if !landed {
		return fmt.Errorf("change %d has not landed", m.last.Number)
	}
	m.tip, m.tree = e.New, e.Tree
	commit, err := m.r.Commit(m.tip)
	if err != nil {
		return err
	}
	m.message = commit.Message
	known, err := verdict.On(m.r, e.Tree)
	if err != nil {
		return err
	}
	m.verdict = *known.Of(e.Verdict)
	m.inputs = verdict.Inputs{Buildspec: m.verdict.Buildspec, Image: m.verdict.Image}
	if m.inputs.Blob, _ = repo.ParseHash(m.verdict.Blob); m.inputs.Blob == repo.Zero {
		return fmt.Errorf("change %d was built without a buildspec", m.last.Number)
	}
	decided, _, err := decision.List(ctx, m.r, repo.Zero, 20)
	if err != nil {
		return err
	}
	for _, d := range decided { // newest first
		switch {
		case d.Query == "push" && m.push.Query == "":
			m.push = d
		case d.Query == "land" && m.landing.Query == "":
			m.landing = d
		}
	}
	if m.push.Query == "" || m.landing.Query == "" {
		return fmt.Errorf("%s has no decisions about pushing and landing", m.r.Name())
	}
	return nil
}

// decide records a decision like another one, about something of this landing.
func (m *maker) decide(ctx context.Context, like decision.Saved, at time.Time, about string) (repo.Hash, error) {
	document := fmt.Appendf(nil, "%s\n%q", like.JSON, m.tree.String())
	digest := sha256.Sum256(document)
	return decision.Save(ctx, m.r, at, decision.Record{
		Query:  like.Query,
		About:  about,
		Answer: like.Answer,
		Policy: like.Policy,
		Digest: "sha256:" + hex.EncodeToString(digest[:]),
		JSON:   document,
	})
}

// land makes one landing of a new tree that fast-forwards.
func (m *maker) land(ctx context.Context) error {
	now := time.Now()
	number := m.last.Number + 1
	base := m.tip
	content := repo.Blob(fmt.Appendf(nil, "hello world, for the %dth time\n", number))
	if err := m.r.Write(content); err != nil {
		return err
	}
	var err error
	m.tree, err = m.r.TreeWith(m.tree, map[string]repo.Edit{"words.txt": {Mode: filemode.Regular, Hash: content.Hash()}})
	if err != nil {
		return err
	}
	author := repo.Person{Name: "ada", Email: "ada@example.com"}
	m.tip, err = m.r.WriteCommit(repo.NewCommit{Tree: m.tree, Parents: []repo.Hash{base}, Author: author, At: now,
		Message: m.message})
	if err != nil {
		return err
	}

	pushed, err := m.decide(ctx, m.push, now, m.push.About)
	if err != nil {
		return err
	}
	m.last, err = m.changes.Open(ctx,
		change.Push{Branch: m.last.Branch, Commit: m.tip, By: m.last.Head().By, Key: m.last.Head().Key,
			Decision: pushed, At: now})
	if err != nil {
		return err
	}
	if err := m.changes.RepairHead(ctx, m.last); err != nil {
		return err
	}

	v := m.verdict
	m.inputs.Tree = m.tree
	v.Key, v.Change, v.Revision, v.Candidate = m.inputs.Key(), number, 1, m.tip.String()
	v.Started, v.Finished = now.UTC(), now.UTC().Add(time.Second)
	if err := verdict.Note(ctx, m.r, m.tree, v); err != nil {
		return err
	}
	decided, err := m.decide(ctx, m.landing, now, fmt.Sprintf("change %d to refs/heads/%s", number, m.last.Branch))
	if err != nil {
		return err
	}
	tested := change.Facts{Candidate: m.tip, Base: base, Tree: m.tree, Verdict: v.Key, Decision: decided, Log: v.LogName(),
		Took: time.Second}
	m.last, err = m.changes.Append(ctx, m.last, change.Event{Kind: change.Tested, At: now,
		Subject: fmt.Sprintf("tested %s + %d: green", m.last.Branch, number), Facts: tested})
	if err != nil {
		return err
	}
	if err := m.r.Move(ctx, "refs/heads/"+m.last.Branch, base, m.tip); err != nil {
		return err
	}
	landed := change.Facts{Old: base, New: m.tip, Tree: m.tree, Verdict: v.Key, Log: v.LogName()}
	m.last, err = m.changes.Append(ctx, m.last, change.Event{Kind: change.Landed, At: now,
		Subject: fmt.Sprintf("landed on %s as %s", m.last.Branch, m.tip.String()[:7]), Facts: landed})
	if err != nil {
		return err
	}
	_, err = m.releases.Make(ctx,
		release.Landing{Branch: m.last.Branch, Commit: m.tip, Previous: base, Subject: "Say it another way",
			Changes: []int{number}, By: m.last.Head().By, At: now, Verdict: v})
	return err
}
