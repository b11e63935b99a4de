package cthelper

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
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

// The requests of conntrack-tools 1.4.9, as it sends them.
func TestAppend(t *testing.T) {
	for _, tt := range []struct {
		name   string
		helper Helper
		want   []byte
	}{
		{"flush", Helper{}, nil},
		{"get by name", Key{Name: "ftp"}.helper(), attr(1, 'f', 't', 'p', 0)},
		{"get", Key{Name: "rpc", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP}.helper(),
			join(attr(1, 'r', 'p', 'c', 0), nest(2, attr(1, 0, 2), attr(2, 6)))},
		{"add", Helper{Has: HasName | HasTuple | HasPolicies | HasPrivDataLen, Name: "ftp", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP,
			PrivDataLen: 24, Policies: []Policy{{"ftp", 1, 300}}},
			join(attr(1, 'f', 't', 'p', 0), attr(5, 0, 0, 0, 24), nest(2, attr(1, 0, 2), attr(2, 6)),
				nest(4, nest(2, attr(1, 'f', 't', 'p', 0), attr(2, 0, 0, 0, 1), attr(3, 0, 0, 1, 0x2c)), attr(1, 0, 0, 0, 1)))},
		{"disable", Helper{Has: HasName | HasTuple | HasStatus, Name: "ftp", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP},
			join(attr(1, 'f', 't', 'p', 0), nest(2, attr(1, 0, 2), attr(2, 6)), attr(6, 0, 0, 0, 0))},
		{"daemon", Helper{Has: HasName | HasTuple | HasQueue | HasPolicies | HasPrivDataLen | HasStatus, Name: "x", Family: nl.FamilyIPv6,
			Proto: ctnetlink.ProtoUDP, Queue: 65536, PrivDataLen: 1, Status: Enabled, Policies: []Policy{{"a", 1, 2}, {"b", 3, 4}}},
			join(attr(1, 'x', 0), attr(3, 0, 1, 0, 0), attr(5, 0, 0, 0, 1), nest(2, attr(1, 0, 10), attr(2, 17)),
				nest(4, nest(2, attr(1, 'a', 0), attr(2, 0, 0, 0, 1), attr(3, 0, 0, 0, 2)),
					nest(3, attr(1, 'b', 0), attr(2, 0, 0, 0, 3), attr(3, 0, 0, 0, 4)), attr(1, 0, 0, 0, 2)),
				attr(6, 0, 0, 0, 1))},
	} {
		got, err := tt.helper.Append(nil)
		if err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %x (%v), want %x", tt.name, got, err, tt.want)
		}
	}
	five := Helper{Has: HasPolicies, Policies: make([]Policy, 5)}
	if _, err := five.Append(nil); err == nil || !strings.Contains(err.Error(), "more than 4 policies") {
		t.Errorf("five policies: %v", err)
	}
}

// What Linux 6.1.192 sent after `nfct add helper amanda inet6 udp`.
func TestDecode(t *testing.T) {
	in := join(attr(1, 'a', 'm', 'a', 'n', 'd', 'a', 0), attr(3, 0, 0, 0, 0), nest(2, attr(1, 0, 10), attr(2, 17)),
		nest(4, attr(1, 0, 0, 0, 1), nest(2, attr(1, 'a', 'm', 'a', 'n', 'd', 'a', 0), attr(2, 0, 0, 0, 3), attr(3, 0, 0, 0, 180))),
		attr(5, 0, 0, 0, 0), attr(6, 0, 0, 0, 0))
	want := Helper{Has: HasName | HasTuple | HasQueue | HasPolicies | HasPrivDataLen | HasStatus, Name: "amanda",
		Family: nl.FamilyIPv6, Proto: ctnetlink.ProtoUDP, Policies: []Policy{{"amanda", 3, 180}}}
	got := Helper{Queue: 7, Policies: make([]Policy, 3)} // what was there is gone
	if err := got.Decode(append(in, attr(99, 1)...)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDecodeBroken(t *testing.T) {
	for _, in := range [][]byte{
		attr(3, 1),
		nest(2, attr(1, 1)),
		nest(2, attr(2, 1, 2)),
		nest(4, nest(2, attr(2, 1))),
		nest(4, attr(3, 1, 2, 3)),
		attr(1, 'x')[:3],
	} {
		var h Helper
		if err := h.Decode(in); err == nil {
			t.Errorf("%x is decoded to %+v", in, h)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(join(attr(1, 'x', 0), attr(3, 0, 0, 0, 1), nest(2, attr(1, 0, 2), attr(2, 6)),
		nest(4, attr(1, 0, 0, 0, 1), nest(3, attr(1, 'x', 0), attr(2, 0, 0, 0, 3))), attr(5, 0, 0, 0, 1), attr(6, 0, 0, 0, 1)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again Helper
		if h.Decode(b) != nil {
			return
		}
		out, err := h.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Decode(out); err != nil {
			t.Fatalf("own encoding %x refused: %v", out, err)
		}
		if !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v", h, again)
		}
	})
}
