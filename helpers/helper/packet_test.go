package helper

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// 192.0.2.1:40000 to 198.51.100.2:69, a TFTP read request.
const udp4 = "45000029 00004000 40110000 c0000201 c6336402 9c400045 00150000 0001 66696c65 00 6f6374657400"

// 192.0.2.1:1000 to 198.51.100.2:21 with twelve bytes of options and five of payload.
const tcp4 = "45000039 00004000 40060000 c0000201 c6336402 03e80015 00000010 00000000 80180100 00000000" +
	"0101080a 00000001 00000002 4e4f4f500a"

// The same as UDP over IPv6 behind hop-by-hop and destination options.
const udp6 = "60000000 001b 00 40 20010db8000000000000000000000001 20010db8000000000000000000000002" +
	"3c00000000000000 1100000000000000 9c400045 000b0000 616263"

// udp4 with a router alert among the options of its IPv4 header.
const udp4Options = "4600002d 00004000 40110000 c0000201 c6336402 94040000 9c400045 00150000 0001 66696c65 00 6f6374657400"

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, packet string
		ether        uint16
		payload      string
		seq          uint32
		err          string
	}{
		{"UDP over IPv4", udp4, unix.ETH_P_IP, "\x00\x01file\x00octet\x00", 0, ""},
		{"TCP with options", tcp4, unix.ETH_P_IP, "NOOP\n", 16, ""},
		{"padding behind the packet", tcp4 + "000000", unix.ETH_P_IP, "NOOP\n", 16, ""},
		{"IPv6 with extension headers", udp6, unix.ETH_P_IPV6, "abc", 0, ""},
		{"UDP behind IPv4 options", udp4Options, unix.ETH_P_IP, "\x00\x01file\x00octet\x00", 0, ""},
		{"data with the SYN", strings.Replace(tcp4, "8018", "8002", 1), unix.ETH_P_IP, "NOOP\n", 17, ""},
		{"half a UDP header", "45000018" + udp4[8:], unix.ETH_P_IP, "", 0, "no room for UDP header, skip"},
		{"IPv6, more promised than there", strings.Replace(udp6, " 001b ", " 001c ", 1), unix.ETH_P_IPV6, "", 0, "length of the IP header exceeds the packet, skipping"},
		{"IPv6, half an option header", strings.Replace(udp6, " 001b ", " 0001 ", 1), unix.ETH_P_IPV6, "", 0, "broken IPv6 extension header, skipping"},
		{"ARP", udp4, unix.ETH_P_ARP, "", 0, "unknown layer 3 protocol (2054), skipping"},
		{"no header", udp4[:22], unix.ETH_P_IP, "", 0, "no room for IPv4 header"},
		{"no IPv6 header", udp6[:50], unix.ETH_P_IPV6, "", 0, "no room for IPv6 header"},
		{"IPv6 said to be IPv4", udp6, unix.ETH_P_IP, "", 0, "not IPv4, skipping"},
		{"IPv4 said to be IPv6", udp4, unix.ETH_P_IPV6, "", 0, "not IPv6, skipping"},
		{"header of 16 bytes", "44" + udp4[2:], unix.ETH_P_IP, "", 0, "no room for IPv4 header"},
		{"header of 60 bytes", "4f" + udp4[2:], unix.ETH_P_IP, "", 0, "no room for IPv4 header"},
		{"more promised than there", udp4[:len(udp4)-2], unix.ETH_P_IP, "", 0, "length of the IP header exceeds the packet, skipping"},
		{"total length below the header's", "45000010" + udp4[8:], unix.ETH_P_IP, "", 0, "length of the IP header exceeds the packet, skipping"},
		{"fragment", strings.Replace(udp4, "00004000", "00002000", 1), unix.ETH_P_IP, "", 0, "fragment, skipping"},
		{"later fragment", strings.Replace(udp4, "00004000", "00000001", 1), unix.ETH_P_IP, "", 0, "fragment, skipping"},
		{"IPv6 fragment", strings.Replace(udp6, "3c0000", "2c0000", 1), unix.ETH_P_IPV6, "", 0, "fragment, skipping"},
		{"endless option header", strings.Replace(udp6, "3c0000", "3cff00", 1), unix.ETH_P_IPV6, "", 0, "broken IPv6 extension header, skipping"},
		{"ICMP", strings.Replace(udp4, "4011", "4001", 1), unix.ETH_P_IP, "", 0, "not TCP/UDP, skipping"},
		{"half a TCP header", "4500001c" + tcp4[8:62], unix.ETH_P_IP, "", 0, "no room for TCP header, skip"},
		{"TCP header of 16 bytes", strings.Replace(tcp4, "8018", "4018", 1), unix.ETH_P_IP, "", 0, "no room for TCP header, skip"},
		{"TCP options beyond the end", strings.Replace(tcp4, "8018", "f018", 1), unix.ETH_P_IP, "", 0, "no room for TCP header, skip"},
		{"UDP length too great", strings.Replace(udp4, "0015", "0016", 1), unix.ETH_P_IP, "", 0, "length of the UDP header does not fit the packet, skipping"},
		{"UDP length below the header's", strings.Replace(udp4, "00150000", "00070000", 1), unix.ETH_P_IP, "", 0, "length of the UDP header does not fit the packet, skipping"},
		{"UDP shorter than its packet", strings.Replace(udp4, "00150000", "000c0000", 1), unix.ETH_P_IP, "\x00\x01fi", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Packet
			err := p.Parse(unhex(t, c.packet), c.ether)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if string(p.Payload) != c.payload || p.Seq != c.seq {
				t.Errorf("payload %q at %d, want %q at %d", p.Payload, p.Seq, c.payload, c.seq)
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		name, packet string
		ether        uint16
		edits        []Edit
		payload      string
	}{
		{"longer", udp4, unix.ETH_P_IP, []Edit{{2, 4, []byte("a longer name"), nil}}, "\x00\x01a longer name\x00octet\x00"},
		{"shorter", tcp4, unix.ETH_P_IP, []Edit{{0, 3, nil, nil}}, "P\n"},
		{"equal", tcp4, unix.ETH_P_IP, []Edit{{0, 2, []byte("NO"), nil}}, "NOOP\n"},
		{"at the end", tcp4, unix.ETH_P_IP, []Edit{{5, 0, []byte("QUIT\n"), nil}}, "NOOP\nQUIT\n"},
		{"two", tcp4, unix.ETH_P_IP, []Edit{{0, 1, []byte("one"), nil}, {3, 1, nil, nil}}, "oneOO\n"},
		{"behind extension headers", udp6, unix.ETH_P_IPV6, []Edit{{1, 1, []byte("--"), nil}}, "a--c"},
		{"behind IPv4 options", udp4Options, unix.ETH_P_IP, []Edit{{2, 4, []byte("g"), nil}}, "\x00\x01g\x00octet\x00"},
		{"with a length to mend", tcp4, unix.ETH_P_IP, []Edit{{0, 3, nil, func(b []byte, grown int) { b[0] = byte('0' - grown) }}}, "3\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p, q Packet
			packet := unhex(t, c.packet)
			if err := p.Parse(packet, c.ether); err != nil {
				t.Fatal(err)
			}
			b, err := p.Rewrite([]byte("before"), c.edits)
			if err != nil {
				t.Fatal(err)
			}
			b, ok := bytes.CutPrefix(b, []byte("before"))
			if !ok {
				t.Fatalf("what stood before is gone: %x", b)
			}
			if !bytes.Equal(packet, unhex(t, c.packet)) {
				t.Error("the old packet was written to")
			}
			if err := q.Parse(b, c.ether); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			if string(q.Payload) != c.payload {
				t.Errorf("payload %q, want %q", q.Payload, c.payload)
			}
			checkSums(t, b, q.l4, q.Protocol)
		})
	}
	var p Packet
	if err := p.Parse(unhex(t, tcp4), unix.ETH_P_IP); err != nil {
		t.Fatal(err)
	}
	for _, edits := range [][]Edit{{{-1, 1, nil, nil}}, {{0, 6, nil, nil}}, {{6, 0, nil, nil}}, {{2, -1, nil, nil}},
		{{2, 2, nil, nil}, {3, 1, nil, nil}}, {{0, int(^uint(0) >> 1), nil, nil}}} {
		if _, err := p.Rewrite(nil, edits); err != ErrEdit {
			t.Errorf("%v: error %v", edits, err)
		}
	}
	// The longest that fits into a verdict's attribute, and one byte more.
	room := 65531 - len(p.ip)
	if b, err := p.Rewrite(nil, []Edit{{0, 0, make([]byte, room), nil}}); err != nil || len(b) != 65531 {
		t.Errorf("longest: %d bytes, %v", len(b), err)
	}
	if _, err := p.Rewrite(nil, []Edit{{0, 0, make([]byte, room+1), nil}}); err != ErrTooLong {
		t.Errorf("too long: error %v", err)
	}
}

// ip4Options is udp4 behind a header with these twelve bytes of options.
func ip4Options(options string) string {
	return "48000035 00004000 40110000 c0000201 c6336402" + options + udp4[len("45000029 00004000 40110000 c0000201 c6336402"):]
}

// ip6Header is udp6 with this extension header, of kind next, in the place of its
// destination options.
func ip6Header(next, header string) string {
	size := len(strings.Join(strings.Fields(header), "")) / 2
	s := strings.Replace(udp6, "3c00000000000000", next+"00000000000000", 1)
	s = strings.Replace(s, " 1100000000000000 ", " "+header+" ", 1)
	return strings.Replace(s, " 001b ", fmt.Sprintf(" %04x ", 0x1b-8+size), 1)
}

// A source-routed packet is read but not rewritten: its checksum covers addresses that its IP
// header does not contain.
func TestRewriteRefusesRedirectedPackets(t *testing.T) {
	const stop = "20010db8000000000000000000000003"
	for _, c := range []struct {
		name, packet string
		ether        uint16
		refused      bool
	}{
		{"routing header, a segment left", ip6Header("2b", "11020001 00000000"+stop), unix.ETH_P_IPV6, true},
		{"routing header at its end", ip6Header("2b", "11020000 00000000"+stop), unix.ETH_P_IPV6, false},
		{"Mobile IPv6's routing header", ip6Header("2b", "11020201 00000000"+stop), unix.ETH_P_IPV6, true},
		{"segment routing", ip6Header("2b", "11020401 00000000"+stop), unix.ETH_P_IPV6, true},
		{"segment routing at its end", ip6Header("2b", "11020400 00000000"+stop), unix.ETH_P_IPV6, false},
		{"home address", ip6Header("3c", "11020102 0000 c910"+stop), unix.ETH_P_IPV6, true},
		{"padding alone", ip6Header("3c", "11000104 00000000"), unix.ETH_P_IPV6, false},
		{"an option beyond its header", ip6Header("3c", "11000105 00000000"), unix.ETH_P_IPV6, true},
		{"half an option", ip6Header("3c", "11000103 00000001"), unix.ETH_P_IPV6, true},
		{"loose source route", ip4Options("83070400 00000000 01010101"), unix.ETH_P_IP, true},
		{"strict source route", ip4Options("01890704 cb007101 00000000"), unix.ETH_P_IP, true},
		{"loose source route at its end", ip4Options("83070800 00000000 01010101"), unix.ETH_P_IP, false},
		{"record route", ip4Options("07070400 00000000 01010101"), unix.ETH_P_IP, false},
		{"a source route behind the end of options", ip4Options("00830704 cb007101 00000000"), unix.ETH_P_IP, false},
		{"a source route without a pointer", ip4Options("83020000 00000000 00000000"), unix.ETH_P_IP, true},
		{"options that cannot be read", ip4Options("44000000 00000000 00000000"), unix.ETH_P_IP, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Packet
			if err := p.Parse(unhex(t, c.packet), c.ether); err != nil {
				t.Fatal(err)
			}
			want := error(nil)
			if c.refused {
				want = ErrRedirected
			}
			b, err := p.Rewrite([]byte("before"), []Edit{{0, 1, []byte("--"), nil}})
			if err != want || string(b[:6]) != "before" || c.refused && len(b) != 6 {
				t.Errorf("%q, error %v, want %v", b, err, want)
			}
			// The next packet in the same buffer is rewritten.
			if err := p.Parse(unhex(t, udp4), unix.ETH_P_IP); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Rewrite(nil, nil); err != nil {
				t.Errorf("the next packet: %v", err)
			}
		})
	}
}

// Over UDP a checksum of zero is sent as all ones, because zero means no checksum.
func TestRewriteZeroChecksum(t *testing.T) {
	var p Packet
	if err := p.Parse(unhex(t, udp4), unix.ETH_P_IP); err != nil {
		t.Fatal(err)
	}
	b, err := p.Rewrite(nil, []Edit{{0, 2, []byte{0, 0}, nil}})
	if err != nil {
		t.Fatal(err)
	}
	// the first word that makes the sum all ones
	word := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(b[26:]))
	if b, err = p.Rewrite(nil, []Edit{{0, 2, word, nil}}); err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint16(b[26:]); got != 0xffff {
		t.Errorf("checksum %#04x", got)
	}
}

// checkSums verifies the checksums as a receiver does: it sums everything, the checksum
// included.
func checkSums(t *testing.T, b []byte, l4 int, proto uint8) {
	t.Helper()
	add := func(words ...[]byte) (s uint64) {
		for _, w := range words {
			w = append(bytes.Clone(w), make([]byte, len(w)%2)...)
			for i := 0; i < len(w); i += 2 {
				s += uint64(w[i])<<8 | uint64(w[i+1])
			}
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return s
	}
	var addrs []byte
	if b[0]>>4 == 6 {
		addrs = b[8:40]
	} else {
		addrs = b[12:20]
		if s := add(b[:l4]); s != 0xffff {
			t.Errorf("IPv4 header adds up to %#x: %x", s, b[:l4])
		}
	}
	length := len(b) - l4
	if s := add(addrs, []byte{0, proto, byte(length >> 8), byte(length)}, b[l4:]); s != 0xffff {
		t.Errorf("layer 4 adds up to %#x: %x", s, b[l4:])
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		text   string
		most   uint32
		n      uint32
		digits int
	}{
		{"123,", 255, 123, 3}, {"255", 255, 255, 3}, {"256", 255, 0, 0}, {"", 255, 0, 0}, {"-1", 255, 0, 0},
		{"007x", 255, 7, 3}, {"65536", 65535, 0, 0}, {"4294967295", 1<<32 - 1, 1<<32 - 1, 10}, {"4294967296", 1<<32 - 1, 0, 0},
		{strings.Repeat("9", 100), 1<<32 - 1, 0, 0},
	} {
		if n, digits := Number([]byte(c.text), c.most); n != c.n || digits != c.digits {
			t.Errorf("%q: %d, %d digits", c.text, n, digits)
		}
	}
}

func TestEnds(t *testing.T) {
	p := Packet{Flow: &ctnetlink.Flow{}, Info: EstablishedReply}
	p.Flow.Orig = ctnetlink.Tuple{Family: nl.FamilyIPv4, Src: ctnetlink.Addr{192, 0, 2, 1}, Dst: ctnetlink.Addr{198, 51, 100, 2}, SrcPort: 1, DstPort: 2}
	p.Flow.Reply = ctnetlink.Tuple{Family: nl.FamilyIPv6, Src: ctnetlink.Addr{0x20, 1}, Dst: ctnetlink.Addr{0x20, 2}, SrcPort: 3, DstPort: 4}
	for want, got := range map[string]netip.AddrPort{
		"192.0.2.1:1": p.Src(Original), "198.51.100.2:2": p.Dst(Original), "[2001::]:3": p.Src(Reply), "[2002::]:4": p.Dst(Reply),
	} {
		if got.String() != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if p.Dir() != Reply || p.Dir().Other() != Original {
		t.Error("direction")
	}
}

// Every packet that parses can be rewritten, and the result parses again.
func FuzzParse(f *testing.F) {
	for _, text := range []string{udp4, tcp4, udp6, udp4Options, ip6Header("2b", "11020001 00000000"+strings.Repeat("00", 16))} {
		f.Add(unhex(f, text), text[0] == '6', uint16(1), uint16(1), []byte("text"))
	}
	f.Fuzz(func(t *testing.T, b []byte, v6 bool, at, n uint16, text []byte) {
		ether := uint16(unix.ETH_P_IP)
		if v6 {
			ether = unix.ETH_P_IPV6
		}
		var p, q Packet
		if p.Parse(b, ether) != nil {
			return
		}
		out, err := p.Rewrite(nil, []Edit{{int(at), int(n), text, nil}})
		if err != nil {
			return
		}
		if err := q.Parse(out, ether); err != nil {
			t.Fatalf("%x became %x: %v", b, out, err)
		}
		if want := len(p.Payload) - int(n) + len(text); len(q.Payload) != want {
			t.Fatalf("payload of %d bytes, want %d", len(q.Payload), want)
		}
		checkSums(t, out, q.l4, q.Protocol)
	})
}
