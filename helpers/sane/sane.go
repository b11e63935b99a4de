// Package sane is the helper for the SANE network protocol, version 3, by which
// scanners are shared (chapter 5 of the SANE standard: "Network Protocol"). The
// image of a scan comes over a connection to a port that the server names in its
// answer to SANE_NET_START.
package sane

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects the image's connection. It does not translate: with SNAT the connection
// arrives with the addresses of the first packet, and with DNAT it needs its own rule.
var Helper = &helper.Helper{
	Name:          "sane",
	Protocols:     []uint8{unix.IPPROTO_TCP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	PrivateLen:    4,
	ExpectMax:     1,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port:    6566,
		Reads:   "the answer to NET_START",
		Expects: "the scanner's data connection",
	},
}

// netStart is the procedure SANE_NET_START. The request is this word and the
// handle, 8 bytes; the answer begins with a status word, 0 for success, and the
// port as a word.
const netStart = 7

// States of a flow, its private data as a little-endian word.
const (
	idle    = 0
	started = 1 // the request was seen, but not its answer
)

func read(p *helper.Packet, a *helper.Answer) {
	b := p.Payload
	if p.Info != helper.Established && p.Info != helper.EstablishedReply || len(b) == 0 {
		return
	}
	if p.Dir() == helper.Original {
		// Requests of other lengths do not affect a started scan.
		if len(b) == 8 {
			state := uint32(idle)
			if binary.BigEndian.Uint32(b) == netStart {
				state = started
			}
			binary.LittleEndian.PutUint32(p.Private, state)
		}
		return
	}
	if binary.LittleEndian.Uint32(p.Private) != started {
		return
	}
	binary.LittleEndian.PutUint32(p.Private, idle)
	if len(b) < 8 {
		return
	}
	status, port := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if status != 0 || port == 0 || port > 65535 {
		return
	}
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol: unix.IPPROTO_TCP,
		Src:      netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0),
		Dst:      netip.AddrPortFrom(p.Dst(helper.Original).Addr(), uint16(port)),
	})
}
