package cnum

import (
	"math"
	"testing"
)

func TestUint(t *testing.T) {
	for _, c := range []struct {
		in   string
		v    uint64
		rest string
		ok   bool
	}{
		{"10", 10, "", true}, {"0x10", 16, "", true}, {"010", 8, "", true}, {"+5", 5, "", true},
		{" \t5x", 5, "x", true}, {"-1", math.MaxUint64, "", true}, {"0", 0, "", true},
		{"0x", 0, "x", true}, {"0xg", 0, "xg", true}, {"08", 0, "8", true}, {"", 0, "", false},
		{"x", 0, "x", false}, {" +", 0, " +", false}, {"0XfF", 255, "", true},
		{"18446744073709551615", math.MaxUint64, "", true}, {"18446744073709551616", math.MaxUint64, "", true},
		{"-18446744073709551616", math.MaxUint64, "", true}, {"-18446744073709551615", 1, "", true},
	} {
		if v, rest, ok := Uint(c.in); v != c.v || rest != c.rest || ok != c.ok {
			t.Errorf("Uint(%q) = %d, %q, %v; want %d, %q, %v", c.in, v, rest, ok, c.v, c.rest, c.ok)
		}
	}
}

func TestInt(t *testing.T) {
	for _, c := range []struct {
		in   string
		v    int64
		rest string
		ok   bool
	}{
		{"10", 10, "", true}, {"0x10", 0, "x10", true}, {"010", 10, "", true}, {"-1", -1, "", true},
		{"abc", 0, "abc", false}, {"9223372036854775807", math.MaxInt64, "", true},
		{"9223372036854775808", math.MaxInt64, "", true}, {"-9223372036854775808", math.MinInt64, "", true},
		{"-9223372036854775809", math.MinInt64, "", true}, {"99999999999999999999", math.MaxInt64, "", true},
	} {
		if v, rest, ok := Int(c.in); v != c.v || rest != c.rest || ok != c.ok {
			t.Errorf("Int(%q) = %d, %q, %v; want %d, %q, %v", c.in, v, rest, ok, c.v, c.rest, c.ok)
		}
	}
}
