package artifact

import "syscall"

// nonblock keeps Open from waiting for the other end of a fifo.
const nonblock = syscall.O_NONBLOCK
