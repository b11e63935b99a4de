package interop

import (
	"fmt"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// kernel is the connection tracking of one namespace.
type kernel struct {
	t    testing.TB
	conn *nl.Conn
}

func openKernel(t testing.TB, ns *netnstest.NS) *kernel {
	t.Helper()
	k := &kernel{t: t}
	var err error
	k.conn, err = nl.Dial(nl.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.conn.Close() })
	return k
}

// create creates a flow that does not exist.
func (k *kernel) create(f *ctnetlink.Flow) {
	k.t.Helper()
	r := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append}
	if err := k.conn.Do(k.t.Context(), r, nil); err != nil {
		k.t.Fatalf("create %s: %v", entryOfFlow(f), err)
	}
}

// change sets the attributes of f, besides its tuples, in the kernel's flow.
func (k *kernel) change(f *ctnetlink.Flow) {
	k.t.Helper()
	if err := k.conn.Do(k.t.Context(), nl.Request{Type: ctnetlink.TypeFlowNew, Family: f.Family(), Attrs: f.Append}, nil); err != nil {
		k.t.Fatalf("change %s: %v", entryOfFlow(f), err)
	}
}

// remove ends a flow.
func (k *kernel) remove(f *ctnetlink.Flow) {
	k.t.Helper()
	gone := ctnetlink.Flow{Orig: f.Orig, Has: f.Has & ctnetlink.HasZone, Zone: f.Zone}
	if err := k.conn.Do(k.t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: gone.Append}, nil); err != nil {
		k.t.Fatalf("remove %s: %v", entryOfFlow(f), err)
	}
}

// flush empties the kernel's table.
func (k *kernel) flush() {
	k.t.Helper()
	if err := k.conn.Do(k.t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete}, nil); err != nil {
		k.t.Fatal(err)
	}
}

// flows returns the table of flows.
func (k *kernel) flows() []ctnetlink.Flow {
	k.t.Helper()
	var all []ctnetlink.Flow
	if _, err := ctnetlink.DumpFlows(k.t.Context(), k.conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		all = append(all, f.Clone())
		return nil
	}); err != nil {
		k.t.Fatal(err)
	}
	return all
}

// expects returns the table of expectations.
func (k *kernel) expects() []ctnetlink.Expect {
	k.t.Helper()
	var all []ctnetlink.Expect
	if _, err := k.conn.Dump(k.t.Context(), nl.Dump{Type: ctnetlink.TypeExpectGet}, func(m *nl.Message) error {
		var e ctnetlink.Expect
		err := e.Decode(m.Attrs)
		all = append(all, e)
		return err
	}); err != nil {
		k.t.Fatal(err)
	}
	return all
}

// entries returns the table of flows in the form of entries.
func (k *kernel) entries() map[entry]bool {
	k.t.Helper()
	set := map[entry]bool{}
	for _, f := range k.flows() {
		set[entryOfFlow(&f)] = true
	}
	return set
}

// expectEntries returns the table of expectations as daemons print it.
func (k *kernel) expectEntries() map[entry]bool {
	k.t.Helper()
	set := map[entry]bool{}
	for _, x := range k.expects() {
		set[entryOfExpect(&x)] = true
	}
	return set
}

// keyless protocols have layer-4 fields that the wire does not carry, so that a
// replica has one flow between two hosts at most.
func keyless(proto uint8) bool { return proto == ctnetlink.ProtoGRE || proto == ctnetlink.ProtoUDPLite }

// identity is the part of a flow's identity that the wire carries.
type identity struct {
	tuple ctnetlink.Tuple
	zone  uint16
}

func identityOf(f *ctnetlink.Flow) identity {
	t := f.Orig
	if keyless(t.Proto) {
		t.Has &^= ctnetlink.TuplePorts
		t.SrcPort, t.DstPort = 0, 0
	}
	id := identity{tuple: t}
	if f.Has&ctnetlink.HasZone != 0 {
		id.zone = f.Zone
	}
	return id
}

// replicatedStatus are the bits that a commit restores. The bits that record whether NAT was
// set up (…_DONE) belong to each kernel.
const replicatedStatus = ctnetlink.StatusExpected | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusConfirmed |
	ctnetlink.StatusSrcNAT | ctnetlink.StatusDstNAT | ctnetlink.StatusSeqAdjust | ctnetlink.StatusFixedTimeout

// slack is the largest difference of a timeout after a commit, in seconds.
const slack = 100

// compareFlows describes how a committed flow differs from the original. committer is the
// program that committed it: Debian's corrupts the last byte of an SCTP tag.
func compareFlows(want, got *ctnetlink.Flow, committer program) string {
	field := func(what string, want, got any) string {
		if want == got {
			return ""
		}
		return fmt.Sprintf(" %s %v, want %v;", what, got, want)
	}
	d := ""
	if !keyless(want.Orig.Proto) {
		d += field("reply", want.Reply, got.Reply)
	}
	d += field("status", fmt.Sprintf("%#x", want.Status&replicatedStatus), fmt.Sprintf("%#x", got.Status&replicatedStatus))
	d += field("mark", present(want, ctnetlink.HasMark, want.Mark), present(got, ctnetlink.HasMark, got.Mark))
	d += field("labels", present(want, ctnetlink.HasLabels, want.Labels), present(got, ctnetlink.HasLabels, got.Labels))
	d += field("TCP state", present(want, ctnetlink.HasTCPState, want.TCPState), present(got, ctnetlink.HasTCPState, got.TCPState))
	d += field("SCTP state", present(want, ctnetlink.HasSCTPState, want.SCTPState), present(got, ctnetlink.HasSCTPState, got.SCTPState))
	if committer == ours {
		d += field("SCTP tag", present(want, ctnetlink.HasSCTPVtagOrig, want.SCTPVtagOrig), present(got, ctnetlink.HasSCTPVtagOrig, got.SCTPVtagOrig))
	}
	d += field("SCTP answer's tag", present(want, ctnetlink.HasSCTPVtagReply, want.SCTPVtagReply), present(got, ctnetlink.HasSCTPVtagReply, got.SCTPVtagReply))
	d += field("helper", present(want, ctnetlink.HasHelper, want.Helper.String()), present(got, ctnetlink.HasHelper, got.Helper.String()))
	d += field("master", want.Master, got.Master)
	d += field("offsets", present(want, ctnetlink.HasSeqAdjOrig, want.SeqAdjOrig), present(got, ctnetlink.HasSeqAdjOrig, got.SeqAdjOrig))
	d += field("answer's offsets", present(want, ctnetlink.HasSeqAdjReply, want.SeqAdjReply), present(got, ctnetlink.HasSeqAdjReply, got.SeqAdjReply))
	if diff := int64(want.Timeout) - int64(got.Timeout); diff < -slack || diff > slack {
		d += field("timeout", want.Timeout, got.Timeout)
	}
	return d
}

// present returns value if f has the attribute, otherwise the zero value: the kernel omits
// zero attributes.
func present[T any](f *ctnetlink.Flow, has ctnetlink.Attr, value T) T {
	if f.Has&has == 0 {
		var zero T
		return zero
	}
	return value
}

// removeExactly ends a flow in a zone of one direction.
func (k *kernel) removeExactly(f *ctnetlink.Flow) {
	k.t.Helper()
	gone := ctnetlink.Flow{Orig: f.Orig, Has: f.Has & ctnetlink.HasZone, Zone: f.Zone}
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		gone = ctnetlink.Flow{Reply: f.Reply}
	}
	if err := k.conn.Do(k.t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: gone.Append}, nil); err != nil {
		k.t.Fatalf("remove %s: %v", entryOfFlow(f), err)
	}
}
