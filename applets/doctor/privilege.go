package doctor

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// checkPrivilege asks the kernel, since only it knows whether a capability is valid in this
// network namespace.
func checkPrivilege(h *host, r *report) {
	said, err := h.ask(conntrackPart.typ)
	held, known := h.capability(unix.CAP_NET_ADMIN)
	switch {
	case said != answerDenied && (held || !known || said == answerYes):
		r.ok("the caller may use connection tracking")
	case !held:
		r.add(Error, "the caller lacks CAP_NET_ADMIN", "without it the kernel neither shows nor changes flows, rules and helpers; checks that need the kernel were left out",
			"run it as root, or with AmbientCapabilities=CAP_NET_ADMIN in the systemd unit")
	case said == answerDenied:
		r.add(Error, "the caller has CAP_NET_ADMIN, but in another user namespace than the one of this network namespace: "+err.Error(),
			"a capability is valid only in the user namespace that created the network namespace; checks that need the kernel were left out; "+userNamespaces(h),
			"run outside of the container, or give it a network namespace of its own")
	}
}

// capability reports whether the caller has an effective capability in its own user
// namespace.
func (h *host) capability(n uint) (held, known bool) {
	status, err := h.file("proc/thread-self/status")
	if err != nil {
		return false, false
	}
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return bits>>n&1 != 0, err == nil
		}
	}
	return false, false
}

func userNamespaces(h *host) string {
	own, err := os.Readlink(h.root + "proc/thread-self/ns/user")
	if err != nil {
		return "the caller's user namespace is not known"
	}
	return "the caller is in " + own
}
