// Package slp is the helper for the Service Location Protocol (RFC 2608). A user
// agent multicasts or broadcasts its request to port 427 and is answered by
// unicast (6.1), from addresses that it does not know in advance.
package slp

import (
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects, for every packet, answers to its sender from port 427 of any host, for one
// second longer than the longest wait of a requester (CONFIG_MC_MAX, RFC 2608, 13). It does
// not translate.
var Helper = &helper.Helper{
	Name:          "slp",
	Protocols:     []uint8{unix.IPPROTO_UDP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	ExpectMax:     8,
	ExpectTimeout: 16 * time.Second,
	Read:          helper.ReadGroupRequest,
	Doc: helper.Doc{
		Port:    427,
		Reads:   "a request to the multicast group",
		Expects: "unicast answers from port 427",
		Rule:    "`OUTPUT -p udp -m addrtype --dst-type MULTICAST --dport 427 -j CT --helper slp`",
	},
}
