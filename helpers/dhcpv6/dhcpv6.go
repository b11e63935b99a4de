// Package dhcpv6 is the helper for DHCPv6 (RFC 8415). A client asks a group of
// servers and is answered by unicast, from addresses that it does not know in advance.
package dhcpv6

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects answers to a client's multicast messages from any host, and keeps the flow
// as long as the client retransmits.
var Helper = &helper.Helper{
	Name:          "dhcpv6",
	Protocols:     []uint8{unix.IPPROTO_UDP},
	Families:      []uint8{nl.FamilyIPv6},
	ExpectMax:     1,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port:    547,
		Reads:   "a client's message to the multicast group",
		Expects: "the server's answer from anywhere to port 546",
		Rule:    "`ip6tables … OUTPUT -p udp --dport 547 -j CT --helper dhcpv6`",
	},
}

// clientPort is where clients listen (RFC 8415, 7.2).
const clientPort = 546

// patience is, for each message type of RFC 8415, how long a client may wait for an answer:
// the longest time between two transmissions, or the first such time if there is no longest
// (RFC 3315, 5.5; RFC 8415 raised some). 0 leaves the flow's timeout.
var patience = [...]time.Duration{
	1:  120 * time.Second, // SOLICIT: SOL_MAX_RT
	3:  30 * time.Second,  // REQUEST: REQ_MAX_RT
	4:  4 * time.Second,   // CONFIRM: CNF_MAX_RT
	5:  600 * time.Second, // RENEW: REN_MAX_RT
	6:  600 * time.Second, // REBIND: REB_MAX_RT
	8:  1 * time.Second,   // RELEASE: REL_TIMEOUT
	9:  1 * time.Second,   // DECLINE: DEC_TIMEOUT
	11: 120 * time.Second, // INFORMATION-REQUEST: INF_MAX_RT
	13: 0,                 // RELAY-REPL, the last
}

// read ignores the message types of later documents, LEASEQUERY (RFC 5007) and above, which
// servers and relays exchange.
func read(p *helper.Packet, a *helper.Answer) {
	if !p.IPv6() || !p.Dst(p.Dir()).Addr().IsMulticast() || len(p.Payload) == 0 {
		return
	}
	kind := int(p.Payload[0])
	if kind >= len(patience) {
		return
	}
	a.Timeout = patience[kind]
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol:  unix.IPPROTO_UDP,
		Dst:       netip.AddrPortFrom(p.Src(p.Dir()).Addr(), clientPort),
		Permanent: true,
	})
}
