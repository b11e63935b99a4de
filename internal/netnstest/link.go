package netnstest

import "testing"

// End is one end of a link: an interface and its addresses in CIDR notation.
type End struct {
	NS    *NS
	Dev   string
	Addrs []string
}

// Link makes a veth pair between two namespaces and brings both ends up.
func Link(t testing.TB, a, b End) {
	t.Helper()
	must(t, "", "ip", "link", "add", a.Dev, "netns", a.NS.Name, "type", "veth", "peer", "name", b.Dev, "netns", b.NS.Name)
	for _, end := range []End{a, b} {
		for _, addr := range end.Addrs {
			end.NS.IP("addr", "add", addr, "dev", end.Dev)
		}
		end.NS.IP("link", "set", end.Dev, "up")
	}
}
