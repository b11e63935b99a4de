// Package amanda is the helper for Amanda's backup service with "bsd"
// authentication, which no RFC describes: the tape server asks a client for a
// backup over UDP, and connects then to the TCP ports that the client's reply
// names, as in
//
//	CONNECT DATA 50001 MESG 50002 INDEX 50003
package amanda

import (
	"bytes"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper reads flows to UDP port 10080.
var Helper = &helper.Helper{
	Name:          "amanda",
	Protocols:     []uint8{unix.IPPROTO_UDP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	ExpectMax:     3,
	ExpectTimeout: 180 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port: 10080, NAT: true,
		Reads:   "the reply with `CONNECT DATA … MESG … INDEX …`",
		Expects: "up to three TCP connections from the server",
	},
}

// flowTimeout is the flow's timeout after each reply: a client that estimates a backup's
// size sends nothing for minutes.
const flowTimeout = 300 * time.Second

// streams are the words before the port numbers.
var streams = [...]string{"DATA ", "MESG ", "INDEX "}

func read(p *helper.Packet, a *helper.Answer) {
	if p.Dir() != helper.Reply {
		return
	}
	a.Timeout = flowTimeout
	text, _, _ := bytes.Cut(p.Payload, []byte{0})
	const connect = "CONNECT "
	at := bytes.Index(text, []byte(connect))
	if at < 0 {
		return
	}
	at += len(connect) - 1 // each word has a blank before it
	// The last line may lack its newline.
	line, _, _ := bytes.Cut(text[at:], []byte{'\n'})
	var seen [len(streams)]bool
	for i, c := range line {
		if c != ' ' {
			continue
		}
		for k, word := range streams {
			if !seen[k] && bytes.HasPrefix(line[i+1:], []byte(word)) {
				seen[k] = true
				number := i + 1 + len(word)
				expect(p, a, line[number:], at+number)
			}
		}
	}
}

// expect adds the connection to the port at the start of text, which is at offset at of the
// payload.
func expect(p *helper.Packet, a *helper.Answer, text []byte, at int) {
	const longest = len("65535")
	port, digits := helper.Number(text, 65535)
	if port == 0 || digits > longest {
		return
	}
	// Behind NAT an unexpected port is unreachable. The tape server repeats its request
	// if the reply is dropped.
	if p.NATed() {
		a.OnRefusal = helper.DropPacket
	}
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol:  unix.IPPROTO_TCP,
		Src:       netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0),
		Dst:       netip.AddrPortFrom(p.Dst(helper.Original).Addr(), uint16(port)),
		NAT:       &helper.NAT{Dir: helper.Original, Port: uint16(port)},
		Announced: &helper.Announced{At: at, Len: digits, Append: appendPort},
	})
}

func appendPort(dst []byte, to netip.AddrPort) []byte {
	return strconv.AppendUint(dst, uint64(to.Port()), 10)
}
