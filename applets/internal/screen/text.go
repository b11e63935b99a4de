package screen

import "strconv"

// AppendRight fills up with blanks so that text ends at end.
//
//go:noinline
func AppendRight(dst, text []byte, end int) []byte {
	dst = append(dst, ' ')
	for len(dst)+len(text) < end {
		dst = append(dst, ' ')
	}
	return append(dst, text...)
}

// AppendNumber writes a count exactly, and a rate with what can be read at a
// glance: 0.5, 12, 3400, 34.0k, 1.2M.
func AppendNumber(dst []byte, n float64, exact bool) []byte {
	unit := 0
	for ; !exact && unit < 4 && (n >= 10000 || unit > 0 && n >= 1000); unit++ {
		n /= 1000
	}
	decimals := 0
	if !exact && (unit > 0 || n < 10 && n > 0) {
		decimals = 1
	}
	dst = strconv.AppendFloat(dst, n, 'f', decimals, 64)
	if unit > 0 {
		dst = append(dst, " kMGT"[unit])
	}
	return dst
}
