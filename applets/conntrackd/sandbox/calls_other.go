//go:build !(amd64 || arm64 || arm || mips || mipsle || ppc64le || riscv64 || s390x)

package sandbox

const (
	auditArch  uint32 = 0 // no filter
	cloneFlags        = 0
)

var archCalls []call
