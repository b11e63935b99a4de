package node

import (
	"fmt"

	"ctbox/conf"

	"golang.org/x/sys/unix"
)

// eventBuffer returns the size to ask for, which the kernel doubles, and what the log is
// to say about it.
func (n *Node) eventBuffer(g *conf.General) (size int, said string) {
	size, unused := g.EventBuffer()
	switch {
	case size != 0:
		return size / 2, ""
	case g.NetlinkBufferSizeFixed:
		return systemBuffer(), "NetlinkBufferSize is either not set or is greater than NetlinkBufferSizeMaxGrowth. Using current system buffer size"
	case unused:
		said = "NetlinkBufferSize is greater than NetlinkBufferSizeMaxGrowth. Using the default buffer size"
	}
	return n.burstBuffer / 2, said
}

// sameBuffer reports whether two configurations ask for the same buffer.
func sameBuffer(a, b *conf.General) bool {
	sizeA, _ := a.EventBuffer()
	sizeB, _ := b.EventBuffer()
	return sizeA == sizeB && (sizeA != 0 || a.NetlinkBufferSizeFixed == b.NetlinkBufferSizeFixed)
}

// systemBuffer returns what the system gives a new socket, net.core.rmem_default. Asked
// for, it is doubled: events gather for a while (coalesce). What a burst brings
// beyond it waits in this process.
func systemBuffer() int {
	const usual = 212992
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return usual
	}
	defer unix.Close(fd)
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return usual
	}
	return size
}

// growBuffer enlarges the event socket's buffer after an overrun: a small one to the
// default at once, since a burst that did not fit will not fit twice the size either, and
// any other to twice its size, up to the configured maximum.
func (n *Node) growBuffer() {
	if n.grownOut {
		return
	}
	g := &n.cfg.General
	before, burst := n.kernel.BufferSize, uint64(n.burstBuffer)
	switch {
	case !g.NetlinkBufferSizeFixed && before < burst:
		n.resizeBuffer(burst)
		if n.kernel.BufferSize > before {
			n.notice(fmt.Sprintf("netlink event socket buffer size has been raised from %d to %d bytes: events did not fit "+
				"what the configuration has (NetlinkBufferSizeFixed forbids this)", before, n.kernel.BufferSize))
		}
	case 2*before <= uint64(g.NetlinkBufferSizeMaxGrowth):
		n.resizeBuffer(2 * before)
		if n.kernel.BufferSize > before {
			n.notice(fmt.Sprintf("netlink event socket buffer size has been doubled to %d bytes", n.kernel.BufferSize))
		}
	default:
		n.grownOut = true
		n.notice("netlink event socket buffer size cannot be doubled further since it will exceed " +
			"NetlinkBufferSizeMaxGrowth. We are likely to be losing events, this may lead to " +
			"unsynchronized replicas. Please, consider increasing netlink socket buffer size via " +
			"NetlinkBufferSize and NetlinkBufferSizeMaxGrowth clauses in conntrackd.conf")
	}
}

// resizeBuffer asks for a buffer of size bytes. A refusal is said once: without
// CAP_NET_ADMIN net.core.rmem_max is the most.
func (n *Node) resizeBuffer(size uint64) {
	err := n.events.SetBuffer(int(size / 2)) // the kernel doubles it
	granted := uint64(n.events.Buffer())
	switch {
	case err != nil:
		n.log.Error("grow the netlink event buffer: " + err.Error())
	case granted < size:
		n.log.Warn(fmt.Sprintf("the kernel grants the netlink event socket a buffer of %d bytes instead of %d: "+
			"without CAP_NET_ADMIN net.core.rmem_max is the limit", granted, size))
	}
	n.grownOut = err != nil || granted < size
	n.kernel.BufferSize = granted
}
