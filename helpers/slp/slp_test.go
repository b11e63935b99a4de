package slp

import (
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

const (
	client = "192.0.2.2:41000"
	server = "198.51.100.9:427"
	group  = "239.255.255.253:427"
	query  = "\x02\x01\x00\x00\x10"
)

const expected = "accept; udp *:427 -> 192.0.2.2:41000 permanent"

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name                    string
		info                    helper.Info
		src, dst, payload, want string
	}{
		{"to the group", helper.New, client, group, query, expected},
		{"again", helper.Established, client, group, query, expected},
		{"unicast", helper.New, client, server, query, expected},
		{"an answer, seen from the other side", helper.EstablishedReply, client, server, query,
			"accept; udp *:41000 -> 198.51.100.9:427 permanent"},
		{"broadcast", helper.New, client, "192.0.2.255:427", query, "accept; udp *:427 -> 192.0.2.2:41000 permanent"},
		{"another text", helper.New, client, group, "\xff\xff\xff\xff", expected},
		{"nothing", helper.New, client, group, "", expected},
		{"IPv6", helper.New, "[2001:db8::2]:41000", "[ff02::116]:427", query,
			"accept; udp *:427 -> [2001:db8::2]:41000 permanent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, c.src, c.dst)
			if got := f.SendAs(c.info, c.payload); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// NAT makes no difference.
func TestNAT(t *testing.T) {
	f := helpertest.NATed(t, Helper, unix.IPPROTO_UDP, client, group, group, "198.51.100.1:41000")
	if got := f.Send(helper.Original, query); got != expected {
		t.Errorf("%s, want %s", got, expected)
	}
}

// The payload does not matter, and reading a packet causes no allocation.
func TestAllocs(t *testing.T) {
	f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, group)
	if n := f.Allocs(helper.New, query); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead(b *testing.B) {
	helpertest.New(b, Helper, unix.IPPROTO_UDP, client, group).Benchmark(b, helper.New, query)
}

func FuzzRead(f *testing.F) { helpertest.Fuzz(f, Helper, query, "") }
