package replicate

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/sync/link"
	"ctbox/sync/wire"
)

// A link that can't be opened is logged once, and again after it was open meanwhile: other
// interfaces come and go all the time.
func TestLinkThatCannotBeOpenedIsSaidOnce(t *testing.T) {
	var log bytes.Buffer
	r := unwired(conf.ModeFTFW)
	r.log = daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	homeless := func(device string) *link.Link {
		return link.New(link.Config{Transport: link.UDP, Interface: device, Port: 3780,
			Address: netip.MustParseAddr("192.0.2.77"), Destination: netip.MustParseAddr("192.0.2.78")}, 0, nil, link.Reports{})
	}
	r.links = &links{owner: r, all: []*link.Link{homeless("lo")}, said: make([]string, 1)}
	r.packer = wire.NewPacker(1400)
	ns := netnstest.New(t, "node")
	look := func(device string) {
		r.links.all[0] = homeless(device)
		ns.Do(func() {
			for range 3 {
				r.linkChanged()
			}
		})
	}
	const noAddress, noInterface = "192.0.2.77:3780: cannot assign requested address", "nowhere0: no such interface"
	look("lo")
	if got := strings.Count(log.String(), noAddress); got != 1 {
		t.Errorf("the missing address is said %d times\n%s", got, &log)
	}
	look("nowhere0")
	look("lo")
	if a, b := strings.Count(log.String(), noAddress), strings.Count(log.String(), noInterface); a != 2 || b != 1 {
		t.Errorf("the address is said %d times, the interface %d times\n%s", a, b, &log)
	}
}
