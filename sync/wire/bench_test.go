package wire

import (
	"testing"

	"ctbox/nl/ctnetlink"
)

// typicalFlow returns a flow like most of a firewall's table.
func typicalFlow() *ctnetlink.Flow {
	f := flowDumps[0].flow
	f.Has |= ctnetlink.HasMark | ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply | ctnetlink.HasID
	f.Has &^= ctnetlink.HasNATSrc
	f.Reply = flowDumps[0].reply
	return &f
}

func TestMessageAllocations(t *testing.T) {
	flow, expect := typicalFlow(), expectDump()
	p := NewPacker(1472)
	var c Counters
	var got ctnetlink.Flow
	var gotExpect ctnetlink.Expect
	run := func() {
		p.Reset()
		for range 100 {
			b, err := Encoder{}.AppendFlow(p.Buffer(), Header{Type: FlowUpdate}, flow)
			if err != nil {
				t.Fatal(err)
			}
			p.Add(b)
			b, err = Encoder{}.AppendExpect(p.Buffer(), Header{Type: ExpectNew}, &expect)
			if err != nil {
				t.Fatal(err)
			}
			p.Add(b)
			p.Add(AppendControl(p.Buffer(), Header{Type: Control, Flags: Ack}))
		}
		for i := range p.Datagrams() {
			for r := ReadDatagram(p.Datagram(i)); ; {
				m, ok := r.Next(&c)
				if !ok {
					break
				}
				var err error
				switch {
				case m.Type.IsFlow():
					err = ParseFlow(m.Body, &got)
				case m.Type.IsExpect():
					err = ParseExpect(m.Body, &gotExpect)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		// A refused message causes no allocation either.
		if ParseFlow(nil, &got) == nil {
			t.Fatal("an empty message was taken")
		}
	}
	if n := testing.AllocsPerRun(10, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendFlow(b *testing.B) {
	f := typicalFlow()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Encoder{}.AppendFlow(buf[:0], Header{Type: FlowUpdate}, f)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkParseFlow(b *testing.B) {
	buf, err := Encoder{}.AppendFlow(nil, Header{Type: FlowUpdate}, typicalFlow())
	if err != nil {
		b.Fatal(err)
	}
	f := new(ctnetlink.Flow)
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if err := ParseFlow(buf[HeaderLen:], f); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPacker packs a batch of 1000 flows into datagrams.
func BenchmarkPacker(b *testing.B) {
	f := typicalFlow()
	p := NewPacker(1472)
	b.ReportAllocs()
	for b.Loop() {
		p.Reset()
		for i := range 1000 {
			buf, _ := Encoder{}.AppendFlow(p.Buffer(), Header{Type: FlowUpdate, Seq: Seq(i)}, f)
			p.Add(buf)
		}
	}
	b.ReportMetric(1000/float64(p.Datagrams()), "flows/datagram")
}
