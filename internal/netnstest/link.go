package netnstest

import (
	"strings"
	"testing"
	"time"
)

// End is one end of a link: an interface and its addresses in CIDR notation.
type End struct {
	NS    *NS
	Dev   string
	Addrs []string
}

// Link makes a veth pair between two namespaces and brings both ends up. The
// addresses are usable at once, and both ends have a carrier: the kernel's linkwatch
// takes its time to say so (operstates.rst).
func Link(t testing.TB, a, b End) {
	t.Helper()
	must(t, "", "ip", "link", "add", a.Dev, "netns", a.NS.Name, "type", "veth", "peer", "name", b.Dev, "netns", b.NS.Name)
	for _, end := range []End{a, b} {
		for _, addr := range end.Addrs {
			args := []string{"addr", "add", addr, "dev", end.Dev}
			if strings.Contains(addr, ":") {
				// Without detection, too, the kernel takes a while to call an
				// address usable; with nodad it is from the start.
				args = append(args, "nodad")
			}
			end.NS.IP(args...)
		}
		end.NS.IP("link", "set", end.Dev, "up")
	}
	for _, end := range []End{a, b} {
		Eventually(t, 20*time.Second, end.Dev+" has a carrier", func() bool {
			return strings.Contains(end.NS.Must("ip", "-o", "link", "show", end.Dev), " state UP ")
		})
	}
}
