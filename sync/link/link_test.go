package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/wire"
)

// site is a namespace with a link.
type site struct {
	ns      *netnstest.NS
	link    *Link
	batches chan *Batch
	mu      sync.Mutex
	refused []netip.Addr
}

func newSite(t *testing.T, ns *netnstest.NS, c Config) *site {
	t.Helper()
	s := &site{ns: ns, batches: make(chan *Batch, 4)}
	s.link = New(c, 7, channel(s.batches), Reports{Refused: func(a netip.Addr) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused = append(s.refused, a)
	}})
	s.open(t)
	t.Cleanup(s.link.Close)
	return s
}

func (s *site) open(t *testing.T) {
	t.Helper()
	s.ns.Do(func() { s.reopen(t) })
}

// reopen is open for a caller that is already in the namespace.
func (s *site) reopen(t *testing.T) {
	t.Helper()
	if err := s.link.Open(); err != nil {
		t.Fatal(err)
	}
}

// channel returns a Deliver that sends copies of the batches to a channel.
func channel(batches chan *Batch) Deliver {
	return func(b *Batch, ended <-chan struct{}) {
		kept := &Batch{Link: b.Link}
		b.Each(func(from netip.Addr, datagram []byte) { kept.add(from, bytes.Clone(datagram)) })
		select {
		case batches <- kept:
		case <-ended:
		}
	}
}

// take receives n datagrams and returns their texts and the last one's source.
func (s *site) take(t *testing.T, n int) (got []string, from netip.Addr) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for len(got) < n {
		select {
		case b := <-s.batches:
			if b.Link != 7 {
				t.Errorf("batch of link %d", b.Link)
			}
			b.Each(func(a netip.Addr, datagram []byte) {
				from = a
				got = append(got, string(datagram[wire.HeaderLen:]))
			})
		case <-deadline:
			t.Fatalf("%d of %d datagrams arrived; %+v", len(got), n, s.link.Stats())
		}
	}
	return got, from
}

// packed makes a message of each text, in datagrams of up to capacity bytes.
func packed(capacity int, texts ...string) *wire.Packer {
	p := wire.NewPacker(capacity)
	for _, text := range texts {
		m := append(p.Buffer(), 0x10, 0, 0, 0, 0, 0, 0, 0)
		m = append(m, text...)
		binary.BigEndian.PutUint16(m[len(p.Buffer())+2:], uint16(wire.HeaderLen+len(text)))
		p.Add(m)
	}
	return p
}

// pair returns two namespaces that a cable connects.
func pair(t *testing.T) (a, b *netnstest.NS) {
	a, b = netnstest.New(t, "linka"), netnstest.New(t, "linkb")
	netnstest.Link(t,
		netnstest.End{NS: a, Dev: "sync0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		netnstest.End{NS: b, Dev: "sync0", Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"}})
	return a, b
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestDatagrams(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b Config
		from string
	}{
		{"UDP", Config{Transport: UDP, Address: addr("192.0.2.1"), Destination: addr("192.0.2.2")},
			Config{Transport: UDP, Address: addr("192.0.2.2"), Destination: addr("192.0.2.1")}, "192.0.2.1"},
		{"UDP over IPv6", Config{Transport: UDP, Address: addr("2001:db8::1"), Destination: addr("2001:db8::2")},
			Config{Transport: UDP, Address: addr("2001:db8::2"), Destination: addr("2001:db8::1")}, "2001:db8::1"},
		{"UDP without checksums and local address", Config{Transport: UDP, Destination: addr("192.0.2.2")},
			Config{Transport: UDP, Destination: addr("192.0.2.1")}, "192.0.2.1"},
		{"multicast", Config{Transport: Multicast, Address: addr("225.0.0.50"), Local: addr("192.0.2.1"), Checksum: true},
			Config{Transport: Multicast, Address: addr("225.0.0.50"), Local: addr("192.0.2.2"), Checksum: true}, "192.0.2.1"},
		{"multicast without local address", Config{Transport: Multicast, Address: addr("225.0.0.50")},
			Config{Transport: Multicast, Address: addr("225.0.0.50")}, "192.0.2.1"},
		{"multicast over IPv6", Config{Transport: Multicast, Address: addr("ff02::50")},
			Config{Transport: Multicast, Address: addr("ff02::50")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := pair(t)
			for _, c := range []*Config{&tt.a, &tt.b} {
				c.Interface, c.Port, c.RecvBuffer, c.SendBuffer = "sync0", 3780, 1<<20, 1<<20
			}
			a, b := newSite(t, nsA, tt.a), newSite(t, nsB, tt.b)
			overhead := 28
			if a.link.is6() {
				overhead = 48
			}
			if a.link.Capacity() != 1500-overhead {
				t.Errorf("capacity %d at an MTU of 1500", a.link.Capacity())
			}
			// IPv6 gets its multicast route only when the kernel has seen the carrier.
			for _, end := range []*site{a, b} {
				end.ns.Do(func() {
					netnstest.Eventually(t, 10*time.Second, "carrier and route", func() bool {
						end.reopen(t)
						routes := end.ns.Must("ip", "-6", "route", "show", "table", "all", "ff00::/8", "dev", "sync0")
						return end.link.State() == Running && routes != ""
					})
				})
			}
			texts := []string{"one", "two", "three"}
			a.link.Send(packed(14, texts...))
			if s := a.link.Stats(); s.ErrorsSent != 0 {
				t.Fatalf("sending: %+v", s)
			}
			got, from := b.take(t, 3)
			for i := range texts {
				if got[i] != texts[i] {
					t.Errorf("got %q, want %q", got, texts)
				}
			}
			if tt.from != "" && from != addr(tt.from) {
				t.Errorf("from %v, want %s", from, tt.from)
			}
			b.link.Send(packed(1400, "back"))
			a.take(t, 1)
			if s := a.link.Stats(); s.PacketsSent != 3 || s.PacketsRecv != 1 || s.ErrorsSent != 0 || s.BytesSent != 3*8+11 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// All datagrams of one Send arrive, in order.
func TestManyDatagrams(t *testing.T) {
	nsA, nsB := pair(t)
	// Before it has resolved the neighbour, the kernel queues only some 200 KiB
	// (unres_qlen_bytes), less than this test sends at once.
	nsA.Must("ping", "-q", "-c", "1", "192.0.2.2")
	c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true, RecvBuffer: 4 << 20, SendBuffer: 4 << 20}
	ca, cb := c, c
	ca.Destination, cb.Destination = addr("192.0.2.2"), addr("192.0.2.1")
	a, b := newSite(t, nsA, ca), newSite(t, nsB, cb)
	var texts []string
	for i := range 500 {
		texts = append(texts, string(rune('a'+i%26))+string(make([]byte, i)))
	}
	p := packed(300, texts...)
	a.link.Send(p)
	got, _ := b.take(t, p.Datagrams())
	for i, text := range got {
		if want := string(p.Datagram(i)[wire.HeaderLen:]); text != want {
			t.Fatalf("datagram %d has %d bytes, want %d, or other content", i, len(text), len(want))
		}
	}
	if s := a.link.Stats(); s.PacketsSent != b.link.Stats().PacketsRecv || s.BytesSent != b.link.Stats().BytesRecv {
		t.Errorf("sent %+v, received %+v", s, b.link.Stats())
	}
}

// Some interfaces, such as the loopback interface, have an MTU beyond the longest IP
// packet. A datagram as long as the capacity can still be sent.
func TestLargestDatagram(t *testing.T) {
	for _, tt := range []struct {
		local, peer   string
		mtu, capacity int
	}{
		{"192.0.2.1", "192.0.2.2", 65535, 65507},
		{"192.0.2.1", "192.0.2.2", 1 << 20, 65507},
		{"2001:db8::1", "2001:db8::2", 65535, 65487},
		{"2001:db8::1", "2001:db8::2", 1 << 20, 65527},
	} {
		ns := netnstest.New(t, "large")
		ns.IP("link", "set", "lo", "mtu", strconv.Itoa(tt.mtu))
		for _, a := range []string{tt.local, tt.peer} {
			ns.IP("addr", "add", a, "dev", "lo", "nodad")
			// The kernel adds the IPv6 route a moment later; what is sent before it is lost.
			netnstest.Eventually(t, 20*time.Second, "a route to "+a, func() bool {
				r := ns.Run("", "ip", "route", "get", a)
				return r.Code == 0 && strings.Contains(r.Stdout, "local "+a)
			})
		}
		c := Config{Transport: UDP, Interface: "lo", Port: 3780, Checksum: true, SendBuffer: 1 << 20, RecvBuffer: 1 << 20}
		ca, cb := c, c
		ca.Address, ca.Destination = addr(tt.local), addr(tt.peer)
		cb.Address, cb.Destination = addr(tt.peer), addr(tt.local)
		a, b := newSite(t, ns, ca), newSite(t, ns, cb)
		capacity := a.link.Capacity()
		if capacity != tt.capacity {
			t.Errorf("%s: capacity %d at an MTU of %d, want %d", tt.local, capacity, tt.mtu, tt.capacity)
		}
		a.link.Send(packed(capacity, string(make([]byte, capacity-wire.HeaderLen))))
		if s := a.link.Stats(); s.ErrorsSent != 0 {
			t.Errorf("%s: %d bytes at an MTU of %d: %+v", tt.local, capacity, tt.mtu, s)
			continue
		}
		if got, _ := b.take(t, 1); len(got[0]) != capacity-wire.HeaderLen {
			t.Errorf("%d of %d bytes arrived", len(got[0]), capacity-wire.HeaderLen)
		}
	}
}

// The kernel reports a datagram that was too large for a router on the path when the next
// one is sent. That next datagram must not be lost.
func TestNextDatagramAfterSmallerPathMTU(t *testing.T) {
	nsA, nsR, nsB := netnstest.New(t, "linka"), netnstest.New(t, "linkr"), netnstest.New(t, "linkb")
	netnstest.Link(t,
		netnstest.End{NS: nsA, Dev: "sync0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: nsR, Dev: "near0", Addrs: []string{"192.0.2.254/24"}})
	netnstest.Link(t,
		netnstest.End{NS: nsR, Dev: "far0", Addrs: []string{"198.51.100.254/24"}},
		netnstest.End{NS: nsB, Dev: "sync0", Addrs: []string{"198.51.100.2/24"}})
	nsR.Sysctl("net.ipv4.ip_forward", "1")
	nsR.IP("link", "set", "far0", "mtu", "1000")
	nsB.IP("link", "set", "sync0", "mtu", "1000")
	nsA.IP("route", "add", "198.51.100.0/24", "via", "192.0.2.254")
	nsB.IP("route", "add", "192.0.2.0/24", "via", "198.51.100.254")
	c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true}
	ca, cb := c, c
	ca.Destination, cb.Destination = addr("198.51.100.2"), addr("192.0.2.1")
	a, b := newSite(t, nsA, ca), newSite(t, nsB, cb)
	text := string(make([]byte, 1400))
	a.link.Send(packed(a.link.Capacity(), text))
	netnstest.Eventually(t, 20*time.Second, "the path's MTU is known", func() bool {
		return strings.Contains(nsA.Must("ip", "route", "get", "198.51.100.2"), "mtu 1000")
	})
	a.link.Send(packed(a.link.Capacity(), text))
	if s := a.link.Stats(); s.ErrorsSent != 0 || s.PacketsSent != 2 {
		t.Errorf("stats %+v, want two datagrams sent and no error", s)
	}
	if got, _ := b.take(t, 1); len(got[0]) != len(text) {
		t.Errorf("%d bytes arrive, want %d", len(got[0]), len(text))
	}
}

// Messages from another address on the same cable, and from the right address on another
// cable, are refused.
func TestRefusedSources(t *testing.T) {
	nsA, nsB := pair(t)
	nsA.IP("addr", "add", "192.0.2.9/24", "dev", "sync0")
	netnstest.Link(t,
		netnstest.End{NS: nsA, Dev: "other0", Addrs: []string{"198.51.100.1/24"}},
		netnstest.End{NS: nsB, Dev: "other0", Addrs: []string{"198.51.100.2/24"}})
	c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true}
	cb := c
	cb.Destination = addr("192.0.2.9")
	b := newSite(t, nsB, cb)
	ca := c
	ca.Destination, ca.Address = addr("192.0.2.2"), addr("192.0.2.1")
	stranger := newSite(t, nsA, ca)
	ca.Destination, ca.Interface, ca.Port = addr("198.51.100.2"), "other0", 3780
	ca.Address = addr("198.51.100.1")
	elsewhere := newSite(t, nsA, ca)
	for range 3 {
		stranger.link.Send(packed(100, "forged"))
		elsewhere.link.Send(packed(100, "forged"))
	}
	netnstest.Eventually(t, 10*time.Second, "six refused datagrams", func() bool { return b.link.Stats().Refused == 6 })
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.refused) != 2 {
		t.Errorf("reported %v, want each source once", b.refused)
	}
	select {
	case <-b.batches:
		t.Error("a forged datagram was delivered")
	default:
	}
}

// Messages from an address in Accept are accepted: another address of the peer, or a relay
// on this host, whose packets arrive on the loopback interface. Others are refused.
func TestAcceptedSources(t *testing.T) {
	for _, tt := range []struct {
		accept   string
		relay    bool
		accepted bool
	}{
		{"192.0.2.9/32", false, true},
		{"192.0.2.8/29", false, true},
		{"192.0.2.9/32", true, false},
		{"127.0.0.3/32", true, true},
		{"127.0.0.0/8", true, true},
		{"127.0.0.3/32", false, false},
	} {
		nsA, nsB := pair(t)
		nsA.IP("addr", "add", "192.0.2.9/24", "dev", "sync0")
		c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true, Destination: addr("192.0.2.1")}
		c.Accept = []netip.Prefix{netip.MustParsePrefix(tt.accept)}
		b := newSite(t, nsB, c)
		ns, from, to := nsA, "192.0.2.9", "192.0.2.2"
		if tt.relay {
			ns, from, to = nsB, "127.0.0.3", "127.0.0.1"
		}
		ns.Do(func() {
			conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(from), 0)),
				net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(to), 3780)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(packed(100, "message").Bytes()); err != nil {
				t.Fatal(err)
			}
		})
		if tt.accepted {
			if got, _ := b.take(t, 1); got[0] != "message" {
				t.Errorf("Accept %s: %q", tt.accept, got)
			}
			continue
		}
		netnstest.Eventually(t, 10*time.Second, "a refused datagram", func() bool { return b.link.Stats().Refused == 1 })
	}
}

// A link with several peers sends to each, even if one of them is not listening, and
// receives from all.
func TestSeveralPeers(t *testing.T) {
	for _, family := range []string{"192.0.2.", "2001:db8::"} {
		nsA, nsB := pair(t)
		own, first, absent, second := addr(family+"1"), addr(family+"2"), addr(family+"3"), addr(family+"4")
		bits := "/24"
		if own.Is6() {
			bits = "/64"
		}
		for _, a := range []netip.Addr{absent, second} {
			nsB.IP("addr", "add", a.String()+bits, "dev", "sync0", "nodad")
		}
		c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true}
		ca, cb, cd := c, c, c
		ca.Address, ca.Destination, ca.Also = own, first, []netip.Addr{absent, second}
		cb.Address, cb.Destination = first, own
		cd.Address, cd.Destination = second, own
		a, b, d := newSite(t, nsA, ca), newSite(t, nsB, cb), newSite(t, nsB, cd)
		for i := range 10 {
			text := strconv.Itoa(i)
			a.link.Send(packed(100, text))
			for _, s := range []*site{b, d} {
				if got, from := s.take(t, 1); got[0] != text || from != own {
					t.Errorf("%q from %v, want %q", got, from, text)
				}
			}
		}
		for _, s := range []*site{b, d} {
			s.link.Send(packed(100, "back"))
			if _, from := a.take(t, 1); from != s.link.config.Address {
				t.Errorf("from %v, want %v", from, s.link.config.Address)
			}
		}
	}
}

// Peers may have other ports than the link. After SetPeers and Open a link sends to the new peers
// and accepts only their messages.
func TestPeersWithPortsChange(t *testing.T) {
	nsA, nsB := pair(t)
	for _, family := range []string{"192.0.2.", "2001:db8::"} {
		own, first, second := addr(family+"1"), addr(family+"2"), addr(family+"3")
		bits := "/24"
		if own.Is6() {
			bits = "/64"
		}
		nsB.IP("addr", "add", second.String()+bits, "dev", "sync0", "nodad")
		at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 3781) }
		ca := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true, Address: own, Peers: []netip.AddrPort{at(first)}}
		cb := Config{Transport: UDP, Interface: "sync0", Port: 3781, Checksum: true, Address: first, Peers: []netip.AddrPort{netip.AddrPortFrom(own, 3780)}}
		cd := cb
		cd.Address = second
		a, b, d := newSite(t, nsA, ca), newSite(t, nsB, cb), newSite(t, nsB, cd)
		a.link.Send(packed(100, "to the first"))
		if got, _ := b.take(t, 1); got[0] != "to the first" {
			t.Errorf("%q", got)
		}
		sockets := a.link.sockets
		if a.link.SetPeers([]netip.AddrPort{at(first)}); a.link.sockets != sockets {
			t.Error("the same peers close the sockets")
		}
		a.link.SetPeers([]netip.AddrPort{at(second)})
		a.open(t)
		b.link.Send(packed(100, "from the old peer"))
		d.link.Send(packed(100, "from the new peer"))
		if got, from := a.take(t, 1); from != second {
			t.Errorf("%q from %v", got, from)
		}
		a.link.SetPeers([]netip.AddrPort{at(first), at(second)})
		a.open(t)
		a.link.Send(packed(100, "to both"))
		for _, s := range []*site{b, d} {
			if got, _ := s.take(t, 1); got[0] != "to both" {
				t.Errorf("%q", got)
			}
		}
		for _, s := range []*site{a, b, d} {
			s.link.Close()
		}
	}
}

func TestPortInUse(t *testing.T) {
	nsA, _ := pair(t)
	c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Destination: addr("192.0.2.2"), Address: addr("192.0.2.1")}
	newSite(t, nsA, c)
	second := New(c, 1, nil, Reports{})
	var err error
	nsA.Do(func() { err = second.Open() })
	if err == nil || err.Error() != "UDP over sync0: bind to 192.0.2.1:3780: address already in use" {
		t.Errorf("got %v", err)
	}
}

// A link works again after its interface was removed and created anew.
func TestInterfaceRecreated(t *testing.T) {
	nsA, nsB := pair(t)
	c := Config{Transport: Multicast, Interface: "sync0", Port: 3780, Address: addr("225.0.0.50"), Checksum: true}
	a, b := newSite(t, nsA, c), newSite(t, nsB, c)
	var monitor *Monitor
	nsB.Do(func() {
		var err error
		if monitor, err = NewMonitor([]*Link{b.link}, nil); err != nil {
			t.Fatal(err)
		}
	})
	defer monitor.Close()
	inB := func(f func()) { nsB.Do(f) }

	nsA.IP("link", "del", "sync0") // removes the other end, too
	changed(t, monitor)
	inB(func() {
		if err := b.link.Open(); !errors.Is(err, ErrNoInterface) {
			t.Errorf("got %v", err)
		}
		if b.link.State() != Down {
			t.Errorf("state %d without an interface", b.link.State())
		}
	})
	b.link.Send(packed(100, "nowhere")) // counted, not fatal
	if s := b.link.Stats(); s.ErrorsSent != 1 {
		t.Errorf("stats %+v", s)
	}

	netnstest.Link(t,
		netnstest.End{NS: nsA, Dev: "sync0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: nsB, Dev: "sync0", Addrs: []string{"192.0.2.2/24"}})
	changed(t, monitor)
	a.open(t)
	b.open(t)
	inB(func() {
		netnstest.Eventually(t, 10*time.Second, "carrier", func() bool { b.reopen(t); return b.link.State() == Running })
	})
	a.link.Send(packed(100, "again"))
	b.take(t, 1)

	nsB.IP("link", "set", "sync0", "mtu", "9000")
	changed(t, monitor)
	b.open(t)
	if b.link.Capacity() != 9000-28 {
		t.Errorf("capacity %d at an MTU of 9000", b.link.Capacity())
	}
	nsA.IP("link", "set", "sync0", "down")
	inB(func() {
		netnstest.Eventually(t, 10*time.Second, "no carrier", func() bool { b.reopen(t); return b.link.State() == NoCarrier })
	})
}

// A link whose address is missing opens once the interface has it.
func TestOpenAfterAddressAdded(t *testing.T) {
	for _, tt := range []struct{ local, peer, prefix string }{
		{"192.0.2.9", "192.0.2.2", "192.0.2.9/24"}, {"2001:db8::9", "2001:db8::2", "2001:db8::9/64"},
	} {
		nsA, _ := pair(t)
		l := New(Config{Transport: UDP, Interface: "sync0", Port: 3780, Address: addr(tt.local), Destination: addr(tt.peer)}, 0, nil, Reports{})
		defer l.Close()
		var monitor *Monitor
		var err error
		nsA.Do(func() {
			if monitor, err = NewMonitor([]*Link{l}, nil); err != nil {
				t.Fatal(err)
			}
		})
		defer monitor.Close()
		open := func() { err = l.Open() }
		if nsA.Do(open); err == nil {
			t.Fatal("the link opened without its address")
		}
		nsA.IP("addr", "add", tt.prefix, "dev", "sync0")
		for err != nil {
			changed(t, monitor)
			nsA.Do(open)
		}
	}
}

// A link without a configured source address adopts the interface's new address.
func TestSourceAddressChanges(t *testing.T) {
	for _, tt := range []struct {
		name             string
		old, now         string
		sender, receiver Config
	}{
		{"multicast", "192.0.2.1", "192.0.2.9",
			Config{Transport: Multicast, Address: addr("225.0.0.50")}, Config{Transport: Multicast, Address: addr("225.0.0.50")}},
		{"UDP", "192.0.2.1", "192.0.2.9",
			Config{Transport: UDP, Destination: addr("192.0.2.2")}, Config{Transport: UDP, Destination: addr("192.0.2.9")}},
		{"UDP over IPv6", "2001:db8::1", "2001:db8::9",
			Config{Transport: UDP, Destination: addr("2001:db8::2")}, Config{Transport: UDP, Destination: addr("2001:db8::9")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := pair(t)
			for _, c := range []*Config{&tt.sender, &tt.receiver} {
				c.Interface, c.Port, c.Checksum = "sync0", 3780, true
			}
			a, b := newSite(t, nsA, tt.sender), newSite(t, nsB, tt.receiver)
			bits := "/24"
			if addr(tt.now).Is6() {
				bits = "/64"
			}
			nsA.IP("addr", "del", tt.old+bits, "dev", "sync0")
			nsA.IP("addr", "add", tt.now+bits, "dev", "sync0", "nodad")
			a.open(t)
			a.link.Send(packed(100, "again"))
			if _, from := b.take(t, 1); from != addr(tt.now) {
				t.Errorf("from %v", from)
			}
		})
	}
}

func changed(t *testing.T, m *Monitor) {
	t.Helper()
	select {
	case <-m.Changed:
	case <-time.After(10 * time.Second):
		t.Fatal("the monitor reported no change")
	}
}

func TestWholeMessages(t *testing.T) {
	msg := func(n int) []byte {
		b := make([]byte, n)
		b[0] = 0x10
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		return b
	}
	two := append(msg(8), msg(20)...)
	for _, tt := range []struct {
		b      []byte
		whole  int
		broken bool
	}{
		{nil, 0, false},
		{two, 28, false},
		{two[:27], 8, false},
		{two[:11], 8, false},
		{append(msg(8), 0x10, 0, 0, 7, 0, 0, 0, 0), 8, true},
		{append(msg(8), 0x10, 0, 0, 0, 0, 0, 0, 0), 8, true},
	} {
		if whole, broken := wholeMessages(tt.b); whole != tt.whole || broken != tt.broken {
			t.Errorf("%x: %d, %v; want %d, %v", tt.b, whole, broken, tt.whole, tt.broken)
		}
	}
}

func TestSteadyStateAllocations(t *testing.T) {
	nsA, nsB := pair(t)
	c := Config{Transport: UDP, Interface: "sync0", Port: 3780, Checksum: true}
	ca, cb := c, c
	ca.Destination, cb.Destination = addr("192.0.2.2"), addr("192.0.2.1")
	a := newSite(t, nsA, ca)
	arrived := make(chan struct{})
	b := New(cb, 7, func(*Batch, <-chan struct{}) { arrived <- struct{}{} }, Reports{})
	nsB.Do(func() {
		if err := b.Open(); err != nil {
			t.Fatal(err)
		}
	})
	defer b.Close()
	p := packed(1400, "message")
	round := func() {
		a.link.Send(p)
		<-arrived
	}
	for range 10 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n > 0 {
		t.Errorf("%v allocations for a datagram sent and received, want 0", n)
	}
}
