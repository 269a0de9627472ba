package deploy

import (
	"golang.org/x/sys/unix"
)

// killAndWait kills the process that had the number when it was found to be one of
// a script, and waits until it is gone. The descriptor names that process and no later
// one of the same number.
func killAndWait(pid int, identity string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	if !isMarked(pid, identity) {
		return
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return
	}
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 30_000); err != unix.EINTR {
			return
		}
	}
}
