package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/nl/ctnetlink"
)

// discard measures the kernel's own cost of a listing: one thread dumps the table over a blocking
// socket and discards it, 32 KiB at a time, the size of the kernel's answers.
func discard(ns *namespace) (cost, error) {
	var took cost
	err := ns.do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer unix.Close(fd)
		before, err := cpuUsed(unix.RUSAGE_THREAD)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := readTable(fd); err != nil {
			return err
		}
		took.wall = time.Since(start)
		after, err := cpuUsed(unix.RUSAGE_THREAD)
		took.cpu = after - before
		return err
	})
	return took, err
}

func readTable(fd int) error {
	request := binary.NativeEndian.AppendUint32(nil, unix.NLMSG_HDRLEN+4)
	request = binary.NativeEndian.AppendUint16(request, uint16(ctnetlink.TypeFlowGet))
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = append(request, make([]byte, 12)...) // number, port, nfgenmsg
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("send netlink dump request: %w", err)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive netlink dump: %w", err)
		}
		// The end is a message of its own after the entries.
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return fmt.Errorf("netlink dump: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:]))))
			}
			size := int(binary.NativeEndian.Uint32(b)+3) &^ 3
			b = b[min(max(size, unix.NLMSG_HDRLEN), len(b)):]
		}
	}
}
