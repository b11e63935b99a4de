package node

import (
	"testing"
	"time"

	"ctbox/nl"
)

func TestRestoredTimeout(t *testing.T) {
	for _, tt := range []struct {
		own    uint32
		age    time.Duration
		commit time.Duration
		want   uint32
	}{
		{own: 600, age: 10 * time.Second, want: 590},
		{own: 600, age: 600 * time.Second, want: 60},
		{own: 600, age: 599 * time.Second, want: 1},
		{own: 600, age: 599*time.Second + time.Millisecond, want: 60}, // not 0, which ends at once
		{own: 600, age: time.Hour, want: 60},
		{own: 600, age: -time.Second, want: 60}, // cannot be, and is not trusted
		{own: 0, age: 0, want: 60},
		{own: 600, age: 10 * time.Second, commit: 180 * time.Second, want: 180},
	} {
		r := restorer{timeout: tt.commit}
		if got := r.left(tt.own, tt.age); got != tt.want {
			t.Errorf("%d s heard of %v ago, CommitTimeout %v: %d, want %d", tt.own, tt.age, tt.commit, got, tt.want)
		}
	}
}

func TestRestoredFlow(t *testing.T) {
	f := tcp("192.0.2.1", "198.51.100.1")
	f.Has |= nl.HasStatus | nl.HasTimeout | nl.HasMark | nl.HasID | nl.HasTCPWScaleOrig | nl.HasTCPWScaleReply
	f.Status = nl.StatusSeenReply | nl.StatusExpected | nl.StatusOffload
	f.Timeout, f.Mark = 100, 7
	f.Reply = nl.Tuple{}
	var r restorer
	var out nl.Flow
	r.flow(&out, &f, 0)
	if out.Status != nl.StatusSeenReply|nl.StatusConfirmed || out.Reply != f.Orig.Inverted() || out.Mark != 7 ||
		out.Has&(nl.HasID|nl.HasTCPWScaleOrig) != 0 || out.TCPFlagsOrig != liberal || out.TCPFlagsReply != liberal {
		t.Errorf("got %+v", out)
	}
	r.windowTracking = true
	r.flow(&out, &f, 0)
	if out.Has&nl.HasTCPWScaleReply == 0 || out.TCPFlagsOrig != scaled || out.TCPFlagsReply != scaled {
		t.Errorf("with window tracking: %+v", out)
	}
}

// The wire carries neither, but the kernel takes no such flow without.
func TestRestoredFlowHasKeysOrPorts(t *testing.T) {
	for _, proto := range []uint8{nl.ProtoGRE, nl.ProtoUDPLite} {
		f := tcp("192.0.2.1", "198.51.100.1")
		f.Has &^= nl.HasTCPState
		f.Orig.Proto, f.Orig.Has = proto, nl.TupleAddrs|nl.TupleProto
		f.Orig.SrcPort, f.Orig.DstPort = 0, 0
		var r restorer
		var out nl.Flow
		r.flow(&out, &f, 0)
		if out.Orig.Has&nl.TuplePorts != nl.TuplePorts || out.Reply != out.Orig.Inverted() {
			t.Errorf("protocol %d: %+v", proto, out.Orig)
		}
	}
}

// NAT must come out as exactly what the origin had, ports included.
func TestRestoredNATIsPinned(t *testing.T) {
	addr := nl.Addr{203, 0, 113, 9}
	f := tcp("192.0.2.1", "198.51.100.1")
	var r restorer
	var out nl.Flow

	f.Has |= nl.HasNATSrc
	f.NATSrc = nl.NAT{Addr: addr, HasAddr: true}
	r.flow(&out, &f, 0)
	if out.NATSrc != (nl.NAT{Addr: addr, HasAddr: true, Port: 1000, HasPort: true}) {
		t.Errorf("address only: %+v", out.NATSrc)
	}
	f.NATSrc = nl.NAT{Port: 4000, HasPort: true}
	r.flow(&out, &f, 0)
	if out.NATSrc != (nl.NAT{Addr: f.Orig.Src, HasAddr: true, Port: 4000, HasPort: true}) {
		t.Errorf("port only: %+v", out.NATSrc)
	}

	// C daemons tell ports of ICMP flows, zeroes; there is nothing to pin.
	f.Orig.Proto, f.Orig.Has = nl.ProtoICMP, nl.TupleAddrs|nl.TupleProto|nl.TupleICMP
	f.NATSrc = nl.NAT{HasPort: true}
	r.flow(&out, &f, 0)
	if out.Has&nl.HasNATSrc != 0 {
		t.Errorf("ICMP without NAT: %+v", out.NATSrc)
	}
	f.NATSrc = nl.NAT{Addr: addr, HasAddr: true, HasPort: true}
	r.flow(&out, &f, 0)
	if out.NATSrc != (nl.NAT{Addr: addr, HasAddr: true}) {
		t.Errorf("ICMP with NAT: %+v", out.NATSrc)
	}
}

func TestChangesLeaveOutWhatTheKernelRefuses(t *testing.T) {
	f := tcp("192.0.2.1", "198.51.100.1")
	f.Has |= nl.HasNATSrc | nl.HasHelper | nl.HasStatus | nl.HasMark
	f.Status = nl.StatusSrcNAT | nl.StatusSeenReply
	f.Master = f.Orig
	var r restorer
	var created, out nl.Flow
	r.flow(&created, &f, 0)
	changes(&out, &created)
	if out.Has&(nl.HasNATSrc|nl.HasHelper) != 0 || out.Master.Has != 0 || out.Reply.Has != 0 || out.Status&nl.StatusSrcNAT != 0 || out.Has&nl.HasMark == 0 {
		t.Errorf("got %+v", out)
	}
}
