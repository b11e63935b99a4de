package nftrules

import (
	"testing"

	"ctbox/internal/netnstest"
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

// FuzzRule holds that nothing the kernel could send makes the reader fall over.
func FuzzRule(f *testing.F) {
	f.Add([]byte("\x14\x00\x04\x80\x10\x00\x01\x80\x07\x00\x01\x00ct\x00\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) { SetsOneWayZone(b) })
}
