// Package ftp is the helper for FTP's control connection (RFC 959, RFC 2428). It
// expects the data connection that a PORT or EPRT command, or the answer to PASV
// or EPSV, announces.
package ftp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper reads the control connection, commonly of port 21.
var Helper = &helper.Helper{
	Name:          "ftp",
	Protocols:     []uint8{unix.IPPROTO_TCP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	PrivateLen:    privateLen,
	ExpectMax:     1,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port: 21, NAT: true,
		Reads:   "`PORT`, `EPRT`, the replies 227 and 229",
		Expects: "the data connection",
	},
}

// announcements are the lines that announce a data connection. The port, or address and
// port, follow verb and, if open is not 0, the first byte open after it.
var announcements = [...]struct {
	dir  helper.Direction
	verb string
	open byte
	// scan parses the text at the start of b and returns its length, 0 if it does not
	// match. An invalid address is the sender's.
	scan func(b []byte, end byte) (to netip.AddrPort, length int)
	end  byte // the byte that must follow, for scan
	// write appends the text in this form.
	write func(dst []byte, to netip.AddrPort) []byte
}{
	{helper.Original, "PORT ", 0, scanNumbers, '\r', appendNumbers},
	{helper.Original, "EPRT ", 0, scanExtended, 0, appendExtended},
	{helper.Reply, "227 ", '(', scanNumbers, ')', appendNumbers},
	{helper.Reply, "229 ", '(', scanPort, 0, appendPort},
}

func read(p *helper.Packet, a *helper.Answer) {
	if p.Info != helper.Established && p.Info != helper.EstablishedReply || len(p.Payload) == 0 {
		return
	}
	// A segment that starts within a line may start with text that looks like a command:
	// an attacker can cut a long file name that way. So lines are read only after the end
	// of another line. That excludes the first line of each direction, which is the
	// greeting or the login.
	inLine := !isLineStart(p.Private, p.Dir(), p.Seq)
	if p.Payload[len(p.Payload)-1] == '\n' {
		addLineStart(p.Private, p.Dir(), p.Seq+uint32(len(p.Payload)))
	}
	if inLine {
		return
	}
	for at := 0; at < len(p.Payload); {
		line := p.Payload[at:]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			line = line[:end+1]
		}
		readLine(p, a, line, at)
		at += len(line)
	}
}

// readLine reads the line at offset at of the payload.
func readLine(p *helper.Packet, a *helper.Answer, line []byte, at int) {
	dir := p.Dir()
	for i := range announcements {
		c := &announcements[i]
		if c.dir != dir || len(line) < len(c.verb) || !bytes.EqualFold(line[:len(c.verb)], []byte(c.verb)) {
			continue
		}
		skip := len(c.verb)
		if c.open != 0 {
			open := bytes.IndexByte(line[skip:], c.open)
			if open < 0 {
				return
			}
			skip += open + 1
		}
		to, length := c.scan(line[skip:], c.end)
		if length == 0 || to.Port() == 0 {
			return
		}
		// The announcement of another host's address would open the firewall to that host
		// (RFC 2577, section 3). Allowed is also the address by which the other side sees
		// the server.
		if a := to.Addr(); a.IsValid() && a != p.Src(dir).Addr() && a != p.Dst(dir.Other()).Addr() {
			return
		}
		a.OnRefusal = helper.DropPacket
		a.Expect = append(a.Expect, helper.Expectation{
			Protocol:  unix.IPPROTO_TCP,
			Src:       netip.AddrPortFrom(p.Src(dir.Other()).Addr(), 0),
			Dst:       netip.AddrPortFrom(p.Dst(dir.Other()).Addr(), to.Port()),
			NAT:       &helper.NAT{Dir: dir.Other(), Port: to.Port()},
			Announced: &helper.Announced{At: at + skip, Len: length, Append: c.write},
		})
		return
	}
}

// scanNumbers reads h1,h2,h3,h4,p1,p2 and the end that must follow (RFC 959,
// section 4.1.2).
func scanNumbers(b []byte, end byte) (to netip.AddrPort, length int) {
	var n [6]byte
	for i := range n {
		number, digits := helper.Number(b[length:], 255)
		length += digits
		if digits == 0 || length == len(b) {
			return to, 0
		}
		n[i] = byte(number)
		if i < len(n)-1 {
			if b[length] != ',' {
				return to, 0
			}
			length++
		}
	}
	if b[length] != end {
		return to, 0
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:4])), binary.BigEndian.Uint16(n[4:])), length
}

func appendNumbers(dst []byte, to netip.AddrPort) []byte {
	for _, n := range to.Addr().AsSlice() {
		dst = append(strconv.AppendUint(dst, uint64(n), 10), ',')
	}
	dst = append(strconv.AppendUint(dst, uint64(to.Port()>>8), 10), ',')
	return strconv.AppendUint(dst, uint64(to.Port()&0xff), 10)
}

// scanExtended reads |1|address|port| or |2|address|port|, with any delimiter
// (RFC 2428, section 2).
func scanExtended(b []byte, _ byte) (to netip.AddrPort, length int) {
	if len(b) < 3 || !isDelimiter(b[0]) || b[2] != b[0] {
		return to, 0
	}
	text, _, ok := bytes.Cut(b[3:], b[:1])
	if !ok {
		return to, 0
	}
	addr := helper.Addr(text)
	if !addr.IsValid() || addr.Is6() != (b[1] == '2') || addr.Is4() != (b[1] == '1') {
		return to, 0
	}
	length = 3 + len(text) + 1
	port, digits := scanClosed(b[length:], b[0])
	if digits == 0 {
		return to, 0
	}
	return netip.AddrPortFrom(addr, port), length + digits
}

func appendExtended(dst []byte, to netip.AddrPort) []byte {
	family := "|1|"
	if to.Addr().Is6() {
		family = "|2|"
	}
	dst = append(to.Addr().AppendTo(append(dst, family...)), '|')
	return append(strconv.AppendUint(dst, uint64(to.Port()), 10), '|')
}

// scanPort reads |||port|, with any delimiter (RFC 2428, section 3).
func scanPort(b []byte, _ byte) (to netip.AddrPort, length int) {
	if len(b) < 3 || !isDelimiter(b[0]) || b[1] != b[0] || b[2] != b[0] {
		return to, 0
	}
	port, digits := scanClosed(b[3:], b[0])
	if digits == 0 {
		return to, 0
	}
	return netip.AddrPortFrom(netip.Addr{}, port), 3 + digits
}

func appendPort(dst []byte, to netip.AddrPort) []byte {
	return append(strconv.AppendUint(append(dst, "|||"...), uint64(to.Port()), 10), '|')
}

// scanClosed reads a port and the delimiter behind it.
func scanClosed(b []byte, delimiter byte) (port uint16, length int) {
	n, digits := helper.Number(b, 65535)
	if digits == 0 || digits == len(b) || b[digits] != delimiter {
		return 0, 0
	}
	return uint16(n), digits + 1
}

// isDelimiter reports whether RFC 2428 allows that byte as one. A digit would make
// the numbers ambiguous.
func isDelimiter(c byte) bool { return 33 <= c && c <= 126 && (c < '0' || '9' < c) }

// The private data of a flow: for each direction up to two sequence numbers at which lines
// start, then for each direction their count. All are 32-bit little-endian numbers, as in
// conntrack-tools on x86, so that either program can take over a flow. Two are kept because
// the segment after the newest line may be a retransmission of that line.
const (
	lineStarts = 2
	countsAt   = 2 * lineStarts * 4
	privateLen = countsAt + 2*4
)

// knownStarts returns the sequence numbers known for that direction, encoded, and
// where their count is kept.
func knownStarts(private []byte, d helper.Direction) (starts []byte, count []byte) {
	count = private[countsAt+int(d)*4:][:4]
	known := min(binary.LittleEndian.Uint32(count), lineStarts)
	return private[int(d)*lineStarts*4:][: known*4 : lineStarts*4], count
}

// isLineStart reports whether a line is known to start at seq.
func isLineStart(private []byte, d helper.Direction, seq uint32) bool {
	for starts, _ := knownStarts(private, d); len(starts) > 0; starts = starts[4:] {
		if binary.LittleEndian.Uint32(starts) == seq {
			return true
		}
	}
	return false
}

// addLineStart adds seq to the starts of lines. If two are known it replaces the older one,
// unless seq is older than both.
func addLineStart(private []byte, d helper.Direction, seq uint32) {
	if isLineStart(private, d, seq) {
		return
	}
	starts, count := knownStarts(private, d)
	if n := len(starts); n < cap(starts) {
		binary.LittleEndian.PutUint32(starts[n:n+4], seq)
		binary.LittleEndian.PutUint32(count, uint32(n/4+1))
		return
	}
	oldest := starts[:4]
	if after(binary.LittleEndian.Uint32(oldest), binary.LittleEndian.Uint32(starts[4:])) {
		oldest = starts[4:]
	}
	if after(seq, binary.LittleEndian.Uint32(oldest)) {
		binary.LittleEndian.PutUint32(oldest, seq)
	}
}

// after reports whether sequence number a is later than b (RFC 9293, section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }
