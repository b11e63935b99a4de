// Package link carries sync messages between nodes over dedicated links: UDP,
// multicast and TCP, IPv4 and IPv6. It moves bytes; what they mean is sync/wire's
// and sync/proto's business.
//
// A Link takes only what comes from its peers (UDP and TCP) and in on its interface
// (UDP and multicast): nothing on the wire authenticates a message, so the path it
// took has to. The rest is counted and its sender named, once, to a callback.
//
// A Link whose interface does not exist yet, or vanishes, waits for it: Open is
// called again when a Monitor reports a change.
package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ctbox/internal/iface"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// Transport is how a link carries messages.
type Transport uint8

// The transports of conntrackd.conf.
const (
	Multicast Transport = iota
	UDP
	TCP
)

// String returns the word that outputs use.
func (t Transport) String() string { return [...]string{"multicast", "UDP", "TCP"}[t] }

// Config is one link. Addresses may be the zero Addr where the transport does not
// need them.
type Config struct {
	Transport   Transport
	Interface   string
	Address     netip.Addr // Multicast: the group; UDP, TCP: the local address, zero for any
	Local       netip.Addr // Multicast over IPv4: an address of the interface, zero for the interface's own choice
	Destination netip.Addr // UDP, TCP: the peer
	Port        uint16
	Accept      []netip.Prefix // UDP, TCP: messages are taken from there, too
	Also        []netip.Addr   // UDP: other peers
	SendBuffer  int            // bytes, 0 for the system's default
	RecvBuffer  int
	Checksum    bool // UDP checksums in what is sent
	ErrorQueue  int  // TCP: writes that wait while the peer is away
}

// State is the state of a link's interface.
type State uint8

// Down: not there or not IFF_UP. NoCarrier: up, without IFF_RUNNING.
const (
	Down State = iota
	NoCarrier
	Running
)

// Stats are a link's counters since it was made. A sent packet is a datagram or a
// write, a received one a datagram or a read.
type Stats struct {
	BytesSent, BytesRecv     uint64
	PacketsSent, PacketsRecv uint64
	ErrorsSent, ErrorsRecv   uint64
	Refused                  uint64 // from a source or interface that is not the link's
	// Of TCP.
	ServerConnected, ClientConnected bool
	Queued, QueueLimit, QueueDropped uint64 // the error queue
}

// Link is one dedicated link. Its methods are for one goroutine at a time, except
// Config, State and Capacity, which are for any.
type Link struct {
	config  Config
	number  int
	deliver Deliver
	refused func(netip.Addr)
	failed  func(error)
	gone    time.Duration                         // TCP: peerGone
	ask     func(string) (iface.Interface, error) // iface.ByName
	sleep   func(time.Duration, <-chan struct{})  // see backoff

	index    int // of the interface the sockets were made for; 0 without sockets
	sockets  sockets
	seen     seen
	capacity atomic.Int64
	counters counters
	named    refusals
}

// seen is what Open last found, for State and for the monitor.
type seen struct {
	index  atomic.Int64 // of the interface; 0 for none
	state  atomic.Uint32
	source atomic.Pointer[netip.Addr] // the address that datagrams leave from
}

// sockets is a link's open part.
type sockets interface {
	send(p *wire.Packer)
	status(s *Stats)
	busy() bool
	follow() error // addresses of the interface may have changed
	close()
}

// counters are written by readers and by the sender.
type counters struct {
	bytesSent, bytesRecv     atomic.Uint64
	packetsSent, packetsRecv atomic.Uint64
	errorsSent, errorsRecv   atomic.Uint64
	refused                  atomic.Uint64
}

// Reports are what a link says to its owner, from any goroutine. Each may be nil.
type Reports struct {
	Refused func(netip.Addr) // a source was turned away; once for each
	Failed  func(error)      // receiving failed; once for each error
}

// New makes a link that delivers what it receives, marked with number.
func New(c Config, number int, deliver Deliver, reports Reports) *Link {
	l := &Link{
		config: c, number: number, deliver: deliver, refused: reports.Refused, failed: reports.Failed,
		gone: peerGone, ask: iface.ByName,
	}
	l.capacity.Store(int64(l.capacityOf(minimumMTU)))
	return l
}

// ErrNoInterface: the link's interface does not exist. Open may succeed later.
var ErrNoInterface = errors.New("no such interface")

// Open makes the link follow its interface: it asks the kernel for it, opens the
// sockets when there are none yet, again when the interface is another one than they
// were made for, and takes over its MTU, and its address where the configuration leaves
// that to it. It is to be called at the start and whenever a Monitor reports a change.
func (l *Link) Open() error {
	i, err := l.ask(l.config.Interface)
	switch {
	case errors.Is(err, iface.ErrNone):
		l.seen.index.Store(0)
		l.seen.state.Store(uint32(Down))
		l.Close()
		return fmt.Errorf("%s: %w", l.config.Interface, ErrNoInterface)
	case err != nil:
		return err // the link stays as it is
	}
	l.seen.index.Store(int64(i.Index))
	l.seen.state.Store(uint32(stateOf(&i)))
	l.capacity.Store(int64(l.capacityOf(i.MTU)))
	switch {
	case l.sockets != nil && l.index == i.Index:
		err = l.sockets.follow()
	default:
		l.Close()
		err = l.openSockets(i.Index)
	}
	if err != nil {
		return l.wrap(err)
	}
	return nil
}

// wrap adds to an error which link it is about.
func (l *Link) wrap(err error) error {
	return fmt.Errorf("%s over %s: %w", l.config.Transport, l.config.Interface, err)
}

func (l *Link) openSockets(index int) (err error) {
	if l.config.Transport == TCP {
		l.sockets, err = openStream(l)
	} else {
		l.sockets, err = openDatagram(l, index)
	}
	if err != nil {
		l.sockets = nil
		return err
	}
	l.index = index
	return nil
}

// Close ends the link; Open revives it.
func (l *Link) Close() {
	if l.sockets != nil {
		l.sockets.close()
		l.sockets = nil
	}
	l.index = 0
	l.seen.source.Store(nil)
}

// Send transmits all messages in p. What can't be sent is counted, and lost
// unless the transport is TCP.
func (l *Link) Send(p *wire.Packer) {
	if l.sockets == nil {
		l.counters.errorsSent.Add(uint64(p.Datagrams()))
		return
	}
	l.sockets.send(p)
}

// Busy reports that what was sent has not left yet, so that more had better wait.
// A TCP link is when its peer is connected and slow.
func (l *Link) Busy() bool { return l.sockets != nil && l.sockets.busy() }

// Config returns what the link was made from.
func (l *Link) Config() Config { return l.config }

// State is the state of the link's interface as the last Open found it.
func (l *Link) State() State { return State(l.seen.state.Load()) }

func stateOf(i *iface.Interface) State {
	switch {
	case !i.Has(unix.IFF_UP):
		return Down
	case !i.Has(unix.IFF_RUNNING):
		return NoCarrier
	}
	return Running
}

// concerns reports whether an rtnetlink message may change what Open finds: one about
// the link's interface, about an interface that has its name now, or about an address
// that the link has, whatever interface that is on. Any goroutine may call it.
func (l *Link) concerns(typ uint16, data []byte) bool {
	if i, ok := iface.ParseLink(typ, data); ok {
		return int64(i.Index) == l.seen.index.Load() || i.Named(l.config.Interface)
	}
	index, addr, ok := iface.ParseAddr(typ, data)
	if !ok {
		return false
	}
	source := l.seen.source.Load()
	return int64(index) == l.seen.index.Load() || addr == l.config.Address || addr == l.config.Local ||
		source != nil && addr == *source
}

// Stats returns the counters.
func (l *Link) Stats() Stats {
	c := &l.counters
	s := Stats{
		BytesSent: c.bytesSent.Load(), BytesRecv: c.bytesRecv.Load(),
		PacketsSent: c.packetsSent.Load(), PacketsRecv: c.packetsRecv.Load(),
		ErrorsSent: c.errorsSent.Load(), ErrorsRecv: c.errorsRecv.Load(),
		Refused: c.refused.Load(),
	}
	if l.sockets != nil {
		l.sockets.status(&s)
	}
	return s
}

// minimumMTU is every IPv4 host's (RFC 791); an interface that claims less is not
// believed.
const minimumMTU = 576

// maxLength is the most that an IP header's length says, with that header in IPv4 (RFC
// 791) and without it in IPv6 (RFC 8200). There are interfaces with a larger MTU.
const maxLength = 1<<16 - 1

// capacityOf is what IP and transport headers leave of an MTU, TCP's timestamps
// included.
func (l *Link) capacityOf(mtu int) int {
	ip, transport, largest := 20, 8, maxLength
	if l.is6() {
		ip, largest = 40, maxLength+40
	}
	if l.config.Transport == TCP {
		transport = 20 + 12
	}
	return min(max(mtu, minimumMTU), largest) - ip - transport
}

// is6 reports whether the link runs over IPv6.
func (l *Link) is6() bool {
	if l.config.Destination.IsValid() {
		return l.config.Destination.Is6()
	}
	return l.config.Address.Is6()
}

// Capacity is how many bytes of messages fit into a datagram on this link.
func (l *Link) Capacity() int { return int(l.capacity.Load()) }

// peer reports whether an address is that of a peer, and listed whether Accept names it.
func (l *Link) peer(from netip.Addr) (peer, listed bool) {
	c := &l.config
	for _, p := range c.Accept {
		if p.Contains(from) {
			return true, true
		}
	}
	return from == c.Destination.WithZone("") || slices.Contains(c.Also, from), false
}

// refusals remembers who was named already, so that a log is not flooded.
type refusals struct {
	mu    sync.Mutex
	known map[netip.Addr]struct{}
}

const maxNamed = 64

// refuse counts a source that is not the link's and names it the first time.
func (l *Link) refuse(from netip.Addr) {
	l.counters.refused.Add(1)
	l.named.mu.Lock()
	_, known := l.named.known[from]
	if !known && len(l.named.known) < maxNamed {
		if l.named.known == nil {
			l.named.known = map[netip.Addr]struct{}{}
		}
		l.named.known[from] = struct{}{}
	} else {
		known = true
	}
	l.named.mu.Unlock()
	if !known && l.refused != nil {
		l.refused(from)
	}
}
