package replicate

import (
	"net/netip"
	"testing"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/link"
	"ctbox/sync/owner"
	"ctbox/sync/wire"
)

// pair is two nodes in NOTRACK: what one sends the other applies.
type pair struct {
	active, backup *Replicator
	flows          []ctnetlink.Flow
	handles        []cache.Handle
	from           netip.Addr
	message        []byte
}

func newPair(count int) *pair {
	p := &pair{active: unwired(conf.ModeNOTRACK), backup: unwired(conf.ModeNOTRACK), flows: flowtest.Flows(count), from: netip.MustParseAddr("192.0.2.2")}
	for _, r := range []*Replicator{p.active, p.backup} {
		r.links = &links{owner: r, all: []*link.Link{link.New(link.Config{}, 0, nil, link.Reports{})}}
		r.packer = wire.NewPacker(1400)
	}
	p.active.machine.Next() // what is sent at the start
	for i := range p.flows {
		p.active.store(&p.flows[i], false)
		p.handles = append(p.handles, p.active.internal.Flows.Find(&p.flows[i]))
	}
	return p
}

// replicate announces a flow of the active node and applies it on the backup.
func (p *pair) replicate(h cache.Handle) {
	p.active.FlowStored(h, &p.flows[0], owner.ByKernel)
	for {
		s, ok := p.active.machine.Next()
		if !ok {
			return
		}
		p.message = p.active.encode(p.message[:0], &s)
		reader := wire.ReadDatagram(p.message)
		for m, ok := reader.Next(&p.backup.received); ok; m, ok = reader.Next(&p.backup.received) {
			p.backup.takeMessage(0, p.from, &m)
		}
	}
}

func (p *pair) run() {
	for _, h := range p.handles {
		p.replicate(h)
	}
}

// Replicating a flow, from the internal cache to the peer's external one, allocates nothing.
func TestReplicationAllocatesNothing(t *testing.T) {
	p := newPair(1000)
	p.run()
	if got := p.backup.external.Flows.Len(); got != 1000 {
		t.Fatalf("the peer has %d of 1000 flows", got)
	}
	if n := testing.AllocsPerRun(5, p.run); n > 0 {
		t.Errorf("%v allocations for 1,000 flows", n)
	}
}

// BenchmarkReplicate measures a change of a flow, from its handle in the internal cache to the
// peer's external cache, without the link.
func BenchmarkReplicate(b *testing.B) {
	p := newPair(1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.replicate(p.handles[i%len(p.handles)])
	}
}
