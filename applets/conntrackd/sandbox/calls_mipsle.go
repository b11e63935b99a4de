package sandbox

import "golang.org/x/sys/unix"

// auditArch is the architecture as the kernel tells it to filters.
const auditArch uint32 = unix.AUDIT_ARCH_MIPSEL

// cloneFlags is the argument of clone(2) that has the flags.
const cloneFlags = 0

// archCalls are the calls that not every architecture has.
var archCalls = []call{
	{unix.SYS_MMAP, noExec},
	{unix.SYS_MMAP2, noExec},
	{unix.SYS_FUTEX_TIME64, always},
	{unix.SYS_CLOCK_GETTIME64, always},
	{unix.SYS_POLL, always},
	{unix.SYS_PPOLL_TIME64, always},
	{unix.SYS_RECVMMSG_TIME64, always},
	{unix.SYS_FCNTL64, always},
	{unix.SYS_STAT64, always},
	{unix.SYS_LSTAT64, always},
	{unix.SYS_FSTAT64, always},
	{unix.SYS_FSTATAT64, always},
	{unix.SYS_FTRUNCATE64, always},
	{unix.SYS__LLSEEK, always},
}
