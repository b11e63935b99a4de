package helper

import (
	"strings"
	"testing"
)

func TestAddr(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"192.0.2.1", "192.0.2.1"},
		{"2001:db8::1", "2001:db8::1"},
		{"2001:DB8:0:0:0:0:0:A", "2001:db8::a"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"", ""}, {"192.0.2", ""}, {"192.0.2.256", ""}, {"192.0.2.1.", ""}, {" 192.0.2.1", ""}, {"192.0.2.1:21", ""},
		{"fe80::1%eth0", ""}, {"host.example", ""}, {"[2001:db8::1]", ""}, {"192.0.2.1\x00", ""},
		{strings.Repeat("1", 1000), ""},
	} {
		got := Addr([]byte(c.text))
		if got.IsValid() != (c.want != "") || got.IsValid() && got.String() != c.want {
			t.Errorf("%q: %v, want %q", c.text, got, c.want)
		}
	}
	name := []byte("database.example")
	if n := testing.AllocsPerRun(100, func() { Addr(name) }); n != 0 {
		t.Errorf("a name allocates %v times", n)
	}
}
