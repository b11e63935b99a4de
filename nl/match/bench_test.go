package match

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"ctbox/nl/ctnetlink"
)

// files are what orchestrators and routers delete, 5,000 predicates each.
var files = []struct {
	name string
	make func(r *rand.Rand, i int) Predicate
}{
	{"services", func(_ *rand.Rand, i int) Predicate { // kube-proxy: -p udp --orig-dst SERVICE --dport 53
		return Predicate{Has: Proto, Proto: ctnetlink.ProtoUDP, Orig: Tuple{Has: Dst | DstPort, Dst: host(1, i), DstPort: Port(53)}}
	}},
	{"endpoints", func(_ *rand.Rand, i int) Predicate { // kube-proxy: --orig-dst SERVICE --dst-nat ENDPOINT
		return Predicate{Has: Proto | DstNAT, Proto: ctnetlink.ProtoUDP,
			Orig: Tuple{Has: Dst, Dst: host(1, i/1000)}, DstNAT: End{HasAddr: true, Addr: host(2, i)}}
	}},
	{"pairs", func(_ *rand.Rand, i int) Predicate { // Neutron: -s A -d B -w ZONE
		return Predicate{Has: Zone, Zone: uint16(1 + i%10), Orig: Tuple{Has: Src | Dst, Src: host(1, i/70), Dst: host(2, i%70)}}
	}},
	{"addresses", func(_ *rand.Rand, i int) Predicate { // Calico: any end
		return Predicate{Has: AnyEnd, End: End{HasAddr: true, Addr: host(1, i)}}
	}},
	{"prefixes", func(r *rand.Rand, i int) Predicate {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(i >> 8), byte(i)}), 20+i%13)
		return Predicate{Orig: Tuple{Has: Src, Src: Prefix(p.Masked())}}
	}},
	{"ranges", func(r *rand.Rand, i int) Predicate {
		low := uint16(r.IntN(60000))
		return Predicate{Has: Proto, Proto: ctnetlink.ProtoTCP,
			Orig: Tuple{Has: Dst | DstPort, Dst: host(1, i%3), DstPort: Ports{low, low + uint16(r.IntN(100))}}}
	}},
	{"everything", func(r *rand.Rand, _ int) Predicate {
		w := &world{r: r, hosts: 5000}
		for {
			s := w.spec(3)
			// What few flows meet.
			if s.p.Orig.Has&(Src|Dst|SrcPort|DstPort) != 0 || s.p.Reply.Has&(Src|Dst|SrcPort|DstPort) != 0 {
				return s.p
			}
		}
	}},
}

func host(net byte, i int) Address {
	return Host(netip.AddrFrom4([4]byte{10, net, byte(i >> 8), byte(i)}))
}

func benchmarkFlows(r *rand.Rand, n int) []ctnetlink.Flow {
	flows := make([]ctnetlink.Flow, n)
	for i := range flows {
		f := &flows[i]
		src := raw(netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(80)), byte(r.IntN(256))}))
		dst := raw(netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(80)), byte(r.IntN(256))}))
		f.Orig = ctnetlink.Tuple{Src: src, Dst: dst, SrcPort: uint16(r.Uint32()), DstPort: []uint16{53, 80, 443, uint16(r.Uint32())}[r.IntN(4)],
			Family: 2, Proto: []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP}[r.IntN(2)], Has: ctnetlink.TupleAddrs | ctnetlink.TuplePorts | ctnetlink.TupleProto}
		f.Reply = f.Orig.Inverted()
		f.Has = ctnetlink.HasMark | ctnetlink.HasStatus | ctnetlink.HasID | ctnetlink.HasTimeout
		f.Status, f.Timeout, f.ID = 0xe, 100, uint32(i)
	}
	return flows
}

func benchmarkMatcher(f func(r *rand.Rand, i int) Predicate) *Matcher {
	r := rand.New(rand.NewPCG(1, 2))
	predicates := make([]Predicate, 5000)
	for i := range predicates {
		predicates[i] = f(r, i)
	}
	return New(predicates)
}

// BenchmarkMatch is the time for one flow and 5,000 predicates.
func BenchmarkMatch(b *testing.B) {
	flows := benchmarkFlows(rand.New(rand.NewPCG(3, 4)), 100_000)
	for _, file := range files {
		m := benchmarkMatcher(file.make)
		b.Run(file.name, func(b *testing.B) {
			b.ReportAllocs()
			met := 0
			for i := range b.N {
				if m.Match(&flows[i%len(flows)], modelNow) {
					met++
				}
			}
			b.ReportMetric(float64(met)/float64(b.N), "met/flow")
			b.ReportMetric(float64(len(m.shapes)), "shapes")
			b.ReportMetric(float64(len(m.rest)), "rest")
		})
	}
	m := benchmarkMatcher(files[0].make)
	b.Run("each one by one", func(b *testing.B) {
		for i := range b.N {
			for j := range m.predicates {
				m.predicates[j].Match(&flows[i%len(flows)], modelNow)
			}
		}
	})
}

// BenchmarkNew is the time to make a Matcher of 5,000 predicates.
func BenchmarkNew(b *testing.B) {
	for _, file := range files {
		m := benchmarkMatcher(file.make)
		b.Run(file.name, func(b *testing.B) {
			for range b.N {
				New(m.predicates)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	flows := benchmarkFlows(rand.New(rand.NewPCG(3, 4)), 1000)
	for _, file := range files {
		m := benchmarkMatcher(file.make)
		all := make([]int32, 0, len(m.predicates))
		if n := testing.AllocsPerRun(1, func() {
			for i := range flows {
				m.Match(&flows[i], modelNow)
				all = m.AppendMatches(all[:0], &flows[i], modelNow)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations for %d flows", file.name, n, len(flows))
		}
	}
}
