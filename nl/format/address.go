package format

import (
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// AppendAddr appends the text of an address of the given family as glibc's
// inet_ntop writes it. A family other than IPv4 and IPv6 appends nothing.
func AppendAddr(dst []byte, family uint8, a *ctnetlink.Addr) []byte {
	switch family {
	case nl.FamilyIPv4:
		return appendIPv4(dst, a[0], a[1], a[2], a[3])
	case nl.FamilyIPv6:
		return appendIPv6(dst, a)
	}
	return dst
}

func appendIPv4(dst []byte, a, b, c, d byte) []byte {
	dst = append(appendOctet(dst, a), '.')
	dst = append(appendOctet(dst, b), '.')
	dst = append(appendOctet(dst, c), '.')
	return appendOctet(dst, d)
}

func appendOctet(dst []byte, b byte) []byte {
	switch {
	case b < 10:
		return append(dst, '0'+b)
	case b < 100:
		return append(dst, '0'+b/10, '0'+b%10)
	}
	return append(dst, '0'+b/100, '0'+b/10%10, '0'+b%10)
}

// appendIPv6 follows RFC 5952, but for addresses that end in an IPv4 address:
// mapped ones, and those whose first six words alone are zero, have a dotted
// tail. So ::1.2.3.4 is what RFC 5952 would have as ::102:304.
func appendIPv6(dst []byte, a *ctnetlink.Addr) []byte {
	var words [8]uint16
	for i := range words {
		words[i] = binary.BigEndian.Uint16(a[2*i:])
	}
	zeros, zerosEnd := longestZeros(&words)

	dotted := 8
	if zeros == 0 && (zerosEnd == 6 || zerosEnd == 5 && words[5] == 0xffff) {
		dotted = 6
	}
	for i := 0; i < 8; i++ {
		if i == zeros {
			dst = append(dst, ':', ':')
			i = zerosEnd
			if i == 8 {
				break
			}
		} else if i > 0 {
			dst = append(dst, ':')
		}
		if i == dotted {
			return appendIPv4(dst, a[12], a[13], a[14], a[15])
		}
		dst = appendHex(dst, uint64(words[i]))
	}
	return dst
}

// longestZeros returns the bounds of the first longest run of at least two zero
// words; without one the start is -1.
func longestZeros(words *[8]uint16) (start, end int) {
	start = -1
	longest := 1
	for i := 0; i < 8; i++ {
		from := i
		for i < 8 && words[i] == 0 {
			i++
		}
		if i-from > longest {
			start, end, longest = from, i, i-from
		}
	}
	return start, end
}

const hexDigits = "0123456789abcdef"

// appendHex appends v in lower case without leading zeros.
func appendHex(dst []byte, v uint64) []byte {
	shift := 0
	for v>>shift >= 16 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[v>>shift&15])
	}
	return dst
}
