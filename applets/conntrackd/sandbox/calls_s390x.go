package sandbox

import "golang.org/x/sys/unix"

// auditArch is the architecture as the kernel tells it to filters.
const auditArch uint32 = unix.AUDIT_ARCH_S390X

// cloneFlags is the argument of clone(2) that has the flags.
const cloneFlags = 1

// archCalls are the calls that not every architecture has.
var archCalls = []call{
	{unix.SYS_MMAP, always}, // its arguments are in memory, and so are socketcall's
	{unix.SYS_NEWFSTATAT, always},
	{unix.SYS_STAT, always},
	{unix.SYS_LSTAT, always},
	{unix.SYS_POLL, always},
	{unix.SYS_SOCKETCALL, always},
}
