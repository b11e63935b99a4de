package owner

import (
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/digest"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// announced is a model of what a node announces: for each flow the version of its contents, 0 for
// none, and the epoch.
type announced struct {
	flows []said
	sum   uint64 // of all, whatever their order
	count int
}

type said struct {
	version, epoch uint32
	over           bool // in a copy: an end of higher rank was heard
}

func newAnnounced(s *sim) announced { return announced{flows: make([]said, s.flows+aliens)} }

// set sets the announcement of a flow.
func (a *announced) set(i int, version, epoch uint32) {
	e := &a.flows[i]
	if e.version != 0 {
		a.sum -= mix(i, e.version, e.epoch)
		a.count--
	}
	if version != 0 {
		a.sum += mix(i, version, epoch)
		a.count++
	}
	e.version, e.epoch, e.over = version, epoch, e.over && version != 0
}

func mix(i int, version, epoch uint32) uint64 {
	z := uint64(i+1)<<48 ^ uint64(epoch)<<32 ^ uint64(version)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// heardEnd is the end of a flow by its owner as a node has heard it.
type heardEnd struct {
	heard      bool
	connection uint32 // 0 where the flow was not known
	rank       rank
}

// move is the last move of a flow because of a kernel's change.
type move struct {
	to uint8
	at time.Duration
}

// moved checks and notes that a node claims a flow for its kernel, which another one owns as the
// node knows. What has moved to a living primary stays there for 10 seconds.
func (s *sim) moved(n *simNode, i int, from uint8) {
	if from == 0 || from == n.id {
		return
	}
	s.figures.Moves++
	o, p := s.node(from), n.peers[from]
	knows := p.living && p.primary && p.has.flows[i].epoch == o.said.flows[i].epoch
	if last := s.moves[i]; last.to == from && knows && o.up && o.primary && o.said.flows[i].version != 0 &&
		s.now-last.at < 10*time.Second && !n.taking.nodes.Has(from) {
		s.errorf("node %d takes flow %d from %d, which has had it for %v", n.id, i, from, s.now-last.at)
	}
	s.moves[i] = move{n.id, s.now}
}

// says notes an announcement.
func (n *simNode) says(i int, version, epoch uint32) {
	s, e := n.s, &n.ended[i]
	if e.connection != 0 && s.connections[version] <= e.connection {
		s.errorf("node %d announces flow %d with epoch %d, whose end it has heard from %+v", n.id, i, epoch, e.rank)
	}
	n.said.set(i, version, epoch)
}

// heardFlow notes that a peer's announcement was applied.
func (n *simNode) heardFlow(from uint8, p *simPeer, i int, version, epoch uint32) {
	e := &p.has.flows[i]
	over := e.over && epoch <= e.epoch
	p.has.set(i, version, epoch)
	e.over = over
	if !over && i < len(n.ended) {
		n.ended[i] = heardEnd{}
	}
}

// heardEnd notes that a peer has ended a flow, before its entry goes.
func (n *simNode) heardEnd(from uint8, p *simPeer, i int, epoch uint32, owner bool, higher uint8) {
	if owner && higher != 0 {
		n.s.errorf("node %d takes the end of flow %d by %d for the owner's, and %d owns it", n.id, i, from, higher)
	}
	if owner {
		n.ends(i, n.s.connections[p.has.flows[i].version], rank{epoch, from})
	}
}

// outrankedBy returns a living node whose announcement of a flow, as this node knows it, outranks an end;
// 0 for none.
func (n *simNode) outrankedBy(i int, end rank) uint8 {
	if h := n.own.Flows.Find(n.s.probe(i)); h != 0 && n.Announced(h) && (rank{n.own.Flows.Epoch(h) &^ cache.EpochMark, n.id}).outranks(end) {
		return n.id
	}
	for node, p := range &n.peers {
		if p != nil && p.living && uint8(node) != end.node {
			if e := p.has.flows[i]; e.version != 0 && (rank{e.epoch, uint8(node)}).outranks(end) {
				return uint8(node)
			}
		}
	}
	return 0
}

// endsOwn notes that the kernel of a node ends a flow.
func (n *simNode) endsOwn(i int, h cache.Handle) {
	if !n.Announced(h) {
		return
	}
	s, mine := n.s, rank{n.own.Flows.Epoch(h) &^ cache.EpochMark, n.id}
	for node, p := range &n.peers {
		if p == nil {
			continue
		}
		if e := p.has.flows[i]; e.version != 0 && !e.over && (rank{e.epoch, uint8(node)}).outranks(mine) {
			return
		}
	}
	n.ends(i, s.connections[n.kernel[i].version], mine)
	s.ended[i] = true
	for _, o := range s.nodes {
		if e := o.said.flows; o != n && o.up && e[i].version != 0 && (rank{e[i].epoch, o.id}).outranks(mine) {
			s.ended[i] = false
		}
	}
}

// ends notes that a node has heard of the end of a flow by its owner.
func (n *simNode) ends(i int, connection uint32, by rank) {
	n.ended[i] = heardEnd{true, connection, by}
	for node, p := range &n.peers {
		if p != nil && uint8(node) != by.node {
			if e := &p.has.flows[i]; e.version != 0 {
				e.over = true
			}
		}
	}
}

// compare has a digest, or an answer, compared, and compares the models directly.
func (n *simNode) compare(from uint8, p *simPeer, m *wire.StreamMessage) {
	s, node := n.s, from
	copied := n.stream.Receipt(node, s.now).Copy
	situation := digest.Situation{
		Whole: n.stream.Whole(node) && n.stream.Complete(node),
		Asked: copied == proto.CopyRequested || copied == proto.CopyGranted,
	}
	before := p.comparer.Stats()
	a := p.comparer.Take(s.now, m, situation)
	if m.Type == wire.Digest && situation.Whole && p.comparer.Stats().Skipped == before.Skipped {
		sum, known := s.nodes[from-1].roots[m.Root]
		s.figures.Compared++
		switch equal := sum == p.has.sum; {
		case !known:
			s.errorf("node %d has sent no such digest", from)
		case equal != a.Equal:
			s.errorf("node %d finds that its copy of %d is equal: %v, and it is: %v", n.id, from, a.Equal, equal)
		}
	}
	if a.Equal && p.proven() {
		n.stream.Proven(node)
	}
	n.act(p, &a)
}

func (p *simPeer) proven() bool {
	st := p.comparer.Stats()
	return st.Proven && !st.Differing
}

// bounded checks the sizes of the queues.
func (n *simNode) bounded() {
	st, objects := n.stream.Stats(), n.own.Flows.Stats().Objects
	if st.Resend > st.ResendLimit || st.Transmit+st.Resend > objects+st.Controls+16 || st.Controls > 4200 {
		n.s.errorf("node %d has %d objects: %+v", n.id, objects, st)
	}
	for node := range n.peers {
		if n.peers[node] == nil {
			continue
		}
		if r := n.stream.Receipt(uint8(node), n.s.now); r.Gaps > 4096 {
			n.s.errorf("node %d has %d gaps of node %d", n.id, r.Gaps, node)
		}
	}
	n.s.figures.MostQueued = max(n.s.figures.MostQueued, st.Transmit+st.Resend)
}

// shows checks that no copy shows an ended flow.
func (n *simNode) shows() {
	s := n.s
	for node, p := range &n.peers {
		if p == nil {
			continue
		}
		for i := range s.flows {
			if e := p.has.flows[i]; e.over {
				f := s.probe(i)
				if h := p.copy.Find(f); h != 0 && n.book.Wins(uint8(node), h, f) {
					s.errorf("node %d shows flow %d of %d, which has ended: %+v, %+v", n.id, i, node, e, n.ended[i])
				}
			}
		}
	}
}

// settled reports whether nothing is left to be sent, and every copy is proven to be equal.
func (s *sim) settled() bool {
	for _, n := range s.nodes {
		if st := n.stream.Stats(); st.Transmit > 0 || st.Resend > 0 || n.taking.running || n.question != nil || n.bulking {
			return false
		}
		for node, p := range &n.peers {
			if p != nil && (p.comparer == nil || !p.proven() || p.has.sum != s.nodes[node-1].said.sum) {
				return false
			}
		}
	}
	return true
}

// finish checks everything once it has settled.
func (s *sim) finish() {
	for _, n := range s.nodes {
		for node, p := range &n.peers {
			if p != nil {
				s.same(n, uint8(node), p)
			}
		}
	}
	for i := range s.flows {
		s.oneOwner(i)
	}
}

// claims checks that packets make a node the owner of a flow that has stayed for long enough where
// it is.
func (s *sim) claims() {
	// A bulk that a node has asked for again replaces entries, whose age begins anew.
	for end := s.now + 4*time.Minute; s.youngest() < moveLeast+time.Second; {
		if s.run(s.now+time.Second, 0); s.now > end {
			s.errorf("entries are replaced all the time")
			return
		}
	}
	for i := range s.flows {
		s.home[i] = s.anyNode()
		s.traffic(s.node(s.home[i]), i)
	}
	s.run(s.now+2*time.Second, 0)
	for i := range s.flows {
		if n := s.node(s.home[i]); n.said.flows[i].version != n.kernel[i].version {
			s.errorf("node %d does not announce flow %d, whose packets come through it: %s", n.id, i, s.describe(i))
		}
		s.oneOwner(i)
	}
}

// youngest returns the age of the youngest entry of all copies.
func (s *sim) youngest() time.Duration {
	age := time.Hour
	var batch [64]cache.Handle
	for _, n := range s.nodes {
		for _, p := range &n.peers {
			if p == nil {
				continue
			}
			var at cache.Cursor
			for more := true; more; {
				var got int
				got, more = p.copy.Next(&at, batch[:])
				for _, h := range batch[:got] {
					began, _, _ := p.copy.Times(h)
					age = min(age, s.now-began)
				}
			}
		}
	}
	return age
}

// same checks that a copy is what its model is and what the peer announces, entry by entry.
func (s *sim) same(n *simNode, node uint8, p *simPeer) {
	f, said, count := &s.received, &s.nodes[node-1].said, 0
	var at cache.Cursor
	var batch [64]cache.Handle
	for more := true; more; {
		var got int
		got, more = p.copy.Next(&at, batch[:])
		for _, h := range batch[:got] {
			p.copy.Load(h, f)
			i, epoch := int(f.Orig.SrcPort), p.copy.Epoch(h)&^cache.EpochMark
			if e := said.flows[i]; e.version != f.Mark || e.epoch != epoch {
				s.errorf("node %d has flow %d of %d with version %d and epoch %d, want %+v", n.id, i, node, f.Mark, epoch, e)
			}
			count++
		}
	}
	if count != said.count {
		s.errorf("node %d has %d flows of %d, which announces %d", n.id, count, node, said.count)
	}
}

// oneOwner checks that a flow has one owner at most, that all nodes know it, and that it has one
// if traffic goes on.
func (s *sim) oneOwner(i int) {
	var owner uint8
	for _, n := range s.nodes {
		if n.said.flows[i].version == 0 {
			continue
		}
		if owner != 0 {
			s.errorf("nodes %d and %d announce flow %d: %+v, %+v", owner, n.id, i, s.nodes[owner-1].said.flows[i], n.said.flows[i])
		}
		owner = n.id
		if !n.kernel[i].there {
			s.errorf("node %d announces flow %d, which its kernel does not have", n.id, i)
		}
	}
	f := s.probe(i)
	for _, n := range s.nodes {
		if o, _ := n.book.Owner(f); o != owner {
			s.errorf("node %d takes %d for the owner of flow %d, and %d announces it: %s", n.id, o, i, owner, s.describe(i))
		}
		if k := n.kernel[i]; owner == 0 && k.there && k.caused && !n.ended[i].heard && !s.ended[i] && s.connections[k.version] == s.connection[i] {
			s.errorf("nobody announces flow %d, which node %d has: %s", i, n.id, s.describe(i))
		}
	}
}

// leftOut returns the entries that a bulk has left out.
func (s *sim) leftOut(t *cache.Flows) []cache.Handle {
	s.left = s.left[:0]
	var at cache.Cursor
	var batch [64]cache.Handle
	for more := true; more; {
		var got int
		got, more = t.NextUnseen(&at, batch[:])
		s.left = append(s.left, batch[:got]...)
	}
	return s.left
}

// probe returns flow i without contents.
func (s *sim) probe(i int) *ctnetlink.Flow {
	s.asked.Orig.SrcPort, s.asked.Reply.DstPort = uint16(i), uint16(i)
	return &s.asked
}
