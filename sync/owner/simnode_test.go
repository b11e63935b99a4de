package owner

import (
	"encoding/binary"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/digest"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// simNode is a machine with a model of its kernel's table, and the daemon on it, which is wired as
// sync/replicate wires it.
type simNode struct {
	s      *sim
	id     uint8
	kernel []kernelFlow
	up     bool // the daemon runs

	down    bool // it has stepped down
	boot    [16]byte
	counter uint64
	life    int

	own      cache.Side
	ledger   *digest.Ledger
	answerer *digest.Answerer
	stream   *proto.Stream
	book     *Book
	packer   *wire.StreamPacker
	peers    [MaxNode + 1]*simPeer
	primary  bool // as the Book has it
	deadline time.Duration
	active   bool // something may have to be sent
	body     []byte
	message  wire.StreamMessage

	bulking  bool
	bulkAt   cache.Cursor
	missing  bool // events of the kernel were lost, and a reading follows
	question *Question
	asked    uint32 // number of the last question
	kept     Nodes  // have answered that they keep their flows
	keptTill time.Duration
	taken    Nodes // whose flows were taken lately
	takenTil time.Duration
	taking   taking

	// The model: what the node announces by what it has encoded, and what it has heard.
	said  announced
	roots map[uint64]uint64 // of said, by the root of a digest
	ended []heardEnd        // by flow
}

// taking is a takeover that runs.
type taking struct {
	running bool
	number  uint32
	nodes   Nodes
	entries []source
	next    int
}

type source struct {
	node  uint8
	entry cache.Handle
}

// simPeer is what a node has of another.
type simPeer struct {
	node            uint8
	copy            *cache.Flows
	ledger          *digest.Ledger
	comparer        *digest.Comparer
	stream          uint64
	heard           time.Duration
	living, primary bool
	sweep           proto.Sweep
	has             announced // the model of the copy
}

// kernelFlow is an entry of a kernel's table.
type kernelFlow struct {
	there   bool
	caused  bool // by traffic
	id      uint32
	version uint32
	traffic time.Duration // when traffic last changed it
}

func newSimNode(s *sim, id uint8) *simNode {
	n := &simNode{s: s, id: id, kernel: make([]kernelFlow, s.flows), roots: map[uint64]uint64{}}
	capacity := 300 + s.rng.IntN(1100)
	n.packer = wire.NewStreamPacker(capacity, n.transmit)
	n.packer.Begin(func() wire.Seq { return n.stream.Position() }, nil)
	n.body = make([]byte, 0, wire.MaxCompactBody)
	return n
}

// start starts the daemon, which reads the kernel's table.
func (n *simNode) start() {
	s := n.s
	n.up, n.life = true, n.life+1
	binary.BigEndian.PutUint64(n.boot[:], s.rng.Uint64())
	n.counter = 0
	n.own = cache.NewSide(cache.Config{})
	var key digest.Key
	binary.BigEndian.PutUint64(key[:], s.rng.Uint64())
	id := s.rng.Uint64()
	var others []uint8
	n.book = NewBook(n.id, n.own.Flows, n)
	for other := uint8(1); other <= simNodes; other++ {
		if other == n.id {
			continue
		}
		others = append(others, other)
		p := &simPeer{node: other, copy: cache.NewFlows(cache.Config{}), heard: -time.Hour, has: newAnnounced(s)}
		p.ledger = digest.NewFlowLedger(digest.Key{}, p.copy)
		n.peers[other] = p
		n.book.SetCopy(other, p.copy)
		n.book.SetPeer(other, false, false)
	}
	n.primary = !n.down
	n.book.SetPrimary(n.primary)
	n.stream = proto.NewStream(s.now, proto.StreamConfig{
		ID: id, First: wire.Seq(s.rng.Uint32()), Node: n.id, Window: s.window, Resend: s.resend, Peers: others, DigestKey: key,
	})
	n.ledger = digest.NewFlowLedger(key, n.own.Flows)
	n.answerer = digest.NewAnswerer(s.now, n.id, id, n.ledger, digest.NewExpectLedger(key, n.own.Expects), digest.Sender{
		Queued: func(table uint8, h cache.Handle) bool { return n.stream.Queued(object(table, h)) },
		Announce: func(table uint8, h cache.Handle) {
			o := object(table, h)
			switch {
			case n.stream.Overlooked(o):
				s.errorf("node %d has overlooked a flow", n.id)
			case n.stream.Holds(o):
				n.stream.Changed(o)
			}
		},
		Send: n.sendDigest,
	})
	n.said = newAnnounced(s)
	n.ended = make([]heardEnd, s.flows)
	n.bulking, n.missing, n.question, n.kept, n.taken, n.taking = false, false, nil, 0, 0, taking{}
	n.read(Silent)
	n.active = true
}

// stop kills the daemon, and die the machine.
func (n *simNode) stop() { n.up = false }

func (n *simNode) die() {
	n.stop()
	clear(n.kernel)
}

func object(table uint8, h cache.Handle) proto.Object {
	return proto.Object{Table: proto.Table(table), Handle: uint64(h)}
}

// Announced, Claimed and Withdraw are the Actions of the Book.
func (n *simNode) Announced(h cache.Handle) bool { return n.stream.Announces(object(0, h)) }
func (n *simNode) Claimed(h cache.Handle) {
	n.stream.Claim(object(0, h))
	n.s.figures.Claims++
	n.active = true
}
func (n *simNode) Withdraw(h cache.Handle) {
	n.stream.Withdrawn(object(0, h))
	n.s.figures.Withdrawn++
	n.active = true
}

// read merges the kernel's table into the internal cache, after the start and after lost events.
func (n *simNode) read(why Why) {
	if why != Silent {
		for i := range n.kernel {
			if !n.kernel[i].there {
				n.destroyed(i)
			}
		}
	}
	for i := range n.kernel {
		k := &n.kernel[i]
		if !k.there {
			continue
		}
		f := n.s.flow(i, k)
		h, outcome := n.own.Flows.Put(f, n.s.now)
		if outcome == cache.Created || outcome == cache.Replaced {
			n.ended[i] = heardEnd{} // it may have begun before the end was heard
		}
		if why == Silent || outcome != cache.Unchanged {
			n.stored(i, h, f, why)
		}
	}
}

// event is an event of the kernel.
func (n *simNode) event(i int, isNew bool, why Why) {
	if !n.up || n.missing {
		return
	}
	f := n.s.flow(i, &n.kernel[i])
	var h cache.Handle
	if isNew {
		h, _ = n.own.Flows.Replace(f, n.s.now)
	} else {
		h, _ = n.own.Flows.Put(f, n.s.now)
	}
	n.stored(i, h, f, why)
}

// stored is Replicator.FlowStored.
func (n *simNode) stored(i int, h cache.Handle, f *ctnetlink.Flow, why Why) {
	before := n.Announced(h)
	from := uint8(0)
	if why == ByKernel && !before {
		from, _ = n.book.Owner(f)
	}
	if n.book.Stored(n.s.now, h, f, why) {
		n.stream.Changed(object(0, h))
	} else {
		n.stream.Unannounced(object(0, h))
	}
	n.active = true
	if why == ByKernel && !before && n.Announced(h) {
		n.s.moved(n, i, from)
	}
}

// destroyed is a DESTROY event.
func (n *simNode) destroyed(i int) {
	f := n.s.flow(i, &n.kernel[i])
	h := n.own.Flows.Find(f)
	if h == 0 {
		return
	}
	n.endsOwn(i, h)
	n.book.OwnEnded(h)
	n.own.Flows.Kill(h)
	n.stream.Deleted(object(0, h))
	n.active = true
}

// receive takes a datagram.
func (n *simNode) receive(d *packet) {
	s := n.s
	if !n.stream.Arrived(s.now, d.from, d.boot, d.counter) {
		return
	}
	p := n.peers[d.from]
	p.heard = s.now
	if !p.living || p.primary != d.primary {
		fell := p.primary && !d.primary
		p.living, p.primary = true, d.primary
		n.book.SetPeer(d.from, true, d.primary)
		if fell && n.kept.Has(d.from) && s.now < n.keptTill {
			n.take(NodesOf(d.from))
		}
	}
	m := &n.message
	for r := wire.ReadStream(d.b); ; {
		ok, err := r.Next(m)
		if err != nil {
			s.errorf("node %d cannot read: %v", n.id, err)
		}
		if !ok {
			break
		}
		s.figures.Messages++
		verdict, events := n.stream.Receive(s.now, d.from, m)
		switch verdict {
		case proto.Apply:
			n.apply(d.from, p, m)
		case proto.Handled:
			n.control(d.from, p, m)
		}
		if events != 0 {
			n.happened(d.from, p, events)
		}
	}
	n.active = true
}

// apply is applyObject.
func (n *simNode) apply(from uint8, p *simPeer, m *wire.StreamMessage) {
	s, f := n.s, &n.s.received
	end := m.Type == wire.StreamFlowEnd || m.Type == wire.StreamFlowWithdrawn
	epoch, err := wire.ParseCompactFlow(m.Body, f, end)
	if err != nil {
		s.errorf("node %d gets a flow of %d: %v", n.id, from, err)
		return
	}
	s.figures.Applied++
	i := int(f.Orig.SrcPort)
	if end {
		h := p.copy.Find(f)
		if m.Type == wire.StreamFlowEnd {
			higher := n.outrankedBy(i, rank{epoch, from})
			n.heardEnd(from, p, i, epoch, n.book.Ended(s.now, from, f, epoch), higher)
		}
		p.copy.Delete(h)
		p.has.set(i, 0, 0)
		if m.Type == wire.StreamFlowWithdrawn {
			n.book.Gone(f, epoch)
		}
		return
	}
	var h cache.Handle
	if m.Type == wire.StreamFlowNew {
		h, _ = p.copy.Replace(f, s.now)
	} else {
		var outcome cache.Outcome
		if h, outcome = p.copy.Update(f, s.now); outcome == cache.Updated && n.book.Begins(from, h, epoch) {
			if p.copy.Epoch(h)&^cache.EpochMark < epoch {
				p.copy.Delete(h)
			}
			h, _ = p.copy.Replace(f, s.now)
		}
	}
	n.book.Heard(from, h, f, epoch)
	if s.eager {
		p.ledger.Stored(h)
	}
	n.heardFlow(from, p, i, f.Mark, epoch)
}

// control takes what the stream leaves to its owner.
func (n *simNode) control(from uint8, p *simPeer, m *wire.StreamMessage) {
	s := n.s
	switch m.Type {
	case wire.StreamState:
		if p.stream != m.Stream {
			p.stream = m.Stream
			p.ledger.Rekey(m.Key)
			if p.comparer == nil {
				p.comparer = digest.NewComparer(from, m.Stream, 0, p.ledger)
			} else {
				p.comparer.Restart(m.Stream)
			}
		}
	case wire.Compare, wire.Want:
		n.answerer.Take(s.now, m)
	case wire.Digest, wire.Sums, wire.Entries:
		if p.comparer == nil || m.Table != 0 {
			break
		}
		n.compare(from, p, m)
	case wire.Take:
		n.answer(from, m)
	case wire.Mine:
		if n.question != nil && m.Node == n.id {
			n.question.Answered(from, m.Question, m.Flags&wire.MineOwn != 0, Nodes(m.Nodes))
		}
	}
}

// answer answers a TAKE.
func (n *simNode) answer(from uint8, m *wire.StreamMessage) {
	wanted := Nodes(m.Nodes)
	var taken Nodes
	if n.s.now < n.takenTil {
		taken = n.taken
	}
	taken |= n.taking.nodes
	if n.question != nil {
		taken |= n.question.Asked(from, wanted)
	}
	mine := wire.StreamMessage{Type: wire.Mine, Node: from, Question: m.Question, Nodes: uint16(taken &^ NodesOf(n.id, from))}
	if n.primary && wanted.Has(n.id) {
		mine.Flags = wire.MineOwn
	}
	n.packer.Message(&mine)
}

// act carries out what a comparison has led to.
func (n *simNode) act(p *simPeer, a *digest.Action) {
	for i := range a.Send {
		n.packer.Message(&a.Send[i])
	}
	for _, h := range a.Remove {
		n.remove(p, h)
	}
	if a.Found {
		n.s.figures.Differences++
	}
	if a.Repaired {
		n.s.figures.Repaired++
	}
	if a.Ask {
		n.stream.RequestResyncOf(n.s.now, p.node)
	}
}

// remove removes an entry of a copy, which the peer no longer announces.
func (n *simNode) remove(p *simPeer, h cache.Handle) {
	f := &n.s.received
	if p.copy.Load(h, f) {
		epoch := p.copy.Epoch(h)
		p.copy.Delete(h)
		p.has.set(int(f.Orig.SrcPort), 0, 0)
		n.book.Gone(f, epoch)
	}
}

func (n *simNode) happened(from uint8, p *simPeer, e proto.Events) {
	if e&proto.PeerStarted != 0 {
		p.sweep.Reset()
	}
	if e&proto.BulkBegan != 0 {
		p.sweep.Begin()
		p.copy.BeginSweep()
	}
	if e&proto.BulkComplete != 0 {
		left := n.s.leftOut(p.copy)
		switch p.sweep.Judge(len(left), e&proto.BulkUnasked != 0) {
		case proto.Remove:
			for _, h := range left {
				n.remove(p, h)
			}
		case proto.Ask:
			n.stream.RequestResyncOf(n.s.now, p.node)
		}
	}
	if e&proto.BulkWanted != 0 && n.stream.BeginBulk(n.s.now) {
		n.bulking, n.bulkAt = true, cache.Cursor{}
	}
}

// bulk hands a slice of a bulk over.
func (n *simNode) bulk() {
	var batch [64]cache.Handle
	f := &n.s.received
	got, more := n.own.Flows.Next(&n.bulkAt, batch[:])
	for _, h := range batch[:got] {
		switch {
		case !n.own.Flows.Load(h, f):
		case n.book.Mine(h, f):
			n.stream.Bulk(object(0, h))
		default:
			n.stream.Unannounced(object(0, h))
		}
	}
	if !more {
		n.stream.EndBulk()
		n.bulking = false
	}
	n.active = true
}

// turn does what is due.
func (n *simNode) turn() {
	s := n.s
	if n.bulking {
		n.bulk()
	}
	if n.taking.running {
		n.takeSome()
	}
	if !n.active && s.now < n.deadline {
		return
	}
	n.active = false
	if s.now >= n.stream.Deadline() {
		n.happened(0, nil, n.stream.Tick(s.now)&^(proto.BulkBegan|proto.BulkComplete|proto.PeerStarted))
	}
	for _, p := range &n.peers {
		if p == nil {
			continue
		}
		if p.living && s.now-p.heard >= silence {
			p.living = false
			n.setPeer(p)
		}
		if p.comparer != nil && p.comparer.Deadline() <= s.now {
			a := p.comparer.Tick(s.now)
			n.act(p, &a)
		}
	}
	n.ask()
	for {
		m, ok := n.stream.Next()
		if !ok {
			break
		}
		n.pack(&m)
	}
	n.answerer.Tick(s.now)
	n.packer.Flush()
	n.stream.Sent(s.now)
	for o, ok := n.stream.NextReleased(); ok; o, ok = n.stream.NextReleased() {
		n.own.Flows.Release(cache.Handle(o.Handle))
	}
	n.deadline = min(n.stream.Deadline(), n.answerer.Deadline(), s.now+time.Second)
	for _, p := range &n.peers {
		if p != nil && p.comparer != nil {
			n.deadline = min(n.deadline, p.comparer.Deadline())
		}
	}
	if n.question != nil {
		n.deadline = min(n.deadline, n.question.Deadline())
	}
}

// silence is how long a node that lives is silent at most.
const silence = 5 * time.Second

func (n *simNode) setPeer(p *simPeer) {
	for node, q := range &n.peers {
		if q == p {
			n.book.SetPeer(uint8(node), p.living, p.primary)
		}
	}
}

// pack is cluster.pack.
func (n *simNode) pack(m *proto.Send) {
	if m.Control {
		if m.Message.Type == wire.StreamNotice {
			return
		}
		m.Message.Number, m.Message.Again = m.Header.Seq, m.Again
		n.packer.Message(&m.Message)
		return
	}
	h, flows, f := cache.Handle(m.Object.Handle), n.own.Flows, &n.s.encoded
	state, there := flows.State(h)
	if !there || !flows.Load(h, f) {
		n.s.errorf("node %d: a flow that is to be sent is gone", n.id)
		return
	}
	i := int(f.Orig.SrcPort)
	typ := [...]wire.StreamType{cache.New: wire.StreamFlowNew, cache.Alive: wire.StreamFlowUpdate, cache.Dead: wire.StreamFlowEnd}[state]
	if m.Withdrawn {
		typ = wire.StreamFlowWithdrawn
	}
	living := cache.Handle(0)
	if state == cache.Dead {
		if living = flows.Find(f); living != 0 && !m.Withdrawn && n.supersedes(living) {
			by := object(0, living)
			if !n.stream.Holds(by) {
				n.stream.Changed(by)
			}
			n.ledger.Ended(h, 0)
			n.stream.Superseded(m.Object, by)
			return
		}
	}
	end := typ == wire.StreamFlowEnd || typ == wire.StreamFlowWithdrawn
	body, err := n.s.encoder.AppendCompactFlow(n.body[:0], f, end)
	if err != nil {
		n.s.errorf("node %d: %v", n.id, err)
		return
	}
	epoch := flows.Epoch(h) &^ cache.EpochMark
	n.body = wire.AppendCompactEpoch(body, epoch)
	if end {
		n.ledger.Ended(h, living)
		n.said.set(i, 0, 0)
	} else {
		n.ledger.SentFlow(h, f)
		n.says(i, f.Mark, epoch)
	}
	n.packer.Numbered(m.Header.Seq, m.Again, typ, n.body)
	if m.Again {
		n.s.figures.Repeated++
	}
}

// supersedes reports whether the message about a flow takes the place of an end.
func (n *simNode) supersedes(living cache.Handle) bool { return n.Announced(living) }

func (n *simNode) sendDigest(m *wire.StreamMessage) {
	if m.Type == wire.Digest && m.Table == 0 {
		if sum, ok := n.roots[m.Root]; ok && sum != n.said.sum {
			n.s.errorf("node %d: two tables have the same digest", n.id)
		}
		n.roots[m.Root] = n.said.sum
	}
	n.packer.Message(m)
}

// transmit sends a payload to all others.
func (n *simNode) transmit(payload []byte) {
	n.counter++
	n.s.transmit(n, payload)
}

// ask goes on with a plain takeover.
func (n *simNode) ask() {
	q := n.question
	if q == nil {
		return
	}
	if q.Due(n.s.now) {
		n.packer.Message(&wire.StreamMessage{Type: wire.Take, Question: q.Number(), Nodes: uint16(q.Nodes())})
	}
	if q.Done(n.s.now) {
		n.kept, n.keptTill = q.Kept(), n.s.now+10*time.Second
		n.question = nil
		n.take(q.Nodes())
	}
}

// takeover begins a takeover: plain, or that of one node.
func (n *simNode) takeover(node uint8) {
	if !n.up || n.taking.running || n.question != nil {
		return
	}
	n.s.figures.Takeovers++
	n.down = false
	n.setPrimary()
	n.active = true
	if node != 0 {
		n.take(NodesOf(node))
		return
	}
	n.asked++
	all, heard := Nodes(0), Nodes(0)
	for other, p := range &n.peers {
		if p != nil {
			all |= NodesOf(uint8(other))
			if p.living {
				heard |= NodesOf(uint8(other))
			}
		}
	}
	n.question = Ask(n.s.now, n.id, n.asked, all, heard)
}

func (n *simNode) setPrimary() {
	n.primary = !n.down
	if n.up {
		n.book.SetPrimary(n.primary)
		n.stream.StateDue()
		n.active = true
	}
}

// take takes the flows of nodes: what this kernel has is claimed, and what it lacks is committed.
func (n *simNode) take(nodes Nodes) {
	if nodes == 0 || n.taking.running {
		return
	}
	n.taken, n.takenTil = nodes, n.s.now+10*time.Second
	t := &n.taking
	t.number = n.book.Take(nodes, Selector{})
	t.running, t.nodes, t.entries, t.next = true, nodes, t.entries[:0], 0
	for other, p := range &n.peers {
		if p == nil || !nodes.Has(uint8(other)) {
			continue
		}
		var at cache.Cursor
		var batch [64]cache.Handle
		for more := true; more; {
			var got int
			got, more = p.copy.Next(&at, batch[:])
			for _, h := range batch[:got] {
				t.entries = append(t.entries, source{uint8(other), h})
			}
		}
	}
}

// takeSome goes on with a takeover.
func (n *simNode) takeSome() {
	t, f := &n.taking, &n.s.received
	for range 32 {
		if t.next == len(t.entries) {
			n.book.EndTake(t.number)
			t.running, t.nodes = false, 0
			return
		}
		e := t.entries[t.next]
		t.next++
		if p := n.peers[e.node]; !p.copy.Load(e.entry, f) || !n.book.isTaken(t.number, e.node, e.entry, f) || !n.book.Wins(e.node, e.entry, f) {
			continue
		}
		i := int(f.Orig.SrcPort)
		if i >= n.s.flows {
			continue
		}
		n.s.figures.Taken++
		if k := &n.kernel[i]; k.there {
			n.book.ClaimTaken(t.number, e.node, []cache.Handle{e.entry})
		} else {
			*k = kernelFlow{there: true, id: n.s.newID(), version: f.Mark}
			n.event(i, true, Silent)
		}
	}
}
