// Package link carries sync messages between nodes over dedicated links: UDP,
// multicast and TCP, over IPv4 and IPv6. It moves bytes; sync/wire and sync/proto
// interpret them.
//
// A Link accepts only messages from its peers (UDP and TCP) that arrive on its interface
// (UDP and multicast): the protocol has no authentication, so the path of a message has
// to vouch for it. A Link counts the messages that it refuses and reports each refused
// address once.
//
// A Link can exist without its interface: the owner calls Open again when a Monitor
// reports a change.
package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ctbox/conf"
	"ctbox/internal/iface"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// Transport is the protocol that carries a link's messages.
type Transport = conf.Transport

// The transports of conntrackd.conf.
const (
	Multicast = conf.Multicast
	UDP       = conf.UDP
	TCP       = conf.TCP
)

// Config describes one link. An address that the transport does not need may be the
// zero Addr.
type Config struct {
	Transport   Transport
	Interface   string
	Address     netip.Addr // Multicast: the group; UDP, TCP: the local address, zero for any
	Local       netip.Addr // Multicast over IPv4: an address of the interface, zero for the interface's own choice
	Destination netip.Addr // UDP, TCP: the peer
	Port        uint16
	Accept      []netip.Prefix // UDP, TCP: further sources whose messages are accepted
	Also        []netip.Addr   // UDP: further peers
	// Peers are all peers of a UDP link instead of Destination and Also, with their ports.
	Peers      []netip.AddrPort
	SendBuffer int // bytes, 0 for the system's default
	RecvBuffer int
	Checksum   bool // send datagrams with a UDP checksum
	ErrorQueue int  // TCP: writes that are queued while the peer is away
}

// State is the state of a link's interface.
type State uint8

// Down: missing or without IFF_UP. NoCarrier: IFF_UP without IFF_RUNNING.
const (
	Down State = iota
	NoCarrier
	Running
)

// Stats holds a link's counters since New. A packet is a datagram or, on TCP, one write
// or read.
type Stats struct {
	BytesSent, BytesRecv     uint64
	PacketsSent, PacketsRecv uint64
	ErrorsSent, ErrorsRecv   uint64
	Refused                  uint64 // from another source or interface than the link's
	// TCP only:
	ServerConnected, ClientConnected bool
	Queued, QueueLimit, QueueDropped uint64 // the error queue
}

// Link is one dedicated link. State and Capacity may be called from any goroutine, and Config
// except during SetPeers; the other methods from one goroutine at a time.
type Link struct {
	config  Config
	number  int
	deliver Deliver
	refused func(netip.Addr)
	failed  func(error)

	// Tests replace these.
	peerTimeout time.Duration                         // TCP: defaultPeerTimeout
	lookup      func(string) (iface.Interface, error) // iface.ByName
	sleep       func(time.Duration, <-chan struct{})  // see backoff

	index    int // of the interface that the sockets belong to; 0 without sockets
	sockets  sockets
	seen     seen
	capacity atomic.Int64
	counters counters
	reported refusals
}

// seen holds what the last Open found, for State and for the monitor.
type seen struct {
	index  atomic.Int64 // of the interface; 0 for none
	state  atomic.Uint32
	source atomic.Pointer[netip.Addr] // the address that datagrams leave from
}

// sockets are the sockets of one transport, with their goroutines.
type sockets interface {
	send(p *wire.Packer)
	status(s *Stats)
	busy() bool
	updateSource() error // the interface's addresses may have changed
	Close()
}

// counters are updated by the receiving goroutines and by the sender.
type counters struct {
	bytesSent, bytesRecv     atomic.Uint64
	packetsSent, packetsRecv atomic.Uint64
	errorsSent, errorsRecv   atomic.Uint64
	refused                  atomic.Uint64
}

// Reports are the callbacks through which a link reports to its owner. They are called
// from the link's goroutines, and each may be nil.
type Reports struct {
	Refused func(netip.Addr) // called once for each address whose messages are refused
	Failed  func(error)      // called once for each error of receiving
}

// New returns a link that is not open yet. It passes what it receives to deliver, in
// batches that carry number.
func New(c Config, number int, deliver Deliver, reports Reports) *Link {
	l := &Link{
		config: c, number: number, deliver: deliver, refused: reports.Refused, failed: reports.Failed,
		peerTimeout: defaultPeerTimeout, lookup: iface.ByName,
	}
	l.capacity.Store(int64(l.capacityOf(minimumMTU)))
	return l
}

// ErrNoInterface is Open's error when the link's interface does not exist. Open may
// succeed later.
var ErrNoInterface = errors.New("no such interface")

// Open brings the link in line with its interface, which it looks up in the kernel. It
// opens the sockets if the link has none, reopens them if the interface was replaced, and
// adopts the interface's MTU and, unless one is configured, its address. Call it at the
// start and whenever a Monitor reports a change.
func (l *Link) Open() error {
	i, err := l.lookup(l.config.Interface)
	switch {
	case errors.Is(err, iface.ErrNone):
		l.seen.index.Store(0)
		l.seen.state.Store(uint32(Down))
		l.Close()
		return fmt.Errorf("%s: %w", l.config.Interface, ErrNoInterface)
	case err != nil:
		return err // a failed lookup does not close the link
	}
	l.seen.index.Store(int64(i.Index))
	l.seen.state.Store(uint32(stateOf(&i)))
	l.capacity.Store(int64(l.capacityOf(i.MTU)))
	switch {
	case l.sockets != nil && l.index == i.Index:
		err = l.sockets.updateSource()
	default:
		l.Close()
		err = l.openSockets(i.Index)
	}
	if err != nil {
		return l.wrap(err)
	}
	return nil
}

// wrap adds the link's transport and interface to an error.
func (l *Link) wrap(err error) error {
	return fmt.Errorf("%v over %s: %w", l.config.Transport, l.config.Interface, err)
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

// Close closes the link's sockets. Open may open it again.
func (l *Link) Close() {
	if l.sockets != nil {
		l.sockets.Close()
		l.sockets = nil
	}
	l.index = 0
	l.seen.source.Store(nil)
}

// Send transmits all messages in p. Datagrams that can't be sent are counted and lost;
// TCP keeps what it can in a queue.
func (l *Link) Send(p *wire.Packer) {
	if l.sockets == nil {
		l.counters.errorsSent.Add(uint64(p.Datagrams()))
		return
	}
	l.sockets.send(p)
}

// Busy reports whether the sender should wait before it sends more. A TCP link is busy
// while its peer is connected and slow; other links never are.
func (l *Link) Busy() bool { return l.sockets != nil && l.sockets.busy() }

// SetPeers replaces Config.Peers, which were not empty and are of the same family. If they differ
// the link closes its sockets: the caller opens it again.
func (l *Link) SetPeers(peers []netip.AddrPort) {
	if slices.Equal(l.config.Peers, peers) {
		return
	}
	l.Close() // the receiving goroutine, which reads them, has ended then
	l.config.Peers = slices.Clone(peers)
}

// Config returns the link's configuration.
func (l *Link) Config() Config { return l.config }

// State returns the state of the link's interface as of the last Open.
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

// affectedBy reports whether an rtnetlink message may change what Open finds: one about
// the link's interface, about an interface that has its name now, or about an address of
// the link, on any interface. Any goroutine may call it.
func (l *Link) affectedBy(typ uint16, data []byte) bool {
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

// Stats returns the link's counters and the state of its queue.
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

// minimumMTU is what every IPv4 host has to accept (RFC 791). A smaller MTU of an
// interface is ignored.
const minimumMTU = 576

// maxLength is the greatest value of an IP header's length field, which includes that
// header in IPv4 (RFC 791) but not in IPv6 (RFC 8200). Interfaces may have a larger MTU.
const maxLength = 1<<16 - 1

// capacityOf returns what an MTU leaves for messages after the IP and transport headers,
// which include TCP's timestamps.
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

// Is6 reports whether the link runs over IPv6.
func (c *Config) Is6() bool {
	switch {
	case len(c.Peers) > 0:
		return c.Peers[0].Addr().Is6()
	case c.Destination.IsValid():
		return c.Destination.Is6()
	}
	return c.Address.Is6()
}

func (l *Link) is6() bool { return l.config.Is6() }

// Capacity returns how many bytes of messages fit into a datagram on this link.
func (l *Link) Capacity() int { return int(l.capacity.Load()) }

// peer reports whether messages from an address are accepted, and whether Accept is what
// lists it.
func (l *Link) peer(from netip.Addr) (peer, listed bool) {
	c := &l.config
	for _, p := range c.Accept {
		if p.Contains(from) {
			return true, true
		}
	}
	for _, p := range c.Peers {
		if p.Addr().WithZone("") == from {
			return true, false
		}
	}
	return from == c.Destination.WithZone("") || slices.Contains(c.Also, from), false
}

// refusals remembers which refused addresses were reported, so that a log is not flooded.
type refusals struct {
	mu    sync.Mutex
	known map[netip.Addr]struct{}
}

// maxReported limits how many addresses, and how many errors, a link reports and remembers.
const maxReported = 64

// refuse counts a refused message and reports its source the first time.
func (l *Link) refuse(from netip.Addr) {
	l.counters.refused.Add(1)
	l.reported.mu.Lock()
	_, known := l.reported.known[from]
	if !known && len(l.reported.known) < maxReported {
		if l.reported.known == nil {
			l.reported.known = map[netip.Addr]struct{}{}
		}
		l.reported.known[from] = struct{}{}
	} else {
		known = true
	}
	l.reported.mu.Unlock()
	if !known && l.refused != nil {
		l.refused(from)
	}
}

// Batch holds what one read of a link received: datagrams, or whole messages of a
// stream.
type Batch struct {
	Link int // number of the link

	from  []netip.Addr
	parts [][]byte
}

// Deliver processes what a link has received. The link's reading goroutine calls it, one
// call at a time, and reads on when it returns. Processing the batch in the call avoids
// handing it to another thread, which costs more than a small batch itself. The batch and
// its memory are reused after the return. Once ended is closed, the link is closing and
// waits only for Deliver to return.
type Deliver func(b *Batch, ended <-chan struct{})

// Each calls f for every datagram, with its sender's address without the port.
func (b *Batch) Each(f func(from netip.Addr, datagram []byte)) {
	for i, part := range b.parts {
		f(b.from[i], part)
	}
}

// Len returns the number of datagrams.
func (b *Batch) Len() int { return len(b.parts) }

func (b *Batch) empty() { b.from, b.parts = b.from[:0], b.parts[:0] }

func (b *Batch) add(from netip.Addr, part []byte) {
	b.from = append(b.from, from)
	b.parts = append(b.parts, part)
}
