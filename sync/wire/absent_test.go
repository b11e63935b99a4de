package wire

import (
	"testing"

	"ctbox/nl"

	"github.com/google/go-cmp/cmp"
)

// everything returns a flow of the protocol with all that the wire carries for it.
func everything(proto uint8) nl.Flow {
	f := nl.Flow{
		Has: nl.HasStatus | nl.HasTimeout | nl.HasMark | nl.HasZone | nl.HasSeqAdjOrig | nl.HasSeqAdjReply |
			nl.HasSynproxy | nl.HasLabels | nl.HasHelper,
		Orig:   ports(tuple4(proto, client, server), 40000, 21),
		Master: ports(tuple4(nl.ProtoTCP, client, outer), 40001, 22),
		Status: nl.StatusAssured, Timeout: 300, Mark: 5, Zone: 7,
		SeqAdjOrig: nl.SeqAdj{CorrectionPos: 1, OffsetBefore: 2, OffsetAfter: 3}, SeqAdjReply: nl.SeqAdj{CorrectionPos: 4},
		Synproxy: nl.Synproxy{ITS: 1, ISN: 2, TSOff: 3},
		Labels:   nl.Labels{1, 2, 3, 4}, LabelsLen: nl.LabelWords,
	}
	f.Helper.Set("ftp")
	switch proto {
	case nl.ProtoTCP:
		f.Has |= tcpAttrs
		f.TCPState, f.TCPWScaleOrig, f.TCPWScaleRepl = 3, 7, 8
	case nl.ProtoSCTP:
		f.Has |= sctpAttrs
		f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 3, 0x01020304, 0x05060708
	case nl.ProtoDCCP:
		f.Has |= dccpAttrs
		f.DCCPState, f.DCCPRole = 3, 1
	}
	return f
}

// An attribute that the kernel did not send is absent on the other side, too: a
// receiver that took it for a zero would write that over what it knows.
func TestAbsentAttributesTravelAsAbsent(t *testing.T) {
	const seqAdj = nl.HasSeqAdjOrig | nl.HasSeqAdjReply
	for _, proto := range []uint8{nl.ProtoTCP, nl.ProtoUDP, nl.ProtoSCTP, nl.ProtoDCCP} {
		full := everything(proto)
		for bit := nl.Attr(0); ; {
			f := full
			f.Has &^= bit
			b, err := Encoder{WindowTracking: true}.AppendFlow(nil, Header{}, &f)
			if err != nil {
				t.Fatal(err)
			}
			var got nl.Flow
			if err := ParseFlow(b[HeaderLen:], &got); err != nil {
				t.Fatalf("protocol %d without %b: %v", proto, bit, err)
			}
			want := f.Has
			switch bit {
			case 0:
				if diff := cmp.Diff(f, got); diff != "" {
					t.Errorf("protocol %d (-want +got):\n%s", proto, diff)
				}
			case nl.HasStatus: // the C daemon's parser wants one
				want |= bit
			case nl.HasTCPState, nl.HasSCTPState, nl.HasDCCPState: // one group
				want &^= tcpAttrs | sctpAttrs | dccpAttrs
			case nl.HasSeqAdjOrig, nl.HasSeqAdjReply: // one attribute
				want &^= seqAdj
			}
			if got.Has != want {
				t.Errorf("protocol %d without %b: has %b, want %b", proto, bit, got.Has, want)
			}
			if bit = nextAttrBit(full.Has, bit); bit == 0 {
				break
			}
		}
		f := full
		f.Status, f.Has = nl.StatusAssured, f.Has&^nl.HasStatus
		var got nl.Flow
		b, _ := Encoder{OmitTimeout: true}.AppendFlow(nil, Header{}, &f)
		if err := ParseFlow(b[HeaderLen:], &got); err != nil {
			t.Fatal(err)
		}
		const scales = nl.HasTCPWScaleOrig | nl.HasTCPWScaleReply
		if want := full.Has &^ (nl.HasTimeout | scales); got.Has != want || got.Status != 0 {
			t.Errorf("protocol %d without timeout, status and window tracking: has %b, want %b; status %#x", proto, got.Has, want, got.Status)
		}
	}
}

// nextAttrBit returns the lowest bit of all above bit, 0 if there is none.
func nextAttrBit(all, bit nl.Attr) nl.Attr {
	rest := all
	if bit != 0 {
		rest &^= bit | (bit - 1)
	}
	return rest & -rest
}

func TestAbsentAttributesOfExpectations(t *testing.T) {
	full := expectDump()
	full.Flags, full.Class = 5, 2
	for _, bit := range []nl.ExpectAttr{0, nl.ExpectHasTimeout, nl.ExpectHasFlags, nl.ExpectHasClass, nl.ExpectHasNAT, nl.ExpectHasHelper, nl.ExpectHasFn} {
		x := full
		x.Has &^= bit
		b, err := Encoder{}.AppendExpect(nil, Header{Type: ExpectNew}, &x)
		if err != nil {
			t.Fatal(err)
		}
		var got nl.Expect
		if err := ParseExpect(b[HeaderLen:], &got); err != nil {
			t.Fatal(err)
		}
		want := x.Has
		if bit == nl.ExpectHasFlags { // the C daemon's always have some
			want |= bit
			if got.Flags != 0 {
				t.Errorf("absent flags are %#x", got.Flags)
			}
		}
		if got.Has != want {
			t.Errorf("without %b: has %b, want %b", bit, got.Has, want)
		}
	}
}

// The reply tuple of a flow that only one side of is translated differs in that
// side, but what the kernel says counts.
func TestTranslationsAreThoseOfTheStatus(t *testing.T) {
	f := nl.Flow{
		Has:  nl.HasStatus,
		Orig: ports(tuple4(nl.ProtoUDP, client, outer), 4000, 53), Reply: ports(tuple4(nl.ProtoUDP, server, v4(198, 51, 100, 9)), 5353, 4999),
	}
	src := nl.NAT{Addr: v4(198, 51, 100, 9), HasAddr: true, Port: 4999, HasPort: true}
	dst := nl.NAT{Addr: server, HasAddr: true, Port: 5353, HasPort: true}
	for _, c := range []struct {
		has      nl.Attr
		status   uint32
		src, dst nl.NAT
	}{
		{nl.HasStatus, nl.StatusSrcNATDone, src, nl.NAT{}},
		{nl.HasStatus, nl.StatusDstNATDone, nl.NAT{}, dst},
		{nl.HasStatus, nl.StatusSrcNATDone | nl.StatusDstNATDone, src, dst},
		{nl.HasStatus, nl.StatusSrcNAT | nl.StatusDstNAT, nl.NAT{}, nl.NAT{}},
		{0, 0, src, dst},
	} {
		f.Has, f.Status = c.has, c.status
		b, err := Encoder{}.AppendFlow(nil, Header{}, &f)
		if err != nil {
			t.Fatal(err)
		}
		var got nl.Flow
		if err := ParseFlow(b[HeaderLen:], &got); err != nil {
			t.Fatal(err)
		}
		if got.NATSrc != c.src || got.NATDst != c.dst {
			t.Errorf("status %#x (%b): source %+v, destination %+v", c.status, c.has, got.NATSrc, got.NATDst)
		}
	}
}
