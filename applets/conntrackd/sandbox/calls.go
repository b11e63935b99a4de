package sandbox

import "golang.org/x/sys/unix"

// always is the empty condition.
var always condition

// calls returns the system calls that the daemon makes after everything is open, on every
// architecture, including those that Go's runtime may make at any time. The most frequent
// come first, because older kernels walk through the filter for each call. pid is the
// process's id.
func calls(pid uint32) []call {
	return []call{
		{unix.SYS_FUTEX, always},
		{unix.SYS_NANOSLEEP, always},
		{unix.SYS_EPOLL_PWAIT, always},
		{unix.SYS_RECVMMSG, always},
		{unix.SYS_SENDTO, always},
		{unix.SYS_READ, always},
		{unix.SYS_WRITE, always},
		{unix.SYS_SENDMSG, always},
		{unix.SYS_RECVMSG, always},
		{unix.SYS_RECVFROM, always},
		{unix.SYS_SENDMMSG, always},
		{unix.SYS_GETSOCKOPT, always},
		{unix.SYS_SETSOCKOPT, always},
		{unix.SYS_PPOLL, always},

		// Threads and their signals. Threads can be created, processes cannot.
		{unix.SYS_CLONE, condition{argument: cloneFlags, masked: unix.CLONE_THREAD, anyOf: []uint32{unix.CLONE_THREAD}}},
		{unix.SYS_TGKILL, condition{argument: 0, anyOf: []uint32{pid}}},
		{unix.SYS_RT_SIGRETURN, always},
		{unix.SYS_RT_SIGPROCMASK, always},
		{unix.SYS_RT_SIGACTION, always},
		{unix.SYS_SIGALTSTACK, always},
		{unix.SYS_RESTART_SYSCALL, always}, // the kernel's own, after SIGCONT
		{unix.SYS_GETPID, always},
		{unix.SYS_GETTID, always},
		{unix.SYS_GETEUID, always},
		{unix.SYS_SCHED_YIELD, always},
		{unix.SYS_SCHED_GETAFFINITY, always},
		{unix.SYS_EXIT, always},
		{unix.SYS_EXIT_GROUP, always},

		// Memory, none of it executable (see archCalls), and time.
		{unix.SYS_MADVISE, always},
		{unix.SYS_MUNMAP, always},
		{unix.SYS_MPROTECT, condition{argument: 2, masked: unix.PROT_EXEC, anyOf: []uint32{0}}},
		{unix.SYS_PRCTL, condition{argument: 0, anyOf: []uint32{unix.PR_SET_VMA}}}, // names memory
		{unix.SYS_CLOCK_GETTIME, always},
		{unix.SYS_GETRANDOM, always},
		{unix.SYS_UNAME, always},

		// Descriptors.
		{unix.SYS_CLOSE, always},
		{unix.SYS_FCNTL, always},
		{unix.SYS_EPOLL_CTL, always},
		{unix.SYS_EPOLL_CREATE1, always},
		{unix.SYS_EVENTFD2, always},

		// Sockets: reopened links, clients, the system's logger, the kernel.
		{unix.SYS_ACCEPT4, always},
		{unix.SYS_SOCKET, condition{argument: 0, anyOf: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}}},
		{unix.SYS_BIND, always},
		{unix.SYS_CONNECT, always},
		{unix.SYS_LISTEN, always},
		{unix.SYS_SHUTDOWN, always},
		{unix.SYS_GETSOCKNAME, always},
		{unix.SYS_GETPEERNAME, always},

		// Files: logs that are reopened and cut to whole lines; keepalived's file, which is
		// replaced; the lock and the socket, which are removed at the end.
		{unix.SYS_OPENAT, always},
		{unix.SYS_READLINKAT, always},
		{unix.SYS_FSTAT, always},
		{unix.SYS_STATX, always},
		{unix.SYS_LSEEK, always},
		{unix.SYS_PREAD64, always},
		{unix.SYS_FTRUNCATE, always},
		{unix.SYS_UNLINKAT, always},
		{unix.SYS_RENAMEAT2, always},
	}
}

// noExec is the condition of mmap(2), whose third argument is the protection.
var noExec = condition{argument: 2, masked: unix.PROT_EXEC, anyOf: []uint32{0}}
