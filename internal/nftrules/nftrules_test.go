package nftrules

import (
	"maps"
	"slices"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// Rules are given to the kernel by nft and iptables, and read back.
func TestOneWayZones(t *testing.T) {
	ns := netnstest.New(t, "zones")
	check := func(what string, want int) {
		t.Helper()
		var got int
		var err error
		ns.Do(func() { got, err = OneWayZones(t.Context()) })
		if err != nil || got != want {
			t.Errorf("%s: %d rules, %v, want %d", what, got, err, want)
		}
	}
	check("none", 0)
	ns.NFT(`
table inet raw {
	chain pre {
		type filter hook prerouting priority raw;
		ct zone set 7
		ct mark set 3
		ct original zone 3 accept
		ct state new accept
	}
}
`)
	check("a zone of both directions, and a zone that is looked at", 0)
	ns.NFT(`
table inet raw {
	chain pre {
		iifname "vrf3" ct original zone set 3
		iifname "vrf4" ct reply zone set 4
	}
}
`)
	check("nft", 2)
	for _, args := range [][]string{{"--zone", "5"}, {"--zone-orig", "5"}, {"--zone-reply", "6"}, {"--notrack"}} {
		ns.Must("iptables-nft", append([]string{"-t", "raw", "-A", "PREROUTING", "-j", "CT"}, args...)...)
	}
	check("iptables", 4)
}

// Helpers are assigned by an object, by a map of objects and by iptables' target, and an object
// alone assigns nothing.
func TestAttachedHelpers(t *testing.T) {
	ns := netnstest.New(t, "helpers")
	var c *nl.Conn
	ns.Do(func() {
		var err error
		if c, err = nl.Dial(nl.Config{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { c.Close() })
	check := func(what string, want ...string) {
		t.Helper()
		got, err := AttachedHelpers(t.Context(), c)
		if names := slices.Sorted(maps.Keys(got)); err != nil || !slices.Equal(names, want) {
			t.Errorf("%s: %q, %v, want %q", what, names, err, want)
		}
	}
	check("none")
	const objects = `
	ct helper a { type "ftp" protocol tcp; }
	ct helper b { type "tftp" protocol udp; }
	counter c { }
	quota q { over 1 mbytes }
`
	ns.NFT("table inet one {" + objects + `
	chain pre { type filter hook prerouting priority filter; tcp dport 1 counter name c; quota name q drop; ct helper "ftp" accept; }
}
table inet two {` + objects + "}\ntable ip one {" + objects + "}\n")
	check("objects, other objects in rules, a match")
	ns.NFT(`add rule inet one pre tcp dport 21 ct helper set "a"`)
	check("an object", "ftp")
	ns.NFT("flush chain inet one pre\n" + `table inet two {
	chain pre { type filter hook prerouting priority filter; ct helper set tcp dport map { 21 : "a", 2121 : "a" }; }
}`)
	check("a map", "ftp", "tftp")
	ns.NFT("flush ruleset")
	ns.Must("iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--zone", "5")
	check("a zone of iptables")
	ns.Must("iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "69", "-j", "CT", "--helper", "tftp")
	ns.Must("ip6tables-nft", "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp")
	check("iptables", "ftp", "tftp")
}

// FuzzRule holds that nothing the kernel could send makes the reader fall over.
func FuzzRule(f *testing.F) {
	f.Add([]byte("\x14\x00\x04\x80\x10\x00\x01\x80\x07\x00\x01\x00ct\x00\x00"))
	f.Add([]byte("\x08\x00\x01\x00one\x00\x28\x00\x04\x80\x24\x00\x01\x80\x0b\x00\x01\x00objref\x00\x00\x14\x00\x02\x80" +
		"\x08\x00\x01\x00\x00\x00\x00\x03\x06\x00\x02\x00a\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		SetsOneWayZone(b)
		helperObject(b)
		attaches(b, func(string, string, string) {})
	})
}
