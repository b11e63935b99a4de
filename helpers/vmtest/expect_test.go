//go:build vm

package vmtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// expected is an expectation in the kernel: a line of `conntrack -L expect` without the
// remaining seconds.
type expected struct {
	protocol  string // tcp or udp
	src, dst  string // ADDRESS:PORT; an empty src is any address and port, port 0 any port
	master    flow
	helper    string
	permanent bool
	lifetime  int // in seconds, of the helper's policy
}

// flow is a flow's original tuple.
type flow struct{ src, dst string }

// String returns the line that `conntrack -L expect` prints, without the seconds.
func (e expected) String() string {
	protocol := map[string]int{"tcp": 6, "udp": 17}[e.protocol]
	dst := netip.MustParseAddrPort(e.dst)
	all, none := "255.255.255.255", "0.0.0.0"
	if dst.Addr().Is6() {
		all, none = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::"
	}
	src, srcPort, maskSrc, maskPort := none, uint16(0), none, 0
	if e.src != "" {
		ap := netip.MustParseAddrPort(e.src)
		src, srcPort = ap.Addr().String(), ap.Port()
		if !ap.Addr().IsUnspecified() {
			maskSrc = all
		}
		if srcPort != 0 {
			maskPort = 65535
		}
	}
	from, to := netip.MustParseAddrPort(e.master.src), netip.MustParseAddrPort(e.master.dst)
	flags := ""
	if e.permanent {
		flags = "PERMANENT "
	}
	return fmt.Sprintf("proto=%d src=%s dst=%s sport=%d dport=%d mask-src=%s mask-dst=%s sport=%d dport=65535 "+
		"master-src=%s master-dst=%s sport=%d dport=%d %sclass=0 helper=%s", protocol, src, dst.Addr(), srcPort, dst.Port(), maskSrc, all,
		maskPort, from.Addr(), to.Addr(), from.Port(), to.Port(), flags, e.helper)
}

// expectations returns the lines of `conntrack -L expect` for a family, sorted, and the
// remaining seconds of each.
func (fw *firewall) expectations(family string) (lines []string, seconds []int) {
	fw.t.Helper()
	out := fw.router.Must(applet("conntrack"), "-L", "expect", "-f", family)
	all := slices.Sorted(strings.Lines(out))
	slices.SortFunc(all, func(a, b string) int {
		_, a, _ = strings.Cut(a, " ")
		_, b, _ = strings.Cut(b, " ")
		return strings.Compare(a, b)
	})
	for _, line := range all {
		left, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(left)
		if err != nil {
			fw.t.Fatalf("conntrack -L expect: %q has no timeout", line)
		}
		lines, seconds = append(lines, strings.TrimSpace(text)), append(seconds, n)
	}
	return lines, seconds
}

// expects checks that the kernel has exactly these expectations. They must exist as soon as
// the packet that announced them arrives.
func (fw *firewall) expects(t testing.TB, want ...expected) {
	t.Helper()
	family := "ipv4"
	if len(want) > 0 && strings.HasPrefix(want[0].dst, "[") {
		family = "ipv6"
	}
	var texts []string
	for _, e := range want {
		texts = append(texts, e.String())
	}
	slices.Sort(texts)
	got, seconds := fw.expectations(family)
	if !slices.Equal(got, texts) {
		t.Errorf("expectations:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(texts, "\n  "))
		return
	}
	for _, left := range seconds {
		if limit := want[0].lifetime; left > limit || left < limit-int(patience.Seconds()) {
			t.Errorf("an expectation lives for %d s, want %d", left, limit)
		}
	}
}

// expectsNone checks that there is no expectation at all.
func (fw *firewall) expectsNone(t testing.TB) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		if got, _ := fw.expectations(family); len(got) > 0 {
			t.Errorf("expectations:\n  %s\nwant none", strings.Join(got, "\n  "))
		}
	}
}
