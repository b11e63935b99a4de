package sandbox

import "golang.org/x/sys/unix"

// auditArch is the architecture as the kernel tells it to filters.
const auditArch uint32 = unix.AUDIT_ARCH_MIPS
