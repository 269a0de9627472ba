package host

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// keyrings are the calls add_key, request_key and keyctl, which follow each other
// on every architecture: the number of the first.
var keyrings = []struct{ arch, first uint32 }{
	{unix.AUDIT_ARCH_X86_64, 248},
	{unix.AUDIT_ARCH_I386, 286},
	{unix.AUDIT_ARCH_AARCH64, 217},
	{unix.AUDIT_ARCH_ARM, 309},
	{unix.AUDIT_ARCH_RISCV64, 217},
}

// x32 marks a call of that kind of program on x86-64.
const x32 = 1 << 30

// noKeyrings is a seccomp program with which a process has no keyrings. No
// namespace parts it from its session's, which is the one that the server was
// started in: the keys of whoever logged in there.
func noKeyrings() string {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	jump := func(code uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | code, Jt: yes, Jf: no, K: k}
	}
	const load, ret, nr, arch = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_RET | unix.BPF_K, 0, 4
	allow, refuse := stmt(ret, unix.SECCOMP_RET_ALLOW), stmt(ret, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS))
	var program []unix.SockFilter
	for _, k := range keyrings {
		program = append(program,
			stmt(load, arch),
			jump(unix.BPF_JEQ, k.arch, 0, 6), // else to the next
			stmt(load, nr),
			stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, ^uint32(x32)),
			jump(unix.BPF_JGE, k.first, 0, 1),
			jump(unix.BPF_JGT, k.first+2, 0, 1),
			allow, refuse)
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, append(program, allow)) // a buffer takes it
	return b.String()
}
