package node

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
)

// Status returns all numbers of this moment.
func (n *Node) Status(ctx context.Context) (Status, error) {
	var s Status
	err := n.sched.Do(ctx, func() { s = n.snapshot() })
	return s, err
}

func (n *Node) snapshot() Status {
	s := Status{
		Mode:            n.mode,
		ExpectationSync: n.expectSync,
		Traffic:         n.traffic,
		Kernel:          n.kernel,
		Replica:         n.replica,
		Uptime:          n.sched.Now(),
		TaskFail:        n.taskFailed,
		Commits:         n.commits,
	}
	s.Commits.Running = n.committing
	if s.Commits.Count > 0 {
		s.Commits.Age = n.sched.Now() - n.commitEnded
	}
	n.sched.Tasks(func(t *sched.Task) {
		s.Tasks = append(s.Tasks, TaskStatus{Type: t.Kind, Running: n.sched.Now() - t.Began, Done: t.Done})
	})
	slices.SortFunc(s.Tasks, func(a, b TaskStatus) int {
		return cmp.Or(cmp.Compare(b.Running, a.Running), cmp.Compare(a.Type, b.Type), cmp.Compare(b.Done, a.Done))
	})
	s.Internal = n.side(&n.internal)
	s.External = n.side(&n.external)
	if n.bypass {
		s.Internal = CacheStatus{Kind: CacheBypass, Flows: n.bypassed.flows, Expects: n.bypassed.expects}
	}
	if n.injector != nil {
		s.External = n.injector.status()
	}
	if n.machine == nil {
		return s
	}
	m := n.machine.Stats()
	s.Wire = WireStatus{Received: n.received, Lost: m.Lost, Before: m.Before}
	s.Replica.Resent, s.Replica.GivenUp = m.Resent, m.GivenUp
	s.Replica.ResyncsAsked, s.Replica.ThirdNode = m.Resyncs, m.ThirdNode
	s.Replica.NacksSent, s.Replica.NacksRecv = m.NacksSent, m.NacksReceived
	if n.behind {
		s.Replica.Lag = n.sched.Now() - n.behindSince
	}
	s.Replica.Pending, s.Replica.Unacked = uint64(m.Transmit), uint64(m.Resend)
	for addr, p := range n.peers {
		s.Peers = append(s.Peers, PeerStatus{Addr: netip.AddrPortFrom(addr, 0), Messages: p.messages,
			LastMessage: n.sched.Now() - p.last, Ignored: p.ignored,
			Incomplete: uint64(p.incomplete)})
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return a.Addr.Compare(b.Addr) })
	s.Links = n.links.status()
	s.Queues = n.queues(&m)
	return s
}

func (n *Node) side(c *caches) CacheStatus {
	if c.flows == nil {
		return CacheStatus{}
	}
	s := CacheStatus{Kind: CacheStored, Flows: n.tableStatus(c.flows.Stats(), c.flows.Bytes())}
	if c.expects != nil {
		s.Expects = n.tableStatus(c.expects.Stats(), c.expects.Bytes())
	}
	return s
}

func (n *Node) tableStatus(s cache.Stats, bytes int) TableStatus {
	return TableStatus{
		Active: uint64(s.Active), Objects: uint64(s.Objects), Limit: uint64(n.cfg.General.HashLimit), Bytes: uint64(bytes),
		Created: s.Created, CreateFailed: s.CreateFailed, NoSpace: s.NoSpace, Updated: s.Updated, Destroyed: s.Destroyed,
	}
}

// queues are the protocol's, newest made first as conntrack-tools has them.
func (n *Node) queues(m *proto.Stats) QueuesStatus {
	q := QueuesStatus{Nodes: uint64(m.Controls)}
	q.Queues = append(q.Queues, QueueStatus{Name: "txqueue", Len: uint64(m.Transmit)})
	q.Queues = append(q.Queues, n.links.errorQueue())
	if n.mode == ModeFTFW {
		q.Queues = append(q.Queues, QueueStatus{Name: "rsqueue", Len: uint64(m.Resend), Max: uint64(m.ResendLimit), NoSpace: m.GivenUp})
	}
	return q
}

// ResendQueue lists what the peer has not acknowledged yet, oldest first.
func (n *Node) ResendQueue(ctx context.Context) ([]Resend, error) {
	var out []Resend
	var refused error
	err := n.sched.Do(ctx, func() {
		m, ok := n.machine.(*proto.FTFW)
		if !ok {
			refused = ErrUnsupported
			return
		}
		for u := range m.Unacknowledged() {
			out = append(out, Resend(u))
		}
	})
	return out, errors.Join(err, refused)
}

// RequestResync asks the peers for all they have (-n).
func (n *Node) RequestResync(ctx context.Context) error {
	return n.ofProtocol(ctx, func() {
		n.notice("resync requested")
		n.machine.RequestResync(n.sched.Now())
	})
}

// Bulk tells the peers all of the internal cache (-B).
func (n *Node) Bulk(ctx context.Context) error { return n.ofProtocol(ctx, n.startBulk) }

// ofProtocol has the loop do what only modes with a dialogue have.
func (n *Node) ofProtocol(ctx context.Context, do func()) error {
	if n.mode != ModeFTFW && n.mode != ModeNOTRACK {
		return ErrUnsupported
	}
	return n.sched.Do(ctx, do)
}

// status is the injector's part of Status. The loop calls it.
func (i *injector) status() CacheStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	return CacheStatus{Kind: CacheInject, Flows: i.flows, Expects: i.expects}
}
