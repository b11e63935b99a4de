package match

import (
	"strconv"
	"strings"
)

// ParseRange reads N, N-M, N- or -M, decimal numbers up to most. ok is false for anything
// else, and for a range without numbers.
func ParseRange(s string, most uint64) (r Range, ok bool) {
	low, high, isRange := strings.Cut(s, "-")
	r = Range{0, most}
	if low != "" {
		if r.Min, ok = number(low, most); !ok {
			return Range{}, false
		}
	}
	switch {
	case !isRange:
		r.Max = r.Min
		return r, low != ""
	case high != "":
		if r.Max, ok = number(high, most); !ok {
			return Range{}, false
		}
	}
	return r, (low != "" || high != "") && r.Min <= r.Max
}

func number(s string, most uint64) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n <= most
}
