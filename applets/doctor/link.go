package doctor

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/internal/iface"
	"ctbox/internal/nlattr"
)

// checkLink checks the links' interfaces and the routes to the peers. checkConfig checks what the
// configuration requires: that interfaces exist, their MTU and addresses.
func checkLink(h *host, r *report) {
	if !h.replicates() {
		return
	}
	for _, l := range h.cfg.Sync.Links {
		if l.Interface == "" {
			continue
		}
		dev, err := iface.ByName(l.Interface)
		if err != nil {
			continue // checkConfig has said so
		}
		up := dev.Has(unix.IFF_UP)
		if up && !dev.Has(unix.IFF_RUNNING) {
			r.add(Error, l.Interface+" has no carrier", "nothing reaches the peer",
				"look at cable, switch port, or the other end: ip link show "+l.Interface)
			continue
		}
		if !up {
			r.add(Error, l.Interface+" is down", "nothing reaches the peer", "ip link set "+l.Interface+" up")
			continue
		}
		if l.Transport != conf.Multicast && l.Destination.IsValid() {
			for _, to := range append([]netip.Addr{l.Destination}, l.Also...) {
				checkRoute(r, l, &dev, to)
			}
			continue
		}
		r.ok(l.Interface + " is up, MTU " + decimal(uint64(dev.MTU)))
	}
}

// checkRoute looks up the route of packets to a peer.
func checkRoute(r *report, l *conf.Link, dev *iface.Interface, peer netip.Addr) {
	to := peer.String()
	w, err := route(peer)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		r.add(Error, "there is no route to the peer "+to, "nothing reaches the peer",
			"ip addr add ADDRESS/LENGTH dev "+l.Interface)
	case err != nil:
		r.add(Note, "the route to the peer "+to+" is not known: "+err.Error(), "it was not checked", "")
	case w.local && len(l.Accept) > 0:
		r.ok(l.Interface + " is up, MTU " + decimal(uint64(dev.MTU)) + ", and " + to + " is this host: a relay, whose addresses are in Accept")
	case w.local && !peer.IsLoopback():
		r.add(Error, "the peer's address "+to+" is one of this host's", "the node would send to itself", "give the other node's address in conntrackd.conf")
	case w.dev != dev.Index && !peer.IsLoopback():
		r.add(Warning, "packets to the peer "+to+" do not leave through "+l.Interface+", but through "+w.name(),
			"conntrackd watches the state of the link's interface, but another one carries the messages", "ip route add "+to+" dev "+l.Interface)
	case w.gateway:
		r.add(Warning, "the peer "+to+" is behind a router",
			"messages are not authenticated and not encrypted: the link should be a cable or a VLAN of its own", "")
	default:
		r.ok(l.Interface + " is up, MTU " + decimal(uint64(dev.MTU)) + ", and the peer " + to + " is on it")
	}
}

// way is the result of a route lookup.
type way struct {
	dev     int
	gateway bool
	local   bool
}

func (w way) name() string {
	if dev, err := iface.ByIndex(w.dev); err == nil {
		return dev.Name
	}
	return "interface " + decimal(uint64(w.dev))
}

// route looks up the route to an address (RTM_GETROUTE, rtnetlink(7)). The
// lookup sends nothing.
func route(to netip.Addr) (w way, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return w, err
	}
	defer unix.Close(fd)
	family, addr := byte(unix.AF_INET6), to.AsSlice()
	if to.Is4() {
		family = unix.AF_INET
	}
	const header = unix.SizeofNlMsghdr + unix.SizeofRtMsg
	const familyAt, lengthAt, typeAt = unix.SizeofNlMsghdr, unix.SizeofNlMsghdr + 1, unix.SizeofNlMsghdr + 7 // struct rtmsg
	native := binary.NativeEndian
	b := make([]byte, header, 4096)
	native.PutUint16(b[4:], unix.RTM_GETROUTE)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	b[familyAt], b[lengthAt] = family, byte(8*len(addr))
	b = native.AppendUint16(b, uint16(unix.SizeofNlAttr+len(addr)))
	b = append(native.AppendUint16(b, unix.RTA_DST), addr...)
	native.PutUint32(b, uint32(len(b)))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return w, err
	}
	// The answer is queued before Sendto returns.
	n, err := unix.Read(fd, b[:cap(b)])
	if err != nil {
		return w, err
	}
	switch b = b[:n]; {
	case n >= header && native.Uint16(b[4:]) == unix.NLMSG_ERROR:
		return w, unix.Errno(-int32(native.Uint32(b[unix.SizeofNlMsghdr:])))
	case n < header || native.Uint16(b[4:]) != unix.RTM_NEWROUTE:
		return w, unix.EPROTO
	}
	w.local = b[typeAt] == unix.RTN_LOCAL
	nlattr.Each(b[header:], func(typ uint16, value []byte) {
		switch {
		case typ == unix.RTA_OIF && len(value) == 4:
			w.dev = int(native.Uint32(value))
		case typ == unix.RTA_GATEWAY, typ == unix.RTA_VIA:
			w.gateway = true
		}
	})
	return w, nil
}
