package host

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/headgate-cd/headgate/hooks/build"
)

// overlay is a command line that mounts a cache in a mount namespace of its own and
// becomes the command after it; nothing when there is nothing below the cache. The
// mount goes with its namespace. The kernel copies what is written to: nothing inside
// can reach the lower directory.
func overlay(c build.Cache) []string {
	if c.Lower == "" {
		return nil
	}
	line := []string{"unshare", "--mount", "--propagation", "private"}
	options := ""
	if os.Geteuid() != 0 {
		line = append(line, "--user", "--map-root-user")
		options = "userxattr,"
	}
	const script = `mount -t overlay -o "$1" overlay "$2" && shift 2 && exec "$@"`
	options += "lowerdir=" + c.Lower + ",upperdir=" + c.Upper + ",workdir=" + c.Work
	return append(line, "/bin/sh", "-c", script, "sh", options, c.Merged)
}

// Overlays reports whether a build can be given a cache to read that it cannot
// write to: whether this machine lets us mount one directory over another.
func (h *Host) Overlays(ctx context.Context) bool {
	h.overlayProbe.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // the answer is for all builds
		defer cancel()
		dir, err := os.MkdirTemp("", "headgate-overlay-")
		if err != nil {
			return
		}
		defer build.RemoveAll(dir)
		c := build.Cache{
			Lower:  filepath.Join(dir, "lower"),
			Upper:  filepath.Join(dir, "upper"),
			Work:   filepath.Join(dir, "work"),
			Merged: filepath.Join(dir, "merged"),
		}
		for _, d := range []string{c.Lower, c.Upper, c.Work, c.Merged} {
			if os.Mkdir(d, 0o700) != nil {
				return
			}
		}
		line := append(overlay(c), "true")
		h.overlays = exec.CommandContext(ctx, line[0], line[1:]...).Run() == nil
	})
	return h.overlays
}
