// Package cnum parses numbers as the C library does, because scripts written for C programs
// rely on it: leading white space and sign, the prefixes 0x and 0, wrap-around instead of an
// error.
package cnum

import "math"

// Uint parses an unsigned number at the start of s as strtoul(3) does with base
// 0 and a 64-bit long: white space, a sign, then decimal, octal (0…) or
// hexadecimal (0x…) digits. A minus sign negates in 64 bits; a number too large
// is the largest one. It returns what follows the number. Without digits ok is
// false and rest is s.
func Uint(s string) (v uint64, rest string, ok bool) {
	v, neg, over, rest, ok := scan(s, 0)
	if over {
		return math.MaxUint64, rest, ok
	}
	if neg {
		v = -v
	}
	return v, rest, ok
}

// Int parses a signed decimal number at the start of s as strtol(3) does with
// base 10 and a 64-bit long; one out of range is the nearest in range. It
// returns what follows the number. Without digits ok is false and rest is s.
func Int(s string) (v int64, rest string, ok bool) {
	u, neg, over, rest, ok := scan(s, 10)
	switch {
	case neg && (over || u > -math.MinInt64):
		v = math.MinInt64
	case neg:
		v = -int64(u)
	case over || u > math.MaxInt64:
		v = math.MaxInt64
	default:
		v = int64(u)
	}
	return v, rest, ok
}

// IsSpace reports whether c is white space in the C locale.
func IsSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func scan(s string, base uint64) (v uint64, neg, over bool, rest string, ok bool) {
	i := 0
	for i < len(s) && IsSpace(s[i]) {
		i++
	}
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		neg = s[i] == '-'
		i++
	}
	if base == 0 {
		base = 10
		if i < len(s) && s[i] == '0' {
			base = 8
			// "0x" without a digit after it is the number 0 and the text "x".
			if i+2 < len(s) && s[i+1]|0x20 == 'x' && digit(s[i+2]) < 16 {
				base = 16
				i += 2
			}
		}
	}
	start := i
	for ; i < len(s); i++ {
		d := uint64(digit(s[i]))
		if d >= base {
			break
		}
		// Below 1<<59 no base overflows, and the division is slow.
		if v >= 1<<59 && v > (math.MaxUint64-d)/base {
			over = true
			continue
		}
		v = v*base + d
	}
	if i == start {
		return 0, false, false, s, false
	}
	return v, neg, over, s[i:], true
}

// digit returns the value of a digit or letter, or a number larger than any base.
func digit(c byte) uint8 {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'z':
		return c | 0x20 - 'a' + 10
	}
	return 255
}
