package iface

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// shown is what `ip -j addr` says.
type shown struct {
	Index     int      `json:"ifindex"`
	Name      string   `json:"ifname"`
	AltNames  []string `json:"altnames"`
	MTU       int      `json:"mtu"`
	Flags     []string `json:"flags"`
	Addresses []struct {
		Local string `json:"local"`
	} `json:"addr_info"`
}

// Every question is answered as ip(8) answers it.
func TestAsked(t *testing.T) {
	ns := netnstest.New(t, "iface")
	netnstest.Link(t,
		netnstest.End{NS: ns, Dev: "sync0", Addrs: []string{"192.0.2.1/24", "192.0.2.9/24", "2001:db8::1/64"}},
		netnstest.End{NS: ns, Dev: "far0", Addrs: nil})
	const long = "a-name-that-is-longer-than-an-interface-used-to-have"
	ns.IP("link", "property", "add", "dev", "sync0", "altname", "cable", "altname", long)
	ns.IP("link", "add", "point0", "type", "veth", "peer", "name", "point1")
	ns.IP("addr", "add", "198.51.100.1", "peer", "198.51.100.2/32", "dev", "point0")
	ns.IP("link", "set", "far0", "mtu", "9000")
	var want []shown
	if err := json.Unmarshal([]byte(ns.Must("ip", "-j", "addr")), &want); err != nil {
		t.Fatal(err)
	}
	ns.Do(func() {
		all, err := All()
		if err != nil || len(all) != len(want) {
			t.Fatalf("%d interfaces, %v; want %d", len(all), err, len(want))
		}
		for i, w := range want {
			got := all[i]
			var addrs []string
			for _, a := range got.Addresses {
				addrs = append(addrs, a.String())
			}
			for _, a := range w.Addresses {
				if !slices.Contains(addrs, a.Local) {
					t.Errorf("%s: addresses %v, want %s", w.Name, addrs, a.Local)
				}
			}
			up := slices.Contains(w.Flags, "UP")
			if got.Index != w.Index || got.Name != w.Name || got.MTU != w.MTU || got.Has(unix.IFF_UP) != up ||
				len(addrs) != len(w.Addresses) || !slices.Equal(got.AltNames, w.AltNames) {
				t.Errorf("got %+v, want %+v", got, w)
			}
			byName, err1 := ByName(w.Name)
			byIndex, err2 := ByIndex(w.Index)
			for _, one := range []Interface{byName, byIndex} {
				if one.Index != w.Index || one.Name != w.Name || one.MTU != w.MTU || one.Flags != got.Flags {
					t.Errorf("%s: %+v, %v %v", w.Name, one, err1, err2)
				}
			}
		}
		for _, name := range []string{"cable", long} {
			if i, err := ByName(name); err != nil || i.Name != "sync0" || !i.Named(name) {
				t.Errorf("%s: %+v, %v", name, i, err)
			}
		}
		for _, name := range []string{"", "none0", "a/b", "sync0-and-more-than-fits", strings.Repeat("x", 1000)} {
			if _, err := ByName(name); !errors.Is(err, ErrNone) {
				t.Errorf("%q: %v", name, err)
			}
		}
		for _, index := range []int{0, -1, 1 << 30} {
			if _, err := ByIndex(index); !errors.Is(err, ErrNone) {
				t.Errorf("index %d: %v", index, err)
			}
		}
	})
}

// Messages about a bridge's ports and other things than the interface are none of one.
func TestOtherMessages(t *testing.T) {
	link := make([]byte, unix.SizeofIfInfomsg)
	link[indexAt] = 5
	link = appendAttr(link, unix.IFLA_IFNAME, []byte("sync0\x00"))
	port := slices.Clone(link)
	port[0] = unix.AF_BRIDGE
	for _, tt := range []struct {
		name string
		typ  uint16
		data []byte
		want bool
	}{
		{"link", unix.RTM_DELLINK, link, true},
		{"port of a bridge", unix.RTM_DELLINK, port, false},
		{"route", unix.RTM_NEWROUTE, link, false},
		{"cut", unix.RTM_NEWLINK, link[:7], false},
	} {
		if i, ok := ParseLink(tt.typ, tt.data); ok != tt.want || ok && (i.Index != 5 || i.Name != "sync0") {
			t.Errorf("%s: %+v, %v", tt.name, i, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	link := appendAttr(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_PROP_LIST,
		appendAttr(nil, unix.IFLA_ALT_IFNAME, []byte("cable\x00")))
	f.Add(uint16(unix.RTM_NEWLINK), link)
	f.Add(uint16(unix.RTM_DELADDR), appendAttr(make([]byte, unix.SizeofIfAddrmsg), unix.IFA_LOCAL, []byte{192, 0, 2, 1}))
	f.Fuzz(func(t *testing.T, typ uint16, data []byte) {
		if i, ok := ParseLink(typ, data); ok && i.Index <= 0 {
			t.Errorf("index %d", i.Index)
		}
		if index, addr, ok := ParseAddr(typ, data); ok && (index <= 0 || !addr.IsValid()) {
			t.Errorf("index %d, address %v", index, addr)
		}
	})
}
