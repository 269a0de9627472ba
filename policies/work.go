package policies

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of a process that evaluates policies.
const (
	maxMemory = 256 << 20
	maxStack  = 32 << 20
)

// Work is all that a process does which a Pool starts. It ends when its input does.
func Work() {
	confine()
	serve(os.Stdin, os.Stdout)
}

// confine takes from this process what no policy needs. What a machine does not
// have (seccomp) is done without: Rego has no built-in that would reach out.
func confine() {
	runtime.GOMAXPROCS(1) // the other processors are others'
	debug.SetMemoryLimit(maxMemory * 3 / 4)
	debug.SetGCPercent(400) // what a query leaves is small beside the limit, and collecting it delays the next
	debug.SetMaxStack(maxStack)
	debug.SetTraceback("none")
	err := limitMemory()
	for what, most := range map[int]uint64{
		unix.RLIMIT_CORE:   0,
		unix.RLIMIT_FSIZE:  0,
		unix.RLIMIT_NOFILE: 64,
	} {
		err = cmp.Or(err, unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "limit a process for policies:", err)
		os.Exit(1)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != nil {
		return
	}
	filter := noReach()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// With TSYNC all threads have it, and may gain no privileges either.
	_, _, _ = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
}

// noReach is a seccomp program without sockets, files that are not open yet, other
// programs and other processes. Rules that name a time zone therefore read it from
// this program, as everywhere.
func noReach() []unix.SockFilter {
	refused := []uint32{
		unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND,
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_IO_URING_SETUP,
		unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
		unix.SYS_PIDFD_OPEN, unix.SYS_BPF, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT,
	}
	arch := uint32(unix.AUDIT_ARCH_AARCH64)
	if runtime.GOARCH == "amd64" {
		arch = unix.AUDIT_ARCH_X86_64
		refused = append(refused, 2, 57, 58, 85) // open, fork, vfork, creat, which arm64 does not have
	}
	const load, equal, ret, nr, archAt = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K, 0, 4
	program := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: equal, K: arch, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: nr},
	}
	for _, call := range refused {
		program = append(program,
			unix.SockFilter{Code: equal, K: call, Jf: 1},
			unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	return append(program, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
}

// serve answers requests, one at a time. The end of its input ends the process,
// also while a policy is evaluated that would not end.
func serve(in io.Reader, out io.Writer) {
	requests := make(chan request)
	go func() {
		for buffered := bufio.NewReader(in); ; {
			var r request
			if err := readFrame(buffered, &r, maxRequest); err != nil {
				os.Exit(0)
			}
			requests <- r
		}
	}()
	var s served
	for r := range requests {
		answer := s.answer(r)
		err := writeFrame(out, answer, maxReply)
		if err != nil {
			err = writeFrame(out, reply{Error: "the answer is " + err.Error(), Digest: answer.Digest, Version: answer.Version},
				maxReply)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// served is what a process has been given to keep.
type served struct {
	engine *Engine
	files  map[string][]byte
	built  policy
}

func (s *served) answer(r request) (a reply) {
	var err error
	switch r.Op {
	case opLoad:
		s.engine, err = New(r.Files)
		if s.engine != nil {
			a.Digest, a.Version = s.engine.digest, s.engine.version
		}
	case opCompile:
		s.files = r.Files
		s.built, a.Problems = build(r.Files)
	case opTest:
		a.Problems = runTests(context.Background(), s.files, s.built)
	case opEvaluate:
		a.Answer, a.Printed, err = s.engine.evaluator.evaluate(context.Background(), r.Query, r.Now, r.Input)
	default:
		err = fmt.Errorf("%q is not something to ask for", r.Op)
	}
	if ps, ok := err.(Problems); ok {
		a.Problems, err = ps, nil
	}
	if err != nil {
		a.Error = shortened(firstLine(err))
	}
	a.Problems = a.Problems[:min(len(a.Problems), 100)]
	for i := range a.Problems {
		p := &a.Problems[i]
		p.What, p.Fix = shortened(p.What), shortened(p.Fix)
	}
	return a
}

// shortened cuts a message that quotes what a policy made.
func shortened(s string) string {
	if len(s) <= 1000 {
		return s
	}
	return s[:1000] + " …"
}
