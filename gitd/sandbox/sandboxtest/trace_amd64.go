package sandboxtest

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// takeOver makes a process forget that it is to end with its parent.
func takeOver(pid int) error {
	if err := ptrace(unix.PTRACE_SEIZE, pid); err != nil {
		return err
	}
	if err := ptrace(unix.PTRACE_INTERRUPT, pid); err != nil {
		return err
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	var was, regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &was); err != nil {
		return err
	}
	code := make([]byte, 3)
	if _, err := syscall.PtracePeekText(pid, uintptr(was.Rip), code); err != nil {
		return err
	}
	if _, err := syscall.PtracePokeText(pid, uintptr(was.Rip), []byte{0x0f, 0x05, 0xcc}); err != nil { // syscall; int3
		return err
	}
	regs = was
	regs.Orig_rax = ^uint64(0)
	regs.Rax, regs.Rdi, regs.Rsi = unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0
	if err := syscall.PtraceSetRegs(pid, &regs); err != nil {
		return err
	}
	if err := syscall.PtraceCont(pid, 0); err != nil {
		return err
	}
	if _, err := syscall.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	if regs.Rax != 0 {
		return fmt.Errorf("prctl answered %d", int64(regs.Rax))
	}
	// It goes on where it was, and finds its call interrupted.
	if _, err := syscall.PtracePokeText(pid, uintptr(was.Rip), code); err != nil {
		return err
	}
	if err := syscall.PtraceSetRegs(pid, &was); err != nil {
		return err
	}
	return syscall.PtraceDetach(pid)
}
