package host

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
)

// mounts is a command line that mounts layers in a mount namespace of its own and
// becomes the command after it; nothing when there are none. The mounts go with
// their namespace. The kernel copies what is written to: nothing inside can reach
// what is below a layer.
func mounts(layers []layer) ([]string, error) {
	if len(layers) == 0 {
		return nil, nil
	}
	line := []string{"unshare", "--mount", "--propagation", "private"}
	more := ""
	if os.Geteuid() != 0 {
		line = append(line, "--user", "--map-root-user")
		more = "userxattr,"
	}
	var table strings.Builder
	for _, l := range layers {
		fields := []string{"overlay", l.merged, "overlay",
			more + "lowerdir=" + l.lower + ",upperdir=" + l.upper + ",workdir=" + l.work, "0", "0"}
		for i, f := range fields {
			fields[i] = strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`, "#", `\043`).Replace(f)
		}
		table.WriteString(strings.Join(fields, " ") + "\n")
	}
	// One program mounts them all: each would take as long alone.
	const script = `mount -a -T "$1" && shift && exec "$@"`
	file := filepath.Join(filepath.Dir(layers[0].merged), "mounts")
	return append(line, "/bin/sh", "-c", script, "sh", file), os.WriteFile(file, []byte(table.String()), 0o600)
}

// ambiguous says whether a path means something else to the kernel, which reads lists of
// options and directories from it.
func ambiguous(path string) bool { return strings.ContainsAny(path, `,:\`) }

// ambiguousError is why nothing is mounted over a path.
type ambiguousError string

func (e ambiguousError) Error() string {
	return "the path " + string(e) + " holds a comma, a colon or a backslash"
}

// cacheLayer is the layer of a cache that has something below it.
func cacheLayer(c build.Cache) []layer {
	if c.Lower == "" {
		return nil
	}
	return []layer{{lower: c.Lower, upper: c.Upper, work: c.Work, merged: c.Merged}}
}

// Overlays reports whether a build can be given a cache to read that it cannot
// write to: whether this machine lets us mount one directory over another.
func (h *Host) Overlays(ctx context.Context) bool {
	h.overlayProbe.Do(func() {
		dir, err := os.MkdirTemp("", "headgate-overlay-")
		if err != nil {
			return
		}
		defer build.RemoveAll(dir)
		lower := filepath.Join(dir, "lower")
		if os.Mkdir(lower, 0o700) == nil {
			h.overlays = canOverlay(context.WithoutCancel(ctx), dir, lower) == nil // the answer is for all builds
		}
	})
	return h.overlays
}

// canOverlay mounts a layer below dir over lower, and says why it could not.
func canOverlay(ctx context.Context, dir, lower string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	at := filepath.Join(dir, "probe")
	defer build.RemoveAll(at)
	l := layer{lower: lower, upper: at + "/upper", work: at + "/work", merged: at + "/merged"}
	for _, d := range []string{l.upper, l.work, l.merged} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	line, err := mounts([]layer{l})
	if err != nil {
		return err
	}
	line = append(line, "true")
	if out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("one directory cannot be mounted over another here: %s", cmp.Or(first, err.Error()))
	}
	return nil
}

// probeTimeout is for a machine on which everything hangs.
const probeTimeout = time.Minute
