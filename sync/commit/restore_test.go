package commit

import (
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/flowtest"
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
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Has |= ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasID | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
	f.Status = ctnetlink.StatusSeenReply | ctnetlink.StatusExpected | ctnetlink.StatusOffload
	f.Timeout, f.Mark = 100, 7
	f.Reply = ctnetlink.Tuple{}
	var r restorer
	var out ctnetlink.Flow
	r.flow(&out, &f, 0)
	if out.Status != ctnetlink.StatusSeenReply|ctnetlink.StatusConfirmed || out.Reply != f.Orig.Inverted() || out.Mark != 7 ||
		out.Has&(ctnetlink.HasID|ctnetlink.HasTCPWScaleOrig) != 0 || out.TCPFlagsOrig != liberal || out.TCPFlagsReply != liberal {
		t.Errorf("got %+v", out)
	}
	r.windowTracking = true
	r.flow(&out, &f, 0)
	if out.Has&ctnetlink.HasTCPWScaleReply == 0 || out.TCPFlagsOrig != scaled || out.TCPFlagsReply != scaled {
		t.Errorf("with window tracking: %+v", out)
	}
}

// The wire carries neither, but the kernel takes no such flow without.
func TestRestoredFlowHasKeysOrPorts(t *testing.T) {
	for _, proto := range []uint8{ctnetlink.ProtoGRE, ctnetlink.ProtoUDPLite} {
		f := flowtest.TCP("192.0.2.1", "198.51.100.1")
		f.Has &^= ctnetlink.HasTCPState
		f.Orig.Proto, f.Orig.Has = proto, ctnetlink.TupleAddrs|ctnetlink.TupleProto
		f.Orig.SrcPort, f.Orig.DstPort = 0, 0
		var r restorer
		var out ctnetlink.Flow
		r.flow(&out, &f, 0)
		if out.Orig.Has&ctnetlink.TuplePorts != ctnetlink.TuplePorts || out.Reply != out.Orig.Inverted() {
			t.Errorf("protocol %d: %+v", proto, out.Orig)
		}
	}
}

// NAT must come out as exactly what the origin had, ports included.
func TestRestoredNATIsPinned(t *testing.T) {
	addr := ctnetlink.Addr{203, 0, 113, 9}
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	var r restorer
	var out ctnetlink.Flow

	f.Has |= ctnetlink.HasNATSrc
	f.NATSrc = ctnetlink.NAT{Addr: addr, HasAddr: true}
	r.flow(&out, &f, 0)
	if out.NATSrc != (ctnetlink.NAT{Addr: addr, HasAddr: true, Port: 1000, HasPort: true}) {
		t.Errorf("address only: %+v", out.NATSrc)
	}
	f.NATSrc = ctnetlink.NAT{Port: 4000, HasPort: true}
	r.flow(&out, &f, 0)
	if out.NATSrc != (ctnetlink.NAT{Addr: f.Orig.Src, HasAddr: true, Port: 4000, HasPort: true}) {
		t.Errorf("port only: %+v", out.NATSrc)
	}

	// C daemons announce ports of 0 for ICMP flows, which have no port to pin.
	f.Orig.Proto, f.Orig.Has = ctnetlink.ProtoICMP, ctnetlink.TupleAddrs|ctnetlink.TupleProto|ctnetlink.TupleICMP
	f.NATSrc = ctnetlink.NAT{HasPort: true}
	r.flow(&out, &f, 0)
	if out.Has&ctnetlink.HasNATSrc != 0 {
		t.Errorf("ICMP without NAT: %+v", out.NATSrc)
	}
	f.NATSrc = ctnetlink.NAT{Addr: addr, HasAddr: true, HasPort: true}
	r.flow(&out, &f, 0)
	if out.NATSrc != (ctnetlink.NAT{Addr: addr, HasAddr: true}) {
		t.Errorf("ICMP with NAT: %+v", out.NATSrc)
	}
}

func TestChangesLeaveOutWhatTheKernelRefuses(t *testing.T) {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Has |= ctnetlink.HasNATSrc | ctnetlink.HasHelper | ctnetlink.HasStatus | ctnetlink.HasMark
	f.Status = ctnetlink.StatusSrcNAT | ctnetlink.StatusSeenReply
	f.Master = f.Orig
	var r restorer
	var created, out ctnetlink.Flow
	r.flow(&created, &f, 0)
	changes(&out, &created)
	if out.Has&(ctnetlink.HasNATSrc|ctnetlink.HasHelper) != 0 || out.Master.Has != 0 || out.Reply.Has != 0 || out.Status&ctnetlink.StatusSrcNAT != 0 || out.Has&ctnetlink.HasMark == 0 {
		t.Errorf("got %+v", out)
	}
}
