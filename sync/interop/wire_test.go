package interop

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"ctbox/internal/netnstest"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// faults are the faults of a bad wire, as percentages of frames. The wire does the same as
// tc-netem(8), on kernels without it. After a frame with replay, an earlier frame is repeated.
type faults struct{ loss, duplicate, reorder, corrupt, replay int }

// badWire is a cable between two interfaces, or a switch between several, that corrupts and
// loses IP packets. It forwards them between interfaces of a namespace of its own.
type badWire struct {
	mu     sync.Mutex
	faults faults
	random *rand.Rand
	passed int
	spoilt int            // packets with any fault
	killed map[string]int // messages that did not reach a node, by its name
	tape   [][]byte       // for replay: some earlier frames
	cut    map[way]bool   // the ways that carry nothing
}

// way is a direction between two nodes, by their names.
type way struct{ from, to string }

// isolate cuts exactly these ways; the others carry everything.
func (w *badWire) isolate(ways ...way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = map[way]bool{}
	for _, c := range ways {
		w.cut[c] = true
	}
}

// connect replaces the dedicated link between the two nodes by a bad wire.
func (p *pair) connect(f faults) *badWire {
	p.t.Helper()
	return connect(p.t, f, 1, p.a, p.b)
}

// connect puts a bad wire between all nodes. seed determines its faults.
func connect(t testing.TB, f faults, seed uint64, nodes ...*node) *badWire {
	t.Helper()
	w := &badWire{faults: f, random: rand.New(rand.NewPCG(seed, 2)), killed: map[string]int{}}
	middle := netnstest.New(t, "r")
	ends := make([]wireEnd, len(nodes))
	for i, n := range nodes {
		dev := "end" + n.name
		netnstest.Link(t, netnstest.End{NS: n.ns, Dev: "sync0", Addrs: []string{n.link(4, 0) + "/27", n.link(6, 0) + "/64"}},
			netnstest.End{NS: middle, Dev: dev})
		// The sender must write complete checksums, by which a receiver detects a
		// corrupted packet.
		n.ns.Do(func() { checksumInSoftware(t, "sync0") })
		middle.Do(func() { ends[i] = wireEnd{name: n.name, fd: openEnd(t, dev)} })
	}
	var passing sync.WaitGroup
	stop := make(chan struct{})
	for i, from := range ends {
		var to []*lane
		for j, end := range ends {
			if j != i {
				to = append(to, &lane{wire: w, from: from.name, end: end})
			}
		}
		passing.Go(func() { forward(from.fd, to, stop) })
	}
	t.Cleanup(func() {
		close(stop)
		passing.Wait()
		for _, end := range ends {
			unix.Close(end.fd)
		}
	})
	return w
}

// wireEnd is an interface that leads to a node.
type wireEnd struct {
	name string
	fd   int // a packet socket
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

// forward moves frames from one end to the others until stop closes.
func forward(from int, to []*lane, stop <-chan struct{}) {
	buf := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, err := unix.Read(from, buf)
		for _, l := range to {
			if err != nil {
				l.idle()
			} else {
				l.carry(buf[:n])
			}
		}
	}
}

// lane is one direction of a wire, from one end to another.
type lane struct {
	wire *badWire
	from string
	end  wireEnd
	late []byte // a reordered frame, which waits for the next one
}

func (l *lane) write(frame []byte) {
	if frame != nil {
		// A frame for which the other end has no room is lost, as on any wire.
		_, _ = unix.Write(l.end.fd, frame)
	}
}

// idle sends a waiting frame if no other frame follows.
func (l *lane) idle() {
	l.write(l.late)
	l.late = nil
}

// carry applies the wire's faults to a frame and forwards it.
func (l *lane) carry(frame []byte) {
	f := l.wire.spoil(way{l.from, l.end.name}, frame)
	switch {
	case f.lost:
	case f.waits && l.late == nil:
		l.late = append([]byte(nil), f.frame...)
	default:
		l.write(f.frame)
		if f.twice {
			l.write(f.frame)
		}
		l.write(l.late)
		l.late = nil
	}
	l.write(f.stale)
}

// fate is the result of the faults for a frame.
type fate struct {
	frame              []byte // possibly with a wrong bit
	lost, twice, waits bool
	stale              []byte // an earlier frame that follows it
}

const (
	etherHeader = 14
	ipHeaders   = 28 // of IPv4 and UDP
	tapeLen     = 4096
)

// spoil decides about the faults of a frame on its way.
func (w *badWire) spoil(on way, frame []byte) fate {
	f := fate{frame: frame}
	if w.isCut(on) {
		f.lost = true
		return f
	}
	if len(frame) < etherHeader+ipHeaders || frame[12] != 0x08 && frame[12] != 0x86 || frame[13] == 0x06 {
		return f // ARP
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passed++
	chance := func(percent int) bool { return w.random.IntN(100) < percent }
	if w.passed%8 == 0 {
		w.record(frame)
	}
	corrupt := chance(w.faults.corrupt)
	if corrupt {
		f.frame = append([]byte(nil), frame...) // other ends may get it, too
		at := etherHeader + ipHeaders + w.random.IntN(len(frame)-etherHeader-ipHeaders)
		f.frame[at] ^= 1 << w.random.IntN(8)
	}
	f.lost, f.twice, f.waits = chance(w.faults.loss), chance(w.faults.duplicate), chance(w.faults.reorder)
	if chance(w.faults.replay) && len(w.tape) > 0 {
		f.stale = w.tape[w.random.IntN(len(w.tape))]
	}
	if corrupt || f.lost {
		w.killed[on.to] += messagesIn(frame)
	}
	if corrupt || f.lost || f.twice || f.waits || f.stale != nil {
		w.spoilt++
	}
	return f
}

func (w *badWire) isCut(on way) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[on]
}

// record stores a frame for replay. On a full tape it replaces a random frame, so that the tape
// has frames of every age.
func (w *badWire) record(frame []byte) {
	frame = append([]byte(nil), frame...)
	if len(w.tape) < tapeLen {
		w.tape = append(w.tape, frame)
	} else {
		w.tape[w.random.IntN(tapeLen)] = frame
	}
}

// messagesIn returns the number of messages in an IPv4 frame.
func messagesIn(frame []byte) (n int) {
	if frame[12] != 0x08 {
		return 0
	}
	r := wire.ReadDatagram(frame[etherHeader+ipHeaders:])
	for {
		if _, ok := r.Next(new(wire.Counters)); !ok {
			return n
		}
		n++
	}
}

// set changes the wire's faults.
func (w *badWire) set(f faults) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = f
}

// carried returns the number of packets so far.
func (w *badWire) carried() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed
}

// harm returns the number of packets with faults so far.
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
