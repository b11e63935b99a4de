package interop

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// faults are what a bad wire does to frames, each in per cent of them. It does
// what tc-netem(8) does, on kernels that are built without.
type faults struct{ loss, duplicate, reorder, corrupt int }

// badWire is a cable between two interfaces that spoils IP packets. It passes
// them on from interface to interface of a namespace of its own.
type badWire struct {
	mu     sync.Mutex
	faults faults
	random *rand.Rand
	passed int
	spoilt int // of them, in whatever way
}

// connect puts a bad wire between the two nodes in place of the dedicated link.
func (p *pair) connect(f faults) *badWire {
	p.t.Helper()
	w := &badWire{faults: f, random: rand.New(rand.NewPCG(1, 2))}
	middle := netnstest.New(p.t, "r")
	var ends [2]int
	for i, n := range []*node{p.a, p.b} {
		dev := "end" + n.name
		netnstest.Link(p.t, netnstest.End{NS: n.ns, Dev: "sync0", Addrs: []string{n.link(4, 0) + "/27", n.link(6, 0) + "/64"}},
			netnstest.End{NS: middle, Dev: dev})
		// The sender must write whole checksums: they are how a receiver knows
		// a spoilt packet.
		n.ns.Do(func() { checksumInSoftware(p.t, "sync0") })
		middle.Do(func() { ends[i] = openEnd(p.t, dev) })
	}
	var passing sync.WaitGroup
	stop := make(chan struct{})
	passing.Go(func() { w.pass(ends[0], ends[1], stop) })
	passing.Go(func() { w.pass(ends[1], ends[0], stop) })
	p.t.Cleanup(func() {
		close(stop)
		passing.Wait()
		unix.Close(ends[0])
		unix.Close(ends[1])
	})
	return w
}

// checksumInSoftware turns checksum offloading off (linux/ethtool.h).
func checksumInSoftware(t testing.TB, dev string) {
	t.Helper()
	const setTxChecksum = 0x17
	value := struct{ cmd, data uint32 }{setTxChecksum, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data *struct{ cmd, data uint32 }
		_    [16]byte
	}{data: &value}
	copy(request.name[:], dev)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("turn checksum offloading of %s off: %v", dev, errno)
	}
}

// openEnd returns a packet socket for all that comes in on dev (packet(7)).
func openEnd(t testing.TB, dev string) int {
	t.Helper()
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	index, err := ifIndex(fd, dev)
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
	if err != nil {
		t.Fatalf("packet socket on %s: %v", dev, err)
	}
	return fd
}

func ifIndex(fd int, dev string) (int, error) {
	request, err := unix.NewIfreq(dev)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	}
	if err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// pass moves frames from one end to the other until stop closes. A frame that is
// reordered waits for the next one.
func (w *badWire) pass(from, to int, stop <-chan struct{}) {
	buf := make([]byte, 65536)
	var late []byte
	write := func(frame []byte) {
		// What the other end has no room for is lost, as on any wire.
		_, _ = unix.Write(to, frame)
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, err := unix.Read(from, buf)
		if err != nil {
			if late != nil { // no next one came
				write(late)
				late = nil
			}
			continue
		}
		frame := buf[:n]
		lost, twice, waits := w.spoil(frame)
		if lost {
			continue
		}
		if waits && late == nil {
			late = append([]byte(nil), frame...)
			continue
		}
		write(frame)
		if twice {
			write(frame)
		}
		if late != nil {
			write(late)
			late = nil
		}
	}
}

// spoil decides what happens to a frame, and spoils a bit of it.
func (w *badWire) spoil(frame []byte) (lost, twice, waits bool) {
	const etherHeader, ipHeaders = 14, 28
	if len(frame) < etherHeader+ipHeaders || frame[12] != 0x08 && frame[12] != 0x86 || frame[13] == 0x06 {
		return false, false, false // ARP
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passed++
	chance := func(percent int) bool { return w.random.IntN(100) < percent }
	corrupt := chance(w.faults.corrupt)
	if corrupt {
		at := etherHeader + ipHeaders + w.random.IntN(len(frame)-etherHeader-ipHeaders)
		frame[at] ^= 1 << w.random.IntN(8)
	}
	lost, twice, waits = chance(w.faults.loss), chance(w.faults.duplicate), chance(w.faults.reorder)
	if corrupt || lost || twice || waits {
		w.spoilt++
	}
	return lost, twice, waits
}

// set changes what the wire does.
func (w *badWire) set(f faults) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = f
}

// carried is the number of packets so far.
func (w *badWire) carried() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed
}

// harm is the number of packets that the wire has spoilt.
func (w *badWire) harm() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spoilt
}

// awaitMore waits until the wire has carried n more packets.
func (w *badWire) awaitMore(t testing.TB, n int) {
	t.Helper()
	until := w.carried() + n
	netnstest.Eventually(t, patience, "more packets on the wire", func() bool { return w.carried() >= until })
}
