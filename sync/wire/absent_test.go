package wire

import (
	"testing"

	"ctbox/nl/ctnetlink"

	"github.com/google/go-cmp/cmp"
)

// everything returns a flow of the protocol with every attribute that the wire carries for it.
func everything(proto uint8) ctnetlink.Flow {
	f := ctnetlink.Flow{
		Has: ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasZone | ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply |
			ctnetlink.HasSynproxy | ctnetlink.HasLabels | ctnetlink.HasHelper,
		Orig:   ports(tuple4(proto, client, server), 40000, 21),
		Master: ports(tuple4(ctnetlink.ProtoTCP, client, outer), 40001, 22),
		Status: ctnetlink.StatusAssured, Timeout: 300, Mark: 5, Zone: 7,
		SeqAdjOrig: ctnetlink.SeqAdj{CorrectionPos: 1, OffsetBefore: 2, OffsetAfter: 3}, SeqAdjReply: ctnetlink.SeqAdj{CorrectionPos: 4},
		Synproxy: ctnetlink.Synproxy{ITS: 1, ISN: 2, TSOff: 3},
		Labels:   ctnetlink.Labels{1, 2, 3, 4}, LabelsLen: ctnetlink.LabelWords,
	}
	f.Helper.Set("ftp")
	switch proto {
	case ctnetlink.ProtoTCP:
		f.Has |= ctnetlink.HasTCPState | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
		f.TCPState, f.TCPWScaleOrig, f.TCPWScaleRepl = 3, 7, 8
	case ctnetlink.ProtoSCTP:
		f.Has |= ctnetlink.SCTPAttrs
		f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 3, 0x01020304, 0x05060708
	case ctnetlink.ProtoDCCP:
		f.Has |= ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole
		f.DCCPState, f.DCCPRole = 3, 1
	}
	return f
}

// An attribute that the kernel did not send is absent at the receiver too. A receiver that took
// it for zero would overwrite the value that it has.
func TestAbsentAttributesTravelAsAbsent(t *testing.T) {
	const seqAdj = ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply
	for _, proto := range []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP} {
		full := everything(proto)
		for bit := ctnetlink.Attr(0); ; {
			f := full
			f.Has &^= bit
			b, err := Encoder{WindowTracking: true}.AppendFlow(nil, Header{}, &f)
			if err != nil {
				t.Fatal(err)
			}
			var got ctnetlink.Flow
			if err := ParseFlow(b[HeaderLen:], &got); err != nil {
				t.Fatalf("protocol %d without %b: %v", proto, bit, err)
			}
			want := f.Has
			switch bit {
			case 0:
				if diff := cmp.Diff(f, got); diff != "" {
					t.Errorf("protocol %d (-want +got):\n%s", proto, diff)
				}
			case ctnetlink.HasStatus: // the C daemon's parser requires it
				want |= bit
			case ctnetlink.HasTCPState, ctnetlink.HasSCTPState, ctnetlink.HasDCCPState: // one group
				want &^= ctnetlink.TCPAttrs | ctnetlink.SCTPAttrs | ctnetlink.DCCPAttrs
			case ctnetlink.HasSeqAdjOrig, ctnetlink.HasSeqAdjReply: // one attribute
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
		f.Status, f.Has = ctnetlink.StatusAssured, f.Has&^ctnetlink.HasStatus
		var got ctnetlink.Flow
		b, _ := Encoder{OmitTimeout: true}.AppendFlow(nil, Header{}, &f)
		if err := ParseFlow(b[HeaderLen:], &got); err != nil {
			t.Fatal(err)
		}
		const scales = ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
		if want := full.Has &^ (ctnetlink.HasTimeout | scales); got.Has != want || got.Status != 0 {
			t.Errorf("protocol %d without timeout, status and window tracking: has %b, want %b; status %#x", proto, got.Has, want, got.Status)
		}
	}
}

// nextAttrBit returns the lowest set bit of all above bit, or 0.
func nextAttrBit(all, bit ctnetlink.Attr) ctnetlink.Attr {
	rest := all
	if bit != 0 {
		rest &^= bit | (bit - 1)
	}
	return rest & -rest
}

func TestAbsentAttributesOfExpectations(t *testing.T) {
	full := expectDump()
	full.Flags, full.Class = 5, 2
	for _, bit := range []ctnetlink.ExpectAttr{0, ctnetlink.ExpectHasTimeout, ctnetlink.ExpectHasFlags, ctnetlink.ExpectHasClass, ctnetlink.ExpectHasNAT, ctnetlink.ExpectHasHelper, ctnetlink.ExpectHasFn} {
		x := full
		x.Has &^= bit
		b, err := Encoder{}.AppendExpect(nil, Header{Type: ExpectNew}, &x)
		if err != nil {
			t.Fatal(err)
		}
		var got ctnetlink.Expect
		if err := ParseExpect(b[HeaderLen:], &got); err != nil {
			t.Fatal(err)
		}
		want := x.Has
		if bit == ctnetlink.ExpectHasFlags { // the C daemon always sends flags
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

// Translations follow the status bits. The reply tuple can differ from the original one in a
// side that the status does not mark as translated.
func TestTranslationsAreThoseOfTheStatus(t *testing.T) {
	f := ctnetlink.Flow{
		Has:  ctnetlink.HasStatus,
		Orig: ports(tuple4(ctnetlink.ProtoUDP, client, outer), 4000, 53), Reply: ports(tuple4(ctnetlink.ProtoUDP, server, v4(198, 51, 100, 9)), 5353, 4999),
	}
	src := ctnetlink.NAT{Addr: v4(198, 51, 100, 9), HasAddr: true, Port: 4999, HasPort: true}
	dst := ctnetlink.NAT{Addr: server, HasAddr: true, Port: 5353, HasPort: true}
	for _, c := range []struct {
		has      ctnetlink.Attr
		status   uint32
		src, dst ctnetlink.NAT
	}{
		{ctnetlink.HasStatus, ctnetlink.StatusSrcNATDone, src, ctnetlink.NAT{}},
		{ctnetlink.HasStatus, ctnetlink.StatusDstNATDone, ctnetlink.NAT{}, dst},
		{ctnetlink.HasStatus, ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone, src, dst},
		{ctnetlink.HasStatus, ctnetlink.StatusSrcNAT | ctnetlink.StatusDstNAT, ctnetlink.NAT{}, ctnetlink.NAT{}},
		{0, 0, src, dst},
	} {
		f.Has, f.Status = c.has, c.status
		b, err := Encoder{}.AppendFlow(nil, Header{}, &f)
		if err != nil {
			t.Fatal(err)
		}
		var got ctnetlink.Flow
		if err := ParseFlow(b[HeaderLen:], &got); err != nil {
			t.Fatal(err)
		}
		if got.NATSrc != c.src || got.NATDst != c.dst {
			t.Errorf("status %#x (%b): source %+v, destination %+v", c.status, c.has, got.NATSrc, got.NATDst)
		}
	}
}
