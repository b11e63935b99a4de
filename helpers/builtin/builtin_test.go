package builtin

import (
	"slices"
	"testing"
	"time"

	"ctbox/helpers/helper"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// What the kernel has to know of each helper is equal to conntrack-tools', to the
// number: an object that one program made is one that the other takes over.
func TestAll(t *testing.T) {
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
		if h.Read == nil {
			t.Errorf("%s reads nothing", h.Name)
		}
		if want := []uint8{nl.FamilyIPv4, nl.FamilyIPv6}; h.Name == "dhcpv6" {
			if !slices.Equal(h.Families, want[1:]) {
				t.Errorf("%s reads the families %v", h.Name, h.Families)
			}
		} else if !slices.Equal(h.Families, want) {
			t.Errorf("%s reads the families %v", h.Name, h.Families)
		}
		protocols := slices.Sorted(slices.Values(h.Protocols))
		for _, p := range protocols {
			got = append(got, object{h.Name, p, h.PrivateLen, h.ExpectMax, uint32(h.ExpectTimeout / time.Second)})
			if Find(h.Name, p) != h {
				t.Errorf("%s, protocol %d, is not found", h.Name, p)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
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

// The list is the caller's own.
func TestAllIsACopy(t *testing.T) {
	All()[0] = &helper.Helper{}
	if All()[0].Name == "" {
		t.Error("changed")
	}
}
