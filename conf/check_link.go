package conf

import (
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
)

// minMTU is the smallest MTU at which a link carries every message. The largest message, an
// expectation with long names over IPv6, and the packet's headers together stay below the
// size that every IPv4 host accepts (RFC 1122, section 3.3.2).
const minMTU = 576

func (k *check) sync() {
	s := k.cfg.Sync
	if s.Mode == ModeFTFW && s.ACKWindowSize == 1 {
		k.report(Caution, "ACKWindowSize 1 makes nodes with conntrack-tools acknowledge acknowledgements for ever", &s.ACKWindowSize)
	}
	if s.ExpectationSync && k.cfg.General.PollInterval > 0 {
		k.report(Note, "ExpectationSync has no effect with PollSecs on nodes with conntrack-tools", &s.ExpectationSync)
	}
	k.delay(s)
	k.ready(&s.Ready, s.Mode)
	if s.Cluster != nil {
		k.cluster(s.Cluster)
	}
	if len(s.Links) == 0 {
		k.report(Fatal, "no dedicated link: one Multicast, UDP or TCP clause is needed", s)
		return
	}
	var interfaces []Interface
	if k.env != nil {
		var err error
		if interfaces, err = k.env.Interfaces(); err != nil {
			k.reportHost(Fatal, "cannot list the interfaces: "+err.Error(), s)
			return
		}
	}
	for i, l := range s.Links {
		k.link(l, interfaces)
		for _, other := range s.Links[:i] {
			k.sameSocket(l, other)
		}
	}
}

func (k *check) delay(s *Sync) {
	d := &s.Delay
	given := slices.ContainsFunc([]any{&d.TCP, &d.UDP, &d.Default, &d.MinPackets, &d.Assured}, func(field any) bool {
		_, ok := k.cfg.Where(field)
		return ok
	})
	switch {
	case !d.Active():
		if given {
			k.report(Caution, "Delay delays nothing: it has neither TCP nor UDP nor Default", &d.TCP, &d.UDP, &d.Default, &d.MinPackets, &d.Assured)
		}
		return
	case s.DisableInternalCache:
		k.report(Caution, "Delay has no effect with DisableInternalCache: without that cache flows have no place to wait",
			&d.TCP, &d.UDP, &d.Default)
		return
	case s.DisableExternalCache:
		k.report(Caution, "Delay with DisableExternalCache: where packets of a flow take paths over both nodes, the other node does not "+
			"know the flow until the delay ends", &d.TCP, &d.UDP, &d.Default)
	}
	if _, given := k.cfg.Where(&d.MinPackets); given && d.MinPackets > 2 {
		if v, ok := k.sysctl("net/netfilter/nf_conntrack_acct"); ok && v == "0" {
			k.reportHost(Note, "net.netfilter.nf_conntrack_acct is 0: without counters of packets MinPackets ends no wait", &d.MinPackets)
		}
	}
}

// ready checks the file for keepalived.
func (k *check) ready(r *Ready, m Mode) {
	if r.File == "" {
		return
	}
	g := &k.cfg.General
	for _, other := range [...]struct{ name, path string }{
		{"LogFile", g.LogFile}, {"LockFile", g.LockFile}, {"Path", g.UNIXPath},
	} {
		if filepath.Clean(other.path) == filepath.Clean(r.File) {
			k.report(Fatal, "File "+r.File+" is "+other.name+", too", &r.File)
			return
		}
	}
	k.report(Note, "Weight "+strconv.FormatUint(uint64(r.Weight), 10)+
		" must exceed the difference between the nodes' priorities in keepalived.conf", &r.Weight, &r.File)
	if m == ModeNOTRACK {
		k.report(Caution, "Mode NOTRACK does not repair what is lost: a node counts as in sync that may lack flows", &r.File)
	}
	if k.env == nil {
		return
	}
	if mode, ok := k.env.Type(r.File); ok && !mode.IsRegular() {
		k.reportHost(Caution, "File "+r.File+" exists and is not a plain file", &r.File)
	} else if dir := filepath.Dir(r.File); !ok && dir != "/" {
		switch mode, ok := k.env.Type(dir); {
		case !ok:
			k.reportHost(Caution, "no directory "+dir+": keepalived tracks nothing in it unless it is there first", &r.File)
		case mode&fs.ModeSymlink == 0 && !mode.IsDir():
			k.reportHost(Caution, dir+" is not a directory", &r.File)
		}
	}
}

// cluster checks what is not encrypted. The parser has checked the rest; the key files are for
// the caller.
func (k *check) cluster(c *Cluster) {
	switch {
	case len(c.Keys) == 0:
		k.report(Caution, "Cluster has no Key: flows cross the link in the clear, and can be forged", c)
	case c.AllowPlain:
		k.report(Caution, "AllowPlain on is for a migration only: datagrams that are not sealed can be forged", &c.AllowPlain)
	}
	if c.HotStandby {
		k.hotStandby(c)
	}
}

// What a flow of a peer costs with HotStandby, as measured with Linux 6.18 on amd64: 342 bytes of
// the kernel's memory, extensions included, and 9 to 12 µs of the daemon's and the kernel's time for
// a creation, a change, an end or a renewal, under load and with the kernel's events.
const (
	standbyBytes = 350
	standbyTime  = "10 µs"
)

// hotStandby reports what HotStandby costs, and a kernel's table that cannot hold what it may have to.
func (k *check) hotStandby(c *Cluster) {
	limit, nodes := uint64(k.cfg.General.HashLimit), k.nodesInKernel()
	most := strconv.FormatUint(limit*nodes, 10) + " flows (HashLimit for each of " + strconv.FormatUint(nodes, 10) + " nodes)"
	k.report(Note, "HotStandby keeps the peers' flows in this kernel, too: each costs about "+strconv.Itoa(standbyBytes)+
		" bytes of kernel memory, "+strconv.FormatUint(limit*(nodes-1)*standbyBytes>>20, 10)+" MB at most, and about "+standbyTime+
		" of CPU time when it begins, changes or ends, and four times an hour", &c.HotStandby)
	if v, ok := k.sysctl("net/netfilter/nf_conntrack_max"); ok {
		if n, err := strconv.ParseUint(v, 10, 64); err == nil && n < limit*nodes {
			k.reportHost(Caution, "net.netfilter.nf_conntrack_max is "+v+": with HotStandby the table has up to "+most+
				", and a full one takes no flow of a peer and no new connection", &c.HotStandby)
		}
	}
}

// nodesInKernel returns the number of nodes whose flows are in this kernel's table.
func (k *check) nodesInKernel() uint64 {
	if s := k.cfg.Sync; s != nil && s.Cluster != nil && s.Cluster.HotStandby {
		return uint64(len(s.Cluster.Peers)) + 1
	}
	return 1
}

// link checks one link on its own.
func (k *check) link(l *Link, interfaces []Interface) {
	name := l.Transport.String()
	if l.Port == 0 {
		keyword := "Port"
		if l.Transport == Multicast {
			keyword = "Group"
		}
		k.report(Fatal, "the "+name+" link needs a "+keyword+" from 1 to 65535", &l.Port, l)
	}
	if l.Transport == Multicast {
		k.group(l)
	} else {
		k.peer(l)
		k.others(l)
	}
	if l.Interface == "" {
		k.report(Fatal, "the "+name+" link needs an Interface", l)
		return
	}
	if k.env == nil {
		return
	}
	i := slices.IndexFunc(interfaces, func(dev Interface) bool {
		return dev.Name == l.Interface || slices.Contains(dev.AltNames, l.Interface)
	})
	if i < 0 {
		k.reportHost(Fatal, l.Interface+" is an invalid interface: the daemon would wait for it", &l.Interface)
		return
	}
	dev := interfaces[i]
	if !dev.Up {
		k.reportHost(Caution, l.Interface+" is down", &l.Interface)
	}
	if dev.MTU < minMTU {
		k.reportHost(Caution, l.Interface+" has an MTU of "+strconv.Itoa(dev.MTU)+", messages need "+strconv.Itoa(minMTU),
			&l.Interface)
	}
	if l.Transport == Multicast && !dev.Multicast && !dev.Loopback {
		k.reportHost(Fatal, l.Interface+" has no multicast", &l.Interface)
	}
	switch {
	case l.Transport != Multicast:
		k.relay(l, interfaces)
		k.local(&l.Address, dev, interfaces)
	case !l.Address.Is6():
		k.local(&l.Local, dev, interfaces)
	}
}

// group checks the addresses of a multicast link.
func (k *check) group(l *Link) {
	switch {
	case !l.Address.IsValid():
		k.report(Fatal, "the Multicast link needs the group's address, in IPv4_address or IPv6_address", &l.Address, l)
	case !l.Address.IsMulticast():
		k.report(Fatal, l.Address.String()+" is no multicast address", &l.Address)
	case l.Address.Is6() && l.Local.IsValid():
		k.report(Note, "IPv4_interface has no effect with an IPv6 group", &l.Local)
	}
}

// peer checks the addresses of a link to one peer.
func (k *check) peer(l *Link) {
	switch {
	case !l.Destination.IsValid() && k.cfg.Sync.Cluster != nil: // the Peer clauses have the addresses
		if !l.Address.IsValid() {
			k.report(Note, "without "+family(l.Is6())+"_address the link listens on every address", l)
		}
	case !l.Destination.IsValid():
		k.report(Fatal, "the "+l.Transport.String()+
			" link needs the peer's address, in IPv4_Destination_Address or IPv6_Destination_Address", l)
	case l.Destination.IsMulticast() || l.Destination.IsUnspecified():
		k.report(Fatal, l.Destination.String()+" is no address of a peer", &l.Destination)
	case !l.Address.IsValid():
		k.report(Note, "without "+family(l.Is6())+"_address the link listens on every address", l)
	case l.Address.Is6() != l.Destination.Is6():
		k.report(Fatal, "the local address "+l.Address.String()+" and the peer's, "+l.Destination.String()+
			", are not of one family", &l.Destination)
	case l.Address == l.Destination && !l.Address.IsLoopback():
		k.report(Fatal, "the peer's address is the local one", &l.Destination)
	}
}

// Misfit returns the reason why a link cannot send to the addresses of Also, or "".
func (l *Link) Misfit(m Mode) string {
	for _, a := range l.Also {
		switch {
		case m == ModeFTFW:
			return "Also " + a.String() + " needs Mode NOTRACK or ALARM: FTFW is for two nodes"
		case a.Is6() != l.Is6():
			return "Also " + a.String() + " is not of the family of the link's " + l.Destination.String()
		}
	}
	return ""
}

// others checks the addresses besides the peer's: destinations (Also) and sources (Accept).
func (k *check) others(l *Link) {
	if text := l.Misfit(k.cfg.Sync.Mode); text != "" {
		k.report(Fatal, text, &l.Also)
	}
	if slices.Contains(l.Also, l.Destination) {
		k.report(Caution, "Also "+l.Destination.String()+" is the peer's address: it is sent everything twice", &l.Also)
	}
	for _, p := range l.Accept {
		if p.Addr().Is6() != l.Is6() {
			k.report(Note, "Accept "+p.String()+" has no effect on an "+family(l.Is6())+" link", &l.Accept)
		}
	}
}

// relay notes a peer address that is this host's: a relay may run there.
func (k *check) relay(l *Link, interfaces []Interface) {
	own := l.Destination.IsLoopback() || slices.ContainsFunc(interfaces, func(dev Interface) bool {
		return slices.Contains(dev.Addresses, l.Destination)
	})
	if own && l.Destination != l.Address && len(l.Accept) == 0 {
		k.reportHost(Note, l.Destination.String()+" is an address of this host: a relay there is heard only if it sends from that "+
			"address and through "+l.Interface+"; Accept names others", &l.Destination)
	}
}

// local checks that the address in a field is one of the host's.
func (k *check) local(field *netip.Addr, dev Interface, interfaces []Interface) {
	addr := *field
	if !addr.IsValid() || addr.IsUnspecified() || slices.Contains(dev.Addresses, addr) {
		return
	}
	if addr.IsLoopback() && dev.Loopback {
		return
	}
	for _, other := range interfaces {
		if slices.Contains(other.Addresses, addr) {
			k.reportHost(Caution, addr.String()+" is an address of "+other.Name+", not of "+dev.Name, field)
			return
		}
	}
	k.reportHost(Fatal, addr.String()+" is no address of this host", field)
}

// sameSocket checks that two links can be open at the same time.
func (k *check) sameSocket(l, other *Link) {
	if l.Port == 0 || l.Port != other.Port {
		return
	}
	switch {
	case l.Transport == Multicast:
		if l.Address == other.Address {
			k.report(Caution, "the links share a group and a port: each receives what is for the other", &l.Port, l)
		}
	case l.Is6() != other.Is6():
	case l.Address == other.Address, !l.Address.IsValid(), !other.Address.IsValid():
		k.report(Fatal, "port "+strconv.Itoa(int(l.Port))+" of that address belongs to the link before", &l.Port, l)
	}
}
