package format

import (
	"net/netip"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// TestAddr has glibc's inet_ntop as the expected value.
func TestAddr(t *testing.T) {
	for _, want := range []string{
		"0.0.0.0", "9.10.99.100", "255.255.255.255",
		"::", "::1", "::ffff", "::0.1.0.0", "::0.2.0.3", "::1.2.3.4", "::255.255.0.0",
		"::ffff:1.2.3.4", "::ffff:0.0.0.0", "::fffe:102:304", "::1:0:0", "::1:102:304",
		"2001:db8::1", "2001:db8:0:1::", "2001:0:0:1::1", "1:0:0:2::3", "1:2:3:4:5:6:7:8",
		"0:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:0", "1::", "fe80::ffff:a00:1", "64:ff9b::102:304",
		"0:1::2:3:4:5", "::2:3:4:5:6:7", "1:0:2:0:3:0:4:0", "::ffff:0:1.2.3.4",
	} {
		var a ctnetlink.Addr
		family := setAddr(&a, want)
		if want == "::ffff:0:1.2.3.4" { // a dotted tail that is read but not written
			want = "::ffff:0:102:304"
		}
		check(t, want, string(AppendAddr(nil, family, &a)), want)
	}
	if got := AppendAddr(nil, nl.FamilyUnspec, &ctnetlink.Addr{}); got != nil {
		t.Errorf("unspecified family: %q", got)
	}
}

// FuzzAddr holds IPv6 text against netip, which differs in one form only.
func FuzzAddr(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a ctnetlink.Addr
		copy(a[:], b)
		// Bits of the input choose zero words: they are what the format is about.
		for i := range 8 {
			if len(b) > 16 && b[16]&(1<<i) != 0 {
				a[2*i], a[2*i+1] = 0, 0
			}
		}
		got := string(AppendAddr(nil, nl.FamilyIPv6, &a))
		addr := netip.AddrFrom16(a)
		if back, err := netip.ParseAddr(got); err != nil || back != addr {
			t.Fatalf("%x is written as %s: %v", a, got, err)
		}
		prefix := netip.PrefixFrom(netip.IPv6Unspecified(), 96)
		if prefix.Contains(addr) && a[12]|a[13] != 0 {
			return
		}
		if got != addr.String() {
			t.Errorf("%x is written as %s, not %s", a, got, addr)
		}
	})
}
