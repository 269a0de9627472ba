package hosts

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Logs implements target.Logger: what the scripts of deployments have printed.
func (t *Target) Logs(ctx context.Context, k target.Key, q target.LogQuery) iter.Seq2[target.LogLine, error] {
	return func(yield func(target.LogLine, error) bool) {
		name, err := t.groups.of(k)
		if err != nil {
			yield(target.LogLine{}, err)
			return
		}
		printed, stop := t.printed.Watch(k.String()) // before looking, to miss nothing
		defer stop()
		read := map[string]int64{}
		newest := q.Lines // of what there is already
		target.Follow(ctx, q.Follow, printed, yield, func() ([]target.LogLine, error) {
			lines, err := t.readLogs(name, q, read)
			if over := len(lines) - newest; newest > 0 && over > 0 {
				lines = lines[over:]
			}
			newest = 0
			return lines, err
		})
	}
}

// maxLogRead bounds what is read of one deployment's log at once: its end.
const maxLogRead = 2 << 20

// readLogs reads what the logs of a group's deployments have got since the last time.
func (t *Target) readLogs(name string, q target.LogQuery, read map[string]int64) ([]target.LogLine, error) {
	if q.Unit != "" && q.Unit != t.Name {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(t.Host.Root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was deployed yet
	}
	if err != nil {
		return nil, err
	}
	var all []target.LogLine
	for _, e := range entries {
		lines, err := t.readLog(name, e.Name(), read)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it was removed meanwhile
			return nil, err
		}
		for _, l := range lines {
			if !l.At.Before(q.Since) {
				all = append(all, l)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b target.LogLine) int { return a.At.Compare(b.At) })
	return all, nil
}

func (t *Target) readLog(name, deployment string, read map[string]int64) ([]target.LogLine, error) {
	f, err := os.Open(t.Host.LogFile(name, deployment))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(read[deployment], info.Size()-maxLogRead)
	if from >= info.Size() {
		return nil, nil
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(f, info.Size()-from))
	var lines []target.LogLine
	for {
		text, err := r.ReadString('\n')
		if err != nil { // the end, or a line that is being written: the next time
			return lines, nil
		}
		from += int64(len(text))
		read[deployment] = from
		if line, ok := t.line(deployment, strings.TrimSuffix(text, "\n")); ok {
			lines = append(lines, line)
		}
	}
}

// line reads one of scripts.log; it is none when reading began within it.
func (t *Target) line(deployment, text string) (target.LogLine, bool) {
	const layout = "2006-01-02 15:04:05"
	if len(text) <= len(layout) {
		return target.LogLine{}, false
	}
	at, err := time.ParseInLocation(layout, text[:len(layout)], time.Local)
	if err != nil {
		return target.LogLine{}, false
	}
	l := target.LogLine{At: at, Unit: t.Name, Instance: deployment, Text: text[len(layout)+1:]}
	for _, stream := range []string{"[stdout]", "[stderr]"} {
		if printed, ok := strings.CutPrefix(l.Text, stream); ok {
			l.Text = printed
			return l, true
		}
	}
	l.Own, l.Text = true, strings.TrimPrefix(l.Text, "[headgate]")
	return l, true
}
