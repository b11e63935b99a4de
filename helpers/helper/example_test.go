package helper_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ctbox/helpers/helper"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// A helper for a protocol in which a server announces a data port on a line of its own,
// "PORT 4000". The expected flow comes from the client, and follows the translation of
// the announcing flow; where the server is behind NAT the announced port is rewritten.
func ExampleHelper() {
	read := func(p *helper.Packet, a *helper.Answer) {
		if p.Dir() != helper.Reply {
			return
		}
		text, ok := bytes.CutPrefix(p.Payload, []byte("PORT "))
		text, _, whole := bytes.Cut(text, []byte("\r\n"))
		if !ok || !whole {
			return // an empty Answer accepts the packet as it is
		}
		port, err := strconv.ParseUint(string(text), 10, 16)
		if err != nil || port == 0 {
			return
		}
		a.Expect = append(a.Expect, helper.Expectation{
			Protocol: unix.IPPROTO_TCP,
			Src:      netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0),
			Dst:      netip.AddrPortFrom(p.Dst(helper.Original).Addr(), uint16(port)),
			NAT:      &helper.NAT{Dir: helper.Original, Port: uint16(port)},
			Announced: &helper.Announced{
				At: len("PORT "), Len: len(text),
				Append: func(dst []byte, to netip.AddrPort) []byte {
					return strconv.AppendUint(dst, uint64(to.Port()), 10)
				},
			},
		})
	}
	// The table of helpers has one line for each.
	announce := &helper.Helper{
		Name: "announce", Protocols: []uint8{unix.IPPROTO_TCP},
		ExpectMax: 1, ExpectTimeout: 300 * time.Second,
		Read: read,
	}

	orig := ctnetlink.Tuple{
		Has:    ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts,
		Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP,
		Src: ctnetlink.Addr{192, 0, 2, 10}, Dst: ctnetlink.Addr{198, 51, 100, 1}, SrcPort: 40000, DstPort: 2000,
	}
	p := helper.Packet{
		Flow:     &ctnetlink.Flow{Orig: orig, Reply: orig.Inverted()},
		Info:     helper.EstablishedReply,
		Protocol: unix.IPPROTO_TCP,
		Payload:  []byte("PORT 4000\r\n"),
	}
	var a helper.Answer
	announce.Read(&p, &a)
	for _, e := range a.Expect {
		fmt.Println(e.Src, "->", e.Dst)
	}
	// Output: 192.0.2.10:0 -> 198.51.100.1:4000
}
