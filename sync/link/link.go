// Package link carries sync messages between nodes over dedicated links: UDP,
// multicast and TCP, IPv4 and IPv6. It moves bytes; what they mean is sync/wire's
// and sync/proto's business.
//
// A Link takes only what comes from its peer (UDP and TCP) and in on its interface
// (UDP and multicast): nothing on the wire authenticates a message, so the path it
// took has to. The rest is counted and its sender named, once, to a callback.
//
// A Link whose interface does not exist yet, or vanishes, waits for it: Open is
// called again when a Monitor reports a change.
package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ctbox/sync/wire"
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
	SendBuffer  int // bytes, 0 for the system's default
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

// Link is one dedicated link. Its methods are for one goroutine at a time, but
// Config, State and Capacity, which are for any.
type Link struct {
	config  Config
	number  int
	deliver Deliver
	refused func(netip.Addr)
	gone    time.Duration // TCP: peerGone

	index    int // of the interface the sockets were made for; 0 without sockets
	sockets  sockets
	capacity atomic.Int64
	counters counters
	named    refusals
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

// New makes a link that delivers what it receives, marked with number. refused is
// called once for each source that was turned away, from any goroutine.
func New(c Config, number int, deliver Deliver, refused func(netip.Addr)) *Link {
	l := &Link{config: c, number: number, deliver: deliver, refused: refused, gone: peerGone}
	l.capacity.Store(int64(l.capacityOf(minimumMTU)))
	return l
}

// ErrNoInterface: the link's interface does not exist. Open may succeed later.
var ErrNoInterface = errors.New("no such interface")

// Open makes the link follow its interface: it opens the sockets when there are
// none yet, again when the interface is another one than they were made for, and
// takes over its MTU, and its address where the configuration leaves that to it. It
// may be called as often as something may have changed.
func (l *Link) Open() error {
	i, err := net.InterfaceByName(l.config.Interface)
	if err != nil {
		if l.sockets != nil {
			l.Close()
		}
		return fmt.Errorf("%s: %w", l.config.Interface, ErrNoInterface)
	}
	l.capacity.Store(int64(l.capacityOf(i.MTU)))
	if l.sockets != nil && l.index == i.Index {
		if err := l.sockets.follow(); err != nil {
			return fmt.Errorf("%s over %s: %w", l.config.Transport, l.config.Interface, err)
		}
		return nil
	}
	l.Close()
	if l.config.Transport == TCP {
		l.sockets, err = openStream(l)
	} else {
		l.sockets, err = openDatagram(l, i.Index)
	}
	if err != nil {
		l.sockets = nil
		return fmt.Errorf("%s over %s: %w", l.config.Transport, l.config.Interface, err)
	}
	l.index = i.Index
	return nil
}

// Close ends the link; Open revives it.
func (l *Link) Close() {
	if l.sockets != nil {
		l.sockets.close()
		l.sockets = nil
	}
	l.index = 0
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

// State is that of the link's interface now.
func (l *Link) State() State {
	i, err := net.InterfaceByName(l.config.Interface)
	switch {
	case err != nil || i.Flags&net.FlagUp == 0:
		return Down
	case i.Flags&net.FlagRunning == 0:
		return NoCarrier
	}
	return Running
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
