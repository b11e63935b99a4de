// Package rpc is the helper for ONC RPC (RFC 5531). A client asks the port mapper,
// version 2 (RFC 1833, 3), for the port of a program, GETPORT, and talks to that
// port next. rpcbind's later versions, which answer with universal addresses, are
// not read.
package rpc

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects the client at the port that the port mapper named.
var Helper = &helper.Helper{
	Name:          "rpc",
	Protocols:     []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	PrivateLen:    16,
	ExpectMax:     1,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port: 111, NAT: true,
		Reads:   "the portmapper's GETPORT (version 2)",
		Expects: "the client's connection to that port",
		Rule:    "`-p udp --dport 111 -j CT --helper rpc`, and the same with `-p tcp`",
	},
}

// Private data: the pending query, as four little-endian words. Its protocol is 0 if no query
// is pending. conntrack-tools' daemon clears only the transaction, whose 0 means the same.
const (
	privateXID      = 0
	privateProgram  = 4
	privateVersion  = 8
	privateProtocol = 12
)

// recordMark is the size of the header of a message in a stream: a bit that marks the last
// fragment of the record, and the fragment's length (RFC 5531, 11).
const (
	recordMark   = 4
	lastFragment = 1 << 31
)

// read reads messages that are one packet each.
func read(p *helper.Packet, a *helper.Answer) {
	m, start := p.Payload, 0
	if p.Protocol == unix.IPPROTO_TCP {
		if p.Info != helper.Established && p.Info != helper.EstablishedReply {
			return
		}
		start = min(recordMark, len(m))
		m = m[start:]
	}
	if len(m) < 8 { // no message: an acknowledgement, for example
		return
	}
	whole := start == 0 || binary.BigEndian.Uint32(p.Payload) == lastFragment|uint32(len(m))
	const call, reply = 0, 1
	xid, kind := binary.BigEndian.Uint32(m), binary.BigEndian.Uint32(m[4:])
	switch {
	case whole && kind == call && p.Dir() == helper.Original:
		if q, ok := getPort(m); ok {
			for i, word := range [...]uint32{xid, q.program, q.version, q.protocol} {
				binary.LittleEndian.PutUint32(p.Private[4*i:], word)
			}
			return
		}
	case whole && kind == reply && p.Dir() == helper.Reply:
		if protocol := asked(p.Private, xid); protocol != 0 {
			if port, at := answer(m); port != 0 {
				a.Expect = append(a.Expect, expectation(p, protocol, port, start+at))
				a.OnRefusal = helper.DropPacket // the server or TCP repeats it
			}
		}
	}
	clear(p.Private) // a query has one answer, and a new one replaces it
}

// portMapper is the port mapper's own program number.
const portMapper = 100000

// asked returns the protocol of the program in the pending query xid, 0 if there is no such
// query.
func asked(private []byte, xid uint32) uint8 {
	protocol := binary.LittleEndian.Uint32(private[privateProtocol:])
	if binary.LittleEndian.Uint32(private[privateXID:]) != xid ||
		binary.LittleEndian.Uint32(private[privateProgram:]) == portMapper || !transport(protocol) {
		return 0
	}
	return uint8(protocol)
}

func transport(protocol uint32) bool {
	return protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP
}

type mapping struct{ program, version, protocol uint32 }

// getPort reads a call of the port mapper's procedure GETPORT.
func getPort(m []byte) (q mapping, ok bool) {
	const (
		header    = 24 // of a call, without credentials
		rpc       = 2
		version   = 2
		procedure = 3
	)
	word := func(i int) uint32 { return binary.BigEndian.Uint32(m[4*i:]) }
	if len(m) < header || word(2) != rpc || word(3) != portMapper || word(4) != version || word(5) != procedure {
		return q, false
	}
	rest, ok := skipAuth(m[header:])
	if ok {
		rest, ok = skipAuth(rest)
	}
	if !ok || len(rest) != 16 {
		return q, false
	}
	m = rest
	q = mapping{word(0), word(1), word(2)}
	return q, transport(q.protocol) && word(3) == 0
}

// answer returns the port in a successful reply to GETPORT and its offset. The port is 0 for
// any other message.
func answer(m []byte) (port uint16, at int) {
	const (
		header   = 12 // of a reply, without the verifier
		accepted = 0
		success  = 0
	)
	if len(m) < header || binary.BigEndian.Uint32(m[8:]) != accepted {
		return 0, 0
	}
	rest, ok := skipAuth(m[header:])
	if !ok || len(rest) != 8 || binary.BigEndian.Uint32(rest) != success {
		return 0, 0
	}
	return uint16(binary.BigEndian.Uint32(rest[4:])), len(m) - 4
}

// skipAuth returns the rest of b after credentials or a verifier: a flavor, a length of at
// most 400, and that many bytes padded to a multiple of four (RFC 5531, 8.2).
func skipAuth(b []byte) (rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, false
	}
	size := binary.BigEndian.Uint32(b[4:])
	if size > 400 {
		return nil, false
	}
	end := 8 + (int(size)+3)&^3
	if end > len(b) {
		return nil, false
	}
	return b[end:], true
}

func expectation(p *helper.Packet, protocol uint8, port uint16, at int) helper.Expectation {
	return helper.Expectation{
		Protocol:  protocol,
		Src:       netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0),
		Dst:       netip.AddrPortFrom(p.Dst(helper.Original).Addr(), port),
		Permanent: true,
		NAT:       &helper.NAT{Dir: helper.Original, Port: port},
		Announced: &helper.Announced{At: at, Len: 4, Append: appendPort},
	}
}

func appendPort(dst []byte, to netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(to.Port()))
}
