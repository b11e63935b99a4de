package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"ctbox/internal/recvmmsg"

	"golang.org/x/sys/unix"
)

const (
	perRead      = 32       // datagrams per system call
	datagramSize = 64 << 10 // room for any datagram; the kernel provides only the pages that are filled
	controlSize  = 64       // room for one IP_PKTINFO or IPV6_PKTINFO
	loopback     = 1        // LOOPBACK_IFINDEX: the loopback interface's index in every namespace
)

// datagram is a UDP or multicast link. It has one socket to receive from and, for each
// peer or the group, one to send to.
type datagram struct {
	link  *Link
	index int // of the interface
	in    *os.File
	tx    []sender // the first is the peer's or the group's
	done  sync.WaitGroup
	ended chan struct{}
}

func openDatagram(l *Link, index int) (_ sockets, err error) {
	d := &datagram{link: l, index: index, ended: make(chan struct{})}
	c := &l.config
	to := c.Peers
	switch {
	case c.Transport == Multicast:
		to = []netip.AddrPort{netip.AddrPortFrom(c.Address, c.Port)}
	case len(to) == 0:
		to = []netip.AddrPort{netip.AddrPortFrom(c.Destination, c.Port)}
		for _, also := range c.Also {
			to = append(to, netip.AddrPortFrom(also, c.Port))
		}
	}
	d.tx = make([]sender, len(to))
	for i := range to {
		d.tx[i].init(to[i])
	}
	defer func() {
		if err != nil {
			d.closeFiles()
		}
	}()
	if d.in, err = d.openReceiver(); err != nil {
		return nil, err
	}
	for i := range d.tx {
		t := &d.tx[i]
		if t.fd, t.connected, err = d.openSender(t.to); err != nil {
			return nil, err
		}
	}
	raw, err := d.in.SyscallConn()
	if err != nil {
		return nil, err
	}
	d.noteSource()
	d.done.Add(1)
	go d.receive(raw)
	return d, nil
}

func (d *datagram) socket() (int, error) {
	family := unix.AF_INET
	if d.link.is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, nil
}

// option is one call of setsockopt; what names the option in the error text.
type option struct {
	what               string
	level, name, value int
}

func setOptions(fd int, options []option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.what, err)
		}
	}
	return nil
}

// setBuffer sets the size of a socket buffer, beyond the system's limit if this process
// is privileged.
func setBuffer(fd, force, plain, size int) {
	if size > 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
	}
}

func (d *datagram) openReceiver() (*os.File, error) {
	c := &d.link.config
	fd, err := d.socket()
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "sync receiver")
	options := []option{{"IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1}}
	if d.link.is6() {
		options = []option{
			{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		}
	}
	if c.Transport == Multicast {
		// Several nodes on one host may join the same group.
		options = append(options, option{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	if err := setOptions(fd, options); err != nil {
		file.Close()
		return nil, err
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, c.RecvBuffer)
	if err := unix.Bind(fd, d.sockaddr(c.Address, c.Port)); err != nil {
		file.Close()
		return nil, fmt.Errorf("bind to %s: %w", endpoint(c.Address, c.Port), err)
	}
	if c.Transport == Multicast {
		if err := d.join(fd); err != nil {
			file.Close()
			return nil, fmt.Errorf("join %s: %w", c.Address, err)
		}
	}
	return file, nil
}

func endpoint(a netip.Addr, port uint16) string {
	if !a.IsValid() {
		return fmt.Sprintf("port %d", port)
	}
	return netip.AddrPortFrom(a, port).String()
}

// sockaddr returns the socket address of a and port, with the interface as scope where
// IPv6 needs one. The zero Addr becomes the family's unspecified address.
func (d *datagram) sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if d.link.is6() {
		sa := &unix.SockaddrInet6{Port: int(port)}
		if a.IsValid() {
			sa.Addr = a.As16()
		}
		if a.IsLinkLocalUnicast() || a.IsMulticast() {
			sa.ZoneId = uint32(d.index)
		}
		return sa
	}
	sa := &unix.SockaddrInet4{Port: int(port)}
	if a.IsValid() {
		sa.Addr = a.As4()
	}
	return sa
}

func (d *datagram) join(fd int) error {
	group := d.link.config.Address
	if group.Is6() {
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(d.index)})
	}
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, d.mreqn(group))
}

func (d *datagram) mreqn(group netip.Addr) *unix.IPMreqn {
	m := &unix.IPMreqn{Ifindex: int32(d.index)}
	if group.IsValid() {
		m.Multiaddr = group.As4()
	}
	if local := d.link.config.Local; local.Is4() {
		m.Address = local.As4()
	}
	return m
}

// localAddr returns the configured address to send from, or the zero Addr if the kernel
// is to choose. A host may have several addresses, and the peer accepts messages from one.
func (d *datagram) localAddr() netip.Addr {
	local := d.link.config.Address
	if d.link.config.Transport == Multicast {
		local = d.link.config.Local
	}
	if local.Is6() != d.link.is6() {
		return netip.Addr{}
	}
	return local
}

// openSender returns a socket that sends to an address. connected is false if connect(2)
// failed for a reason that may pass: no route, or no source address yet.
func (d *datagram) openSender(to netip.AddrPort) (fd int, connected bool, err error) {
	c := &d.link.config
	if fd, err = d.socket(); err != nil {
		return -1, false, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, c.SendBuffer)
	var options []option
	if !c.Checksum {
		options = append(options, option{"SO_NO_CHECK", unix.SOL_SOCKET, unix.SO_NO_CHECK, 1})
	}
	if c.Transport == Multicast {
		if d.link.is6() {
			options = append(options,
				option{"IPV6_MULTICAST_IF", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, d.index},
				option{"IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0})
		} else {
			if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, d.mreqn(netip.Addr{})); err != nil {
				return fd, false, fmt.Errorf("set IP_MULTICAST_IF to %s: %w", c.Interface, err)
			}
			options = append(options, option{"IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0})
		}
	}
	if err := setOptions(fd, options); err != nil {
		return fd, false, err
	}
	if local := d.localAddr(); local.IsValid() {
		if err := unix.Bind(fd, d.sockaddr(local, 0)); err != nil {
			return fd, false, fmt.Errorf("bind to %s: %w", local, err)
		}
	}
	err = unix.Connect(fd, d.sockaddr(to.Addr(), to.Port()))
	connected = err == nil
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("connect to %s: %w", endpoint(to.Addr(), to.Port()), err)
	}
	return fd, connected, err
}

// updateSource adopts a source address that the kernel would choose now, unless one is
// configured. A connected socket keeps the address that it was given, even if the
// interface has lost it since.
func (d *datagram) updateSource() error {
	if d.localAddr().IsValid() {
		return nil
	}
	for i := range d.tx {
		t := &d.tx[i]
		fd, connected, err := d.openSender(t.to)
		if err != nil {
			return err
		}
		if connected && source(fd) != source(t.fd) {
			t.fd, fd = fd, t.fd
			t.connected = true
		}
		unix.Close(fd)
	}
	d.noteSource()
	return nil
}

// noteSource stores the address that the link sends from for the monitor.
func (d *datagram) noteSource() {
	from := source(d.tx[0].fd)
	d.link.seen.source.Store(&from)
}

// source returns the address that a socket sends from.
func source(fd int) netip.Addr {
	sa, _ := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr)
	}
	return netip.Addr{}
}

func (d *datagram) closeFiles() {
	if d.in != nil {
		d.in.Close()
	}
	for i := range d.tx {
		if t := &d.tx[i]; t.fd >= 0 {
			unix.Close(t.fd)
			t.fd = -1
		}
	}
}

func (d *datagram) Close() {
	close(d.ended)
	d.closeFiles()
	d.done.Wait()
}

func (d *datagram) status(*Stats) {}

func (d *datagram) busy() bool { return false }

// receive reads and delivers datagrams until the link is closed.
func (d *datagram) receive(raw syscall.RawConn) {
	defer d.done.Done()
	b := &Batch{Link: d.link.number}
	rx := newReceiver()
	retry := backoff{report: d.link.failed, sleep: d.link.sleep}
	for {
		n, err := rx.read(raw)
		select {
		case <-d.ended:
			return
		default:
		}
		if err != nil {
			d.link.counters.errorsRecv.Add(1)
			retry.failed(d.link.wrap(fmt.Errorf("receive: %w", err)), d.ended)
			continue
		}
		retry.worked()
		b.empty()
		for i := range n {
			d.accept(b, rx, i)
		}
		if b.Len() > 0 {
			d.link.deliver(b, d.ended)
		}
	}
}

// accept adds datagram i of a read to the batch, or refuses it if it can't be a peer's.
func (d *datagram) accept(b *Batch, rx *receiver, i int) {
	from, dev := rx.source(i), rx.arrivedOn(i)
	peer, listed := d.link.peer(from)
	// An address that Accept lists may be a relay on this host: the only source whose
	// packets may arrive on the loopback interface.
	if dev != d.index && !(listed && dev == loopback) || d.link.config.Transport != Multicast && !peer {
		d.link.refuse(from)
		return
	}
	part := rx.datagram(i)
	d.link.counters.packetsRecv.Add(1)
	d.link.counters.bytesRecv.Add(uint64(len(part)))
	b.add(from, part)
}

// receiver reads datagrams, each with its source and its interface, several with one
// system call. Its memory is allocated once.
type receiver struct {
	reader  *recvmmsg.Reader
	control [perRead][controlSize]byte
	names   [perRead]unix.RawSockaddrInet6 // large enough for either family
	n       int                            // datagrams of the last read
	errno   syscall.Errno
	fn      func(fd uintptr) bool
}

func newReceiver() *receiver {
	r := &receiver{reader: recvmmsg.NewReader(perRead, datagramSize)}
	for i := range r.reader.Headers {
		h := &r.reader.Headers[i].Msg
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.control[i][0]
	}
	r.fn = func(fd uintptr) bool {
		r.n, r.errno = r.reader.Read(fd, perRead)
		return r.errno != unix.EAGAIN
	}
	return r
}

// read waits for datagrams and returns how many it has received.
func (r *receiver) read(raw syscall.RawConn) (int, error) {
	for i := range r.reader.Headers { // the kernel has overwritten both lengths
		h := &r.reader.Headers[i].Msg
		h.Namelen = uint32(unsafe.Sizeof(r.names[i]))
		h.SetControllen(controlSize)
	}
	if err := raw.Read(r.fn); err != nil {
		return 0, err
	}
	if r.errno != 0 {
		return 0, r.errno
	}
	return r.n, nil
}

// datagram returns datagram i of the last read, which always fits: a UDP datagram is
// shorter than datagramSize.
func (r *receiver) datagram(i int) []byte {
	b, _ := r.reader.Datagram(i)
	return b
}

// source returns the sender's address of datagram i.
func (r *receiver) source(i int) netip.Addr {
	if r.names[i].Family == unix.AF_INET6 {
		return netip.AddrFrom16(r.names[i].Addr).Unmap()
	}
	return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&r.names[i])).Addr)
}

// arrivedOn returns the index of the interface that datagram i arrived on, 0 if unknown.
func (r *receiver) arrivedOn(i int) int {
	control := r.control[i][:min(int(r.reader.Headers[i].Msg.Controllen), controlSize)]
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(control) {
			return 0
		}
		data := control[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return int(binary.NativeEndian.Uint32(data[16:]))
		}
		control = control[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(control)):]
	}
	return 0
}
