package wire

import (
	"bytes"
	"testing"

	"ctbox/nl/ctnetlink"

	"github.com/google/go-cmp/cmp"
)

// FuzzDatagram reads whole datagrams. Reading must end, and every message that parses can be
// encoded again and parses to the same.
func FuzzDatagram(f *testing.F) {
	for _, d := range flowDumps {
		f.Add(unhex(f, d.hex))
	}
	f.Add(unhex(f, expectHex))
	for _, m := range capturedMessages(f) {
		f.Add(m.raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Counters
		var flow ctnetlink.Flow
		var expect ctnetlink.Expect
		used := 0
		for r := ReadDatagram(b); ; {
			m, ok := r.Next(&c)
			if !ok {
				break
			}
			used += HeaderLen + len(m.Body)
			switch {
			case m.Type.IsFlow() && ParseFlow(m.Body, &flow) == nil:
				resend(t, m.Header, &flow)
			case m.Type.IsExpect() && ParseExpect(m.Body, &expect) == nil:
				resendExpect(t, m.Header, &expect)
			}
		}
		if used > len(b) {
			t.Errorf("%d bytes of messages in %d bytes", used, len(b))
		}
		if c.Truncated+c.BadSize > 1 {
			t.Errorf("the end was counted more than once: %+v", c)
		}
	})
}

func resend(t *testing.T, h Header, f *ctnetlink.Flow) {
	enc := Encoder{WindowTracking: true}
	h.Type, h.Flags = FlowUpdate, 0
	once, err := enc.AppendFlow(nil, h, f)
	if err != nil || len(once) > MaxFlowLen {
		t.Fatalf("%d bytes, %v: %+v", len(once), err, f)
	}
	var again ctnetlink.Flow
	if err := ParseFlow(once[HeaderLen:], &again); err != nil {
		t.Fatalf("%v: %x", err, once)
	}
	twice, err := enc.AppendFlow(nil, h, &again)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%v\n once %x\ntwice %x", err, once, twice)
	}
}

func resendExpect(t *testing.T, h Header, x *ctnetlink.Expect) {
	h.Type, h.Flags = ExpectNew, 0
	once, err := Encoder{}.AppendExpect(nil, h, x)
	if err != nil || len(once) > MaxFlowLen {
		t.Fatalf("%d bytes, %v: %+v", len(once), err, x)
	}
	var again ctnetlink.Expect
	if err := ParseExpect(once[HeaderLen:], &again); err != nil {
		t.Fatalf("%v: %x", err, once)
	}
	twice, err := Encoder{}.AppendExpect(nil, h, &again)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%v\n once %x\ntwice %x", err, once, twice)
	}
}

// carried returns the part of a tuple that the wire carries. A message may have ports or ICMP
// fields that its protocol does not have, and unknown ports of DCCP are sent as zeros (see
// complete).
func carried(t ctnetlink.Tuple) ctnetlink.Tuple {
	if !hasWirePorts(t.Proto) || t.Proto == ctnetlink.ProtoDCCP && t.SrcPort == 0 && t.DstPort == 0 {
		t.SrcPort, t.DstPort, t.Has = 0, 0, t.Has&^ctnetlink.TuplePorts
	}
	if !ctnetlink.IsICMP(t.Proto) {
		t.ICMPID, t.ICMPType, t.ICMPCode, t.Has = 0, 0, 0, t.Has&^ctnetlink.TupleICMP
	}
	return t
}

// FuzzFlow encodes any flow. The message must parse to the same flow, as far as the wire
// carries it.
func FuzzFlow(f *testing.F) {
	for _, d := range flowDumps {
		f.Add(unhex(f, d.hex)[HeaderLen:], uint32(0x19f), "ftp", uint8(3), uint16(7))
	}
	f.Fuzz(func(t *testing.T, body []byte, status uint32, helper string, scale uint8, zone uint16) {
		var flow ctnetlink.Flow
		if ParseFlow(body, &flow) != nil {
			return
		}
		flow.Has |= ctnetlink.HasStatus | ctnetlink.HasHelper | ctnetlink.HasZone | ctnetlink.HasTCPWScaleOrig
		flow.Status, flow.Zone, flow.TCPWScaleOrig = status, zone, scale
		flow.Helper.Set(helper)
		b, err := Encoder{WindowTracking: true}.AppendFlow(nil, Header{}, &flow)
		if err != nil {
			t.Fatal(err)
		}
		var got ctnetlink.Flow
		if err := ParseFlow(b[HeaderLen:], &got); err != nil {
			t.Fatalf("%v: %x", err, b)
		}
		if carried(got.Orig) != carried(flow.Orig) || carried(got.Master) != carried(flow.Master) || got.Status != status || got.Zone != zone {
			t.Errorf("%s", cmp.Diff(flow, got))
		}
		if got.Has&ctnetlink.HasTCPWScaleOrig != 0 && got.TCPWScaleOrig > ctnetlink.MaxWindowScale {
			t.Errorf("window scale %d", got.TCPWScaleOrig)
		}
	})
}
