package cttimeout

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"github.com/google/go-cmp/cmp"
)

const nested = 0x8000

// attr is a netlink attribute in bytes: its header in the machine's order, and
// padding.
func attr(typ uint16, payload ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(payload)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

func nest(typ uint16, parts ...[]byte) []byte {
	return attr(typ|nested, bytes.Join(parts, nil)...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func timeouts(pairs ...uint32) (t Timeouts) {
	for i := 0; i < len(pairs); i += 2 {
		t.Set(State(pairs[i]), pairs[i+1])
	}
	return t
}

// The requests of conntrack-tools 1.4.9, as it sends them.
func TestAppend(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy Policy
		want   []byte
	}{
		{"flush", Policy{}, nil},
		{"get", Policy{Has: HasName, Name: "t1"}, attr(1, 't', '1', 0)},
		{"empty name", Policy{Has: HasName}, attr(1, 0)},
		{"add", Policy{Has: HasName | HasFamily | HasProto, Name: "t1", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP, Timeouts: timeouts(8, 5, 3, 100)},
			join(attr(1, 't', '1', 0), attr(2, 0, 2), attr(3, 6), nest(4, attr(3, 0, 0, 0, 100), attr(8, 0, 0, 0, 5)))},
		{"without a timeout", Policy{Has: HasName | HasFamily | HasProto, Name: "t1", Family: nl.FamilyIPv6, Proto: Generic},
			join(attr(1, 't', '1', 0), attr(2, 0, 10), attr(3, 255))},
		{"the use count is the kernel's", Policy{Has: HasName | HasUse, Name: "x", Use: 3}, attr(1, 'x', 0)},
		{"default", Policy{Has: HasFamily | HasProto, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP, Timeouts: timeouts(1, 0xffffffff)},
			join(attr(2, 0, 2), attr(3, 17), nest(4, attr(1, 255, 255, 255, 255)))},
	} {
		got, err := tt.policy.Append(nil)
		if err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %x (%v), want %x", tt.name, got, err, tt.want)
		}
	}
	if _, err := (&Policy{Has: HasName, Name: string(make([]byte, 1<<16))}).Append(nil); err == nil {
		t.Error("a name that no attribute can hold is encoded")
	}
}

// A policy as Linux 6.18 sends it: attributes in its order, among them one that
// has no name here.
func TestDecode(t *testing.T) {
	in := join(attr(1, 'x', 0), attr(2, 0, 2), attr(3, 132), attr(5, 0, 0, 0, 2),
		nest(4, attr(1, 0, 0, 0, 10), attr(8, 0, 0, 0, 30), attr(77, 1)), attr(99, 1, 2, 3))
	got := Policy{Has: HasUse, Timeouts: timeouts(5, 5)} // what was there is gone
	if err := got.Decode(in); err != nil {
		t.Fatal(err)
	}
	want := Policy{Has: HasName | HasFamily | HasProto | HasUse, Name: "x", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoSCTP, Use: 2,
		Timeouts: timeouts(1, 10, 8, 30)}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Timeouts{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDecodeBroken(t *testing.T) {
	for _, in := range [][]byte{
		attr(2, 2),
		attr(3),
		attr(5, 1, 2),
		nest(4, attr(1, 1, 2, 3)),
		nest(4, []byte{1, 2, 3}),
		attr(1, 'x')[:3],
		append(attr(1, 0), 1),
	} {
		var p Policy
		if err := p.Decode(in); err == nil {
			t.Errorf("%x is decoded to %+v", in, p)
		}
	}
}

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		proto uint8
		name  string
		want  State
	}{
		{ctnetlink.ProtoTCP, "SYN_SENT", 1}, {ctnetlink.ProtoTCP, "Established", 3}, {ctnetlink.ProtoTCP, "unacknowledged", 11},
		{ctnetlink.ProtoUDP, "replied", 2}, {ctnetlink.ProtoGRE, "UNREPLIED", 1}, {ctnetlink.ProtoICMPv6, "timeout", 1},
		{ctnetlink.ProtoSCTP, "SHUTDOWN_ACK_SENT", 7}, {ctnetlink.ProtoDCCP, "timewait", 7}, {Generic, "timeout", 1},
		{ctnetlink.ProtoTCP, "unack", 0}, {ctnetlink.ProtoTCP, "", 0}, {ctnetlink.ProtoUDP, "established", 0}, {50, "timeout", 0},
		{ctnetlink.ProtoSCTP, "heartbeat_sent", 0},
	} {
		got, ok := StateNamed(tt.proto, tt.name)
		if got != tt.want || ok != (tt.want != 0) {
			t.Errorf("protocol %d, %q: state %d (%v), want %d", tt.proto, tt.name, got, ok, tt.want)
		}
	}
	if names := StateNames(50); names != nil {
		t.Errorf("esp has states %q", names)
	}
}

func TestTimeoutsOutOfRange(t *testing.T) {
	got := timeouts(0, 1, 32, 2, 255, 3)
	if got != (Timeouts{}) {
		t.Errorf("states that there are none of were kept: %+v", got)
	}
	if _, ok := got.Get(200); ok {
		t.Error("state 200 is given")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(join(attr(1, 'x', 0), attr(2, 0, 2), attr(3, 132), attr(5, 0, 0, 0, 2), nest(4, attr(1, 0, 0, 0, 10))))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again Policy
		if p.Decode(b) != nil {
			return
		}
		out, err := p.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Decode(out); err != nil {
			t.Fatalf("own encoding %x refused: %v", out, err)
		}
		p.Has &^= HasUse
		p.Use = 0
		if again != p {
			t.Fatalf("%+v became %+v", p, again)
		}
	})
}
