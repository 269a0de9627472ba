package hosts

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWatched bounds the directories that are watched; what lies in more is seen on the
// schedule.
const maxWatched = 2000

// watcher tells when something in directories may have changed. It is a hint: what is
// there is looked at.
type watcher struct {
	changed chan struct{}
	file    *os.File
	reading sync.WaitGroup
}

// watchDirs watches directories, not what is below them. Where the kernel has no more
// watches to give, there are fewer.
func watchDirs(dirs []string) *watcher {
	w := &watcher{changed: make(chan struct{}, 1)}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return w
	}
	const events = unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	for _, dir := range dirs[:min(len(dirs), maxWatched)] {
		_, _ = unix.InotifyAddWatch(fd, dir, events)
	}
	w.file = os.NewFile(uintptr(fd), "inotify")
	w.reading.Go(w.read)
	return w
}

func (w *watcher) read() {
	buffer := make([]byte, 16<<10)
	for {
		if _, err := w.file.Read(buffer); err != nil { // closed
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) close() {
	if w.file != nil {
		w.file.Close()
		w.reading.Wait()
	}
}
