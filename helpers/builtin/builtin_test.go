package builtin

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/helpers/helper"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Helper objects equal those of conntrack-tools, so that either program can use an object of
// the other.
func TestObjectsAreConntrackTools(t *testing.T) {
	type object struct {
		name    string
		proto   uint8
		private int
		most    uint32
		seconds uint32
	}
	want := []object{
		{"amanda", ctnetlink.ProtoUDP, 0, 3, 180},
		{"dhcpv6", ctnetlink.ProtoUDP, 0, 1, 300},
		{"ftp", ctnetlink.ProtoTCP, 24, 1, 300},
		{"mdns", ctnetlink.ProtoUDP, 0, 8, 30},
		{"rpc", ctnetlink.ProtoTCP, 16, 1, 300},
		{"rpc", ctnetlink.ProtoUDP, 16, 1, 300},
		{"sane", ctnetlink.ProtoTCP, 4, 1, 300},
		{"slp", ctnetlink.ProtoUDP, 0, 8, 16},
		{"ssdp", ctnetlink.ProtoTCP, 0, 8, 300},
		{"ssdp", ctnetlink.ProtoUDP, 0, 8, 300},
		{"tftp", ctnetlink.ProtoUDP, 0, 1, 300},
		{"tns", ctnetlink.ProtoTCP, 1, 1, 300},
	}
	var got []object
	for _, h := range All() {
		if h.Ours {
			continue
		}
		for _, p := range slices.Sorted(slices.Values(h.Protocols)) {
			got = append(got, object{h.Name, p, h.PrivateLen, h.ExpectMax, uint32(h.ExpectTimeout / time.Second)})
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Each helper in the table is complete, within the kernel's limits, and returned by Find.
func TestTable(t *testing.T) {
	byName := func(a, b *helper.Helper) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(All(), byName) {
		t.Error("the table is not sorted by name")
	}
	for _, h := range All() {
		if h.Name == "" || len(h.Name) >= ctnetlink.NameLen {
			t.Errorf("%q cannot be the name of a helper object", h.Name)
		}
		if h.Read == nil || len(h.Protocols) == 0 || len(h.Families) == 0 {
			t.Errorf("%s: Read, Protocols or Families is missing", h.Name)
		}
		if h.PrivateLen < 0 || h.PrivateLen > 32 {
			t.Errorf("%s: %d bytes of private data", h.Name, h.PrivateLen)
		}
		if h.ExpectMax < 1 || h.ExpectMax > 255 || h.ExpectTimeout < time.Second || h.ExpectTimeout%time.Second != 0 {
			t.Errorf("%s: policy of %d expectations for %v", h.Name, h.ExpectMax, h.ExpectTimeout)
		}
		if d := h.Doc; d.Port == 0 || d.Reads == "" || d.Expects == "" {
			t.Errorf("%s: Doc is incomplete", h.Name)
		}
		for _, f := range h.Families {
			if f != nl.FamilyIPv4 && f != nl.FamilyIPv6 {
				t.Errorf("%s: family %d", h.Name, f)
			}
		}
		for _, p := range h.Protocols {
			if p != ctnetlink.ProtoTCP && p != ctnetlink.ProtoUDP {
				t.Errorf("%s: protocol %d", h.Name, p)
			}
			if Find(h.Name, p) != h {
				t.Errorf("%s, protocol %d: not found", h.Name, p)
			}
		}
	}
	for _, name := range []string{"", "ftp6", "FTP"} {
		if h := Find(name, ctnetlink.ProtoTCP); h != nil {
			t.Errorf("%q is found", name)
		}
	}
	if Find("ftp", ctnetlink.ProtoUDP) != nil {
		t.Error("ftp over UDP is found")
	}
}

// Callers may change the slice that All returns.
func TestAllReturnsACopy(t *testing.T) {
	All()[0] = &helper.Helper{}
	if All()[0].Name == "" {
		t.Error("changed")
	}
}
