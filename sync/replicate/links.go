package replicate

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ctbox/conf"
	"ctbox/sync/link"
	"ctbox/sync/wire"
)

// links are the dedicated links of a node. Everything is received on all of them;
// one, the current one, sends.
type links struct {
	owner   *Replicator
	all     []*link.Link
	current int
	heard   [conf.MaxLinks]time.Duration // when a message last came over each; 0 for never
	said    []string                     // what was last logged about each link that is not open
	none    bool                         // the log has that no link is available
	monitor *link.Monitor
	tap     func(p *wire.Packer) // tests: gets what is sent in place of the link
}

// errNoLink and the text around an error are conntrack-tools'.
var errNoLink = errors.New("can't open channel socket: no dedicated link is configured")

// openLinks opens the configured links. A link whose interface does not exist yet opens
// later; any other failure ends the start.
func (r *Replicator) openLinks() (err error) {
	configured := r.cfg.Links
	if len(configured) == 0 {
		return errNoLink
	}
	l := &links{owner: r, said: make([]string, len(configured))}
	r.links = l
	for i, c := range configured {
		if missing := missingClause(c, r.cfg.Cluster); missing != "" {
			return fmt.Errorf("can't open channel socket: the %s link has no %s", c.Transport, missing)
		}
		if text := c.Misfit(r.cfg.Mode); text != "" {
			return fmt.Errorf("can't open channel socket: %s", text)
		}
		if c.Default {
			l.current = i
		}
		config := linkConfig(c)
		setPeers(&config, r.cfg.Cluster, i)
		l.all = append(l.all, link.New(config, i, r.deliver, link.Reports{Refused: r.refusedSource, Failed: r.linkFailed}))
	}
	// The monitor precedes the links' first look at their interfaces, to miss no change.
	if l.monitor, err = link.NewMonitor(l.all, r.linkFailed); err != nil {
		return err
	}
	r.sched.Watch(l.monitor.Changed, r.linkChanged)
	for i, k := range l.all {
		if err := l.open(i, k); err != nil {
			return fmt.Errorf("can't open channel socket: %w", err)
		}
	}
	r.packer = wire.NewPacker(l.all[l.current].Capacity())
	return nil
}

// missingClause names a clause that a link needs and lacks, or returns "". Without a peer
// messages would go to this host, and none would be accepted; without a port each node
// would choose its own.
func missingClause(c *conf.Link, cluster *conf.Cluster) string {
	switch {
	case c.Interface == "":
		return "Interface"
	case c.Transport == conf.Multicast && !c.Address.IsValid():
		return "IPv4_address or IPv6_address, which is the group's"
	case c.Transport != conf.Multicast && !c.Destination.IsValid() && cluster == nil:
		return "IPv4_Destination_Address or IPv6_Destination_Address, which is the peer's"
	case c.Port == 0 && c.Transport == conf.Multicast:
		return "Group"
	case c.Port == 0:
		return "Port"
	}
	return ""
}

func linkConfig(c *conf.Link) link.Config {
	return link.Config{
		Transport: c.Transport, Interface: c.Interface,
		Address: c.Address, Local: c.Local, Destination: c.Destination, Port: c.Port,
		Accept: c.Accept, Also: c.Also,
		SendBuffer: int(c.SndSocketBuffer), RecvBuffer: int(c.RcvSocketBuffer),
		Checksum: c.Checksum, ErrorQueue: int(c.ErrorQueueLength),
	}
}

// open opens link i, or logs that its interface is missing.
func (l *links) open(i int, k *link.Link) error {
	err := k.Open()
	switch {
	case errors.Is(err, link.ErrNoInterface):
		l.complain(i, l.owner.log.Warn, fmt.Sprintf("dedicated link %s: no such interface, waiting for it", k.Config().Interface))
		return nil
	case err == nil:
		l.said[i] = ""
	}
	return err
}

// complain logs what is wrong with link i, unless that is what was logged last: links are
// opened again whenever an interface changes.
func (l *links) complain(i int, say func(string, ...any), text string) {
	if l.said[i] != text {
		l.said[i] = text
		say(text)
	}
}

// refusedSource logs, once for each address, a sender that is not the configured peer.
func (r *Replicator) refusedSource(from netip.Addr) {
	r.log.Warn(fmt.Sprintf("refused sync messages from %v: only the configured interface and, for UDP and TCP, "+
		"the IPv4_Destination_Address or IPv6_Destination_Address and what Accept and Also name are accepted", from))
}

// linkFailed logs, once, an error that keeps a link from receiving. The link retries.
func (r *Replicator) linkFailed(err error) { r.log.Error("dedicated link: " + err.Error()) }

func (l *links) send(p *wire.Packer) { l.sendOn(l.current, p) }

func (l *links) sendOn(i int, p *wire.Packer) {
	if l.tap != nil {
		l.tap(p)
		return
	}
	l.all[i].Send(p)
}

// busy reports whether the current link has enough to send.
func (l *links) busy() bool { return l.all[l.current].Busy() }

// use makes link i the current one: where the peer's messages arrive, it also listens.
func (l *links) use(i int) {
	if i == l.current {
		return
	}
	l.current = i
	l.owner.packer.SetCapacity(l.all[i].Capacity())
}

func (l *links) close() {
	if l.monitor != nil {
		l.monitor.Close()
	}
	for _, k := range l.all {
		k.Close()
	}
}

// linkChanged reacts to changes of interfaces: it opens links whose interface has appeared,
// adopts MTUs, and leaves a current link that is down.
func (r *Replicator) linkChanged() {
	l := r.links
	for i, k := range l.all {
		if err := l.open(i, k); err != nil {
			l.complain(i, r.log.Error, "dedicated link: "+err.Error())
		}
	}
	r.packer.SetCapacity(l.all[l.current].Capacity())
	if l.all[l.current].State() == link.Running {
		l.none = false
		return
	}
	for i, k := range l.all {
		if i != l.current && k.State() == link.Running {
			l.use(i)
			l.none = false
			r.log.Notice(fmt.Sprintf("device `%s' becomes dedicated link", k.Config().Interface))
			return
		}
	}
	if !l.none {
		l.none = true
		r.log.Error("no dedicated links available!")
	}
}

// deliver is called by the links' readers with received datagrams. Readers wait while the
// kernel has to catch up with earlier ones (injection).
func (r *Replicator) deliver(b *link.Batch, ended <-chan struct{}) {
	for r.injector != nil && r.injector.Full() {
		select {
		case <-time.After(heldPoll):
		case <-ended:
			return
		}
	}
	if r.sched.Lock(ended) {
		r.takeDatagrams(b)
		r.sched.Unlock()
	}
}

// takeDatagrams applies the messages of a batch of datagrams.
func (r *Replicator) takeDatagrams(b *link.Batch) {
	b.Each(func(from netip.Addr, datagram []byte) { r.takeDatagram(b.Link, from, datagram) })
	if r.injector != nil {
		r.injector.Hand()
	}
}

func (r *Replicator) takeDatagram(link int, from netip.Addr, datagram []byte) {
	if r.cluster.takes(link, from, datagram) {
		return
	}
	reader := wire.ReadDatagram(datagram)
	for {
		m, ok := reader.Next(&r.received)
		if !ok {
			return
		}
		r.takeMessage(link, from, &m)
	}
}

// service returns what firewalls have to accept.
func (l *links) service() (proto string, port uint16) {
	c := l.all[l.current].Config()
	if c.Transport == link.TCP {
		return "TCP", c.Port
	}
	return "UDP", c.Port
}

// connected reports whether a peer is connected over TCP, and whether the links are TCP's.
func (l *links) connected() (connected, tcp bool) {
	for _, k := range l.all {
		tcp = k.Config().Transport == link.TCP
		connected = connected || tcp && k.Stats().ServerConnected
	}
	return connected, tcp
}

func (l *links) status() []LinkStatus {
	var out []LinkStatus
	now := l.owner.sched.Now()
	for i, k := range l.all {
		c, s := k.Config(), k.Stats()
		out = append(out, LinkStatus{
			Transport: c.Transport, Interface: c.Interface, State: k.State(), Active: i == l.current,
			ServerConnected: s.ServerConnected, ClientConnected: s.ClientConnected,
			BytesSent: s.BytesSent, BytesRecv: s.BytesRecv, PacketsSent: s.PacketsSent, PacketsRecv: s.PacketsRecv,
			ErrorsSent: s.ErrorsSent, ErrorsRecv: s.ErrorsRecv, Refused: s.Refused,
			Heard: l.heard[i] != 0, LastMessage: now - l.heard[i],
		})
	}
	return out
}

// errorQueue returns what TCP links hold while the peer is away, as one queue, which
// conntrack-tools shows for other transports too.
func (l *links) errorQueue() QueueStatus {
	q := QueueStatus{Name: "errorq", Max: defaultErrorQueue}
	for i, k := range l.all {
		if s := k.Stats(); k.Config().Transport == link.TCP {
			if i == 0 {
				q.Max = 0
			}
			q.Len += s.Queued
			q.Max += s.QueueLimit
			q.NoSpace += s.QueueDropped
		}
	}
	return q
}

// defaultErrorQueue is ErrorQueueLength's default.
const defaultErrorQueue = 128
