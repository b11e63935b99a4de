// Package mdns is the helper for multicast DNS (RFC 6762). A simple resolver asks
// the group from a port of its own and is answered by unicast (5.1 and 6.7), from
// addresses that it does not know in advance.
package mdns

import (
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects, for every packet, answers to its sender from port 5353 of any host. It does
// not translate: multicast DNS is not forwarded beyond its link.
var Helper = &helper.Helper{
	Name:          "mdns",
	Protocols:     []uint8{unix.IPPROTO_UDP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	ExpectMax:     8,
	ExpectTimeout: 30 * time.Second,
	Read:          helper.ReadGroupRequest,
	Doc: helper.Doc{
		Port:    5353,
		Reads:   "a question to the multicast group",
		Expects: "unicast answers from port 5353",
		Rule:    "`OUTPUT -p udp -d 224.0.0.251 ! --sport 5353 --dport 5353 -j CT --helper mdns`",
	},
}
