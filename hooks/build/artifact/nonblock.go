package artifact

import "syscall"

// NonBlock keeps Open from waiting for the other end of a fifo.
const NonBlock = syscall.O_NONBLOCK
