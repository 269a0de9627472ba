package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// batch runs the tasks of a batch (B58-B60), each as a build with a copy of the
// source, a sandbox and a log of its own, several at a time. The batch is green when
// all are that may not fail.
func (r *runner) batch(ctx context.Context, ex Executor) error {
	tasks := r.spec.Batch.Tasks
	r.log.Note("Entering phase BATCH: %d builds", len(tasks))
	r.phaseNow = "batch"
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	b := &batch{r: r, done: map[string]chan struct{}{}, outcomes: map[string]*outcome{},
		slots: make(chan struct{}, max(2, runtime.NumCPU()))}
	for _, t := range tasks {
		b.done[t.ID] = make(chan struct{})
	}
	var all sync.WaitGroup
	for i, t := range tasks {
		all.Go(func() {
			defer close(b.done[t.ID])
			o := b.task(ctx, ex, t, i == 0)
			b.mu.Lock()
			b.outcomes[t.ID] = o
			b.mu.Unlock()
			if r.spec.Batch.FastFail && !t.IgnoreFailure && (o.err != nil || o.result.Status != Succeeded) {
				stop()
			}
		})
	}
	all.Wait()
	return b.end(tasks)
}

// batch is a batch that runs.
type batch struct {
	r     *runner
	slots chan struct{}
	done  map[string]chan struct{} // by task: closed when it has ended

	mu       sync.Mutex
	outcomes map[string]*outcome
	telling  sync.Mutex // held while the log is told of one task
}

// outcome is what became of a task.
type outcome struct {
	result  Result
	skipped string // why it did not run
	err     error
}

// task runs a task when those that it depends on have ended, and it has its turn.
func (b *batch) task(ctx context.Context, ex Executor, t buildspec.Task, first bool) *outcome {
	for _, on := range t.DependsOn {
		<-b.done[on]
		b.mu.Lock()
		before := b.outcomes[on]
		b.mu.Unlock()
		if before.err != nil || before.result.Status != Succeeded && !b.mayFail(on) {
			return b.skip(t, "it depends on "+on)
		}
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return b.skip(t, "the batch has ended")
	}
	result, err := b.build(ctx, ex, t, first)
	return &outcome{result: result, err: err}
}

func (b *batch) mayFail(id string) bool {
	return slices.ContainsFunc(b.r.spec.Batch.Tasks, func(t buildspec.Task) bool { return t.ID == id && t.IgnoreFailure })
}

func (b *batch) skip(t buildspec.Task, why string) *outcome {
	b.r.log.Note("task %s: not run, %s", t.ID, why)
	return &outcome{skipped: why, result: Result{Status: Stopped}}
}

// build is the build of one task.
func (b *batch) build(ctx context.Context, ex Executor, t buildspec.Task, first bool) (Result, error) {
	dir := filepath.Join(b.r.req.Work, "tasks", t.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Result{}, err
	}
	defer RemoveAll(dir) // 100 of them would fill the disk together
	req := b.r.req
	req.ID += "-" + t.ID
	req.Source, req.Work = filepath.Join(dir, "source"), dir
	req.Buildspec = cmp.Or(t.Buildspec, b.r.file)
	req.Task = &t
	req.Timeout = 0 // the batch has one
	req.Variables = maps.Clone(req.Variables)
	if req.Variables == nil {
		req.Variables = map[string]string{}
	}
	for _, v := range t.Variables {
		req.Variables[v.Name] = v.Value
	}
	if !first { // one layer takes what one build writes; that of the first is kept
		layer := filepath.Join(dir, "cache")
		req.Cache.Upper = filepath.Join(layer, "upper")
		if req.Cache.Lower != "" {
			req.Cache.Work, req.Cache.Merged = filepath.Join(layer, "work"), filepath.Join(layer, "merged")
			for _, d := range []string{req.Cache.Work, req.Cache.Merged} {
				if err := os.MkdirAll(d, 0o700); err != nil {
					return Result{}, err
				}
			}
		}
	}
	if err := copyAll(ctx, b.r.req.Source, req.Source); err != nil {
		return Result{}, cmp.Or(ctx.Err(), err)
	}
	log, err := b.r.log.Beside(t.ID)
	if err != nil {
		return Result{}, err
	}
	defer log.Discard() // unless it is finished
	b.r.log.Note("task %s: begins, log %s", t.ID, log.ID())
	result, err := Run(ctx, req, ex, log, b.r.store)
	if err != nil {
		return result, err
	}
	digest, err := log.Finish(string(result.Status))
	if err != nil {
		return result, err
	}
	return result, b.tell(t, result, digest)
}

// tell has the log of the batch say what came of a task; of one that failed all
// that it printed.
func (b *batch) tell(t buildspec.Task, result Result, digest string) error {
	b.telling.Lock()
	defer b.telling.Unlock()
	took := result.Finished.Sub(result.Started).Round(10 * time.Millisecond)
	if result.Status == Failed || result.Status == TimedOut {
		n := b.r.log.Begin("batch", "task "+t.ID)
		out := b.r.log.Output(n)
		for e, err := range b.r.log.Others().Follow(context.Background(), digest, false) {
			if err != nil {
				return err
			}
			if e.Kind == buildlog.Out || e.Kind == buildlog.Note {
				fmt.Fprintf(out, "%s\n", e.Text)
			}
		}
		out.Close()
		b.r.log.End(n, max(1, result.Exit))
	}
	about := buildlog.About("")
	text := fmt.Sprintf("task %s: %s in %s, log sha256:%s", t.ID, result.Status, took, digest)
	if result.Status == Failed {
		about = buildlog.Warning
		text += ", " + result.Reason
		if t.IgnoreFailure {
			text += "; ignore-failure: it does not count"
		}
	}
	b.r.log.NoteLog(about, digest, "%s", text)
	return nil
}

// end makes one result of all.
func (b *batch) end(tasks []buildspec.Task) error {
	var errs []error
	failed := 0
	for _, t := range tasks {
		o := b.outcomes[t.ID]
		if o.err != nil && !errors.Is(o.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("task %s: %w", t.ID, o.err))
		}
		for _, a := range o.result.Artifacts {
			b.r.result.Artifacts = append(b.r.result.Artifacts,
				artifact.Artifact{Name: t.ID + "/" + a.Name, Digest: a.Digest, Size: a.Size, Files: a.Files})
		}
		b.r.result.Reports = append(b.r.result.Reports, o.result.Reports...)
		if t.IgnoreFailure || o.err == nil && o.result.Status == Succeeded {
			continue
		}
		failed++
		if o.result.Status == Failed || o.result.Status == TimedOut {
			b.r.fail(o.result.Phase, o.result.Code, o.result.Command, o.result.Exit,
				fmt.Sprintf("task %s: %s", t.ID, o.result.Reason))
		}
	}
	if failed > 0 {
		b.r.fail("batch", "BATCH_ERROR", "", 0, "tasks did not run")
		if failed > 1 {
			b.r.result.Reason += fmt.Sprintf("; %d of %d tasks are not green", failed, len(tasks))
		}
	}
	b.r.log.Note("Phase complete: BATCH State: %s", b.r.result.Status)
	return errors.Join(errs...)
}

// shardTools are what a task of a fanout chooses its tests with (B60).
var shardTools = map[string]string{
	"codebuild-glob-search": `#!/bin/sh
for glob in "$@"; do
	flat=$(printf '%s\n' "$glob" | sed 's|\*\*/||g')
	any=$(printf '%s\n' "$glob" | sed 's|\*\*|*|g')
	find . '(' -name .git -o -name node_modules ')' -prune -o -type f '(' -path "./$flat" -o -path "./$any" ')' -print
done | sed 's|^\./||' | LC_ALL=C sort -u
`,
	"codebuild-tests-run": `#!/bin/sh
# Runs a test command with this task's share of the test files.
command= search= strategy=equal-distribution
while [ $# -gt 0 ]; do
	case $1 in
	--test-command) command=$2; shift 2 ;;
	--files-search) search=$2; shift 2 ;;
	--sharding-strategy) strategy=$2; shift 2 ;;
	*) shift ;;
	esac
done
[ -n "$command" ] && [ -n "$search" ] || { echo 'usage: codebuild-tests-run --test-command COMMAND --files-search COMMAND' >&2; exit 2; }
shards=${HEADGATE_SHARDS:-1} shard=${HEADGATE_SHARD:-0}
files=$(sh -c "$search" | LC_ALL=C sort -u | awk -v n="$shards" -v i="$shard" '(NR - 1) % n == i')
echo "shard $((shard + 1)) of $shards: $(printf '%s\n' "$files" | grep -c .) files"
[ -n "$files" ] || exit 0
export CODEBUILD_CURRENT_SHARD_FILES="$files"
case $command in
*CODEBUILD_CURRENT_SHARD_FILES*) exec sh -c "$command" ;;
esac
IFS='
'
set -f
exec sh -c "$command"' "$@"' sh $files
`,
}
