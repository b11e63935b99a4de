// Package tftp is the helper for TFTP (RFC 1350). A server answers a request
// that came to port 69 from a port that it picks for the transfer, so a firewall
// sees the answer as a new flow.
package tftp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects the transfer that a read or write request asks for.
var Helper = &helper.Helper{
	Name:          "tftp",
	Protocols:     []uint8{unix.IPPROTO_UDP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	ExpectMax:     1,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port: 69, NAT: true,
		Reads:   "read and write requests",
		Expects: "the transfer from the server's other port",
	},
}

// Opcodes (RFC 1350, 5).
const (
	readRequest  = 1
	writeRequest = 2
)

func read(p *helper.Packet, a *helper.Answer) {
	if len(p.Payload) < 2 {
		return
	}
	if op := binary.BigEndian.Uint16(p.Payload); op != readRequest && op != writeRequest {
		return
	}
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol: unix.IPPROTO_UDP,
		Src:      netip.AddrPortFrom(p.Src(helper.Reply).Addr(), 0),
		Dst:      p.Dst(helper.Reply),
		NAT:      &helper.NAT{Dir: helper.Reply, Port: p.Src(helper.Original).Port()},
	})
}
