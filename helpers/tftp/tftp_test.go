package tftp

import (
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

const (
	client  = "192.0.2.2:40000"
	server  = "198.51.100.9:69"
	outside = "198.51.100.1:40000"
	request = "\x00\x01file\x00octet\x00"
	data    = "\x00\x03\x00\x01x"
)

const expected = "accept; udp 198.51.100.9:* -> 192.0.2.2:40000"

func TestRead(t *testing.T) {
	for _, c := range []struct{ name, payload, want string }{
		{"read request", request, expected},
		{"write request", "\x00\x02file\x00octet\x00", expected},
		{"data", data, "accept"},
		{"acknowledgement", "\x00\x04\x00\x01", "accept"},
		{"error", "\x00\x05\x00\x01no\x00", "accept"},
		{"option acknowledgement", "\x00\x06blksize\x001428\x00", "accept"},
		{"the bytes of an opcode exchanged", "\x01\x00file\x00octet\x00", "accept"},
		{"opcode above 255", "\x01\x01file\x00octet\x00", "accept"},
		{"half an opcode", "\x00", "accept"},
		{"nothing", "", "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
			if got := f.Send(helper.Original, c.payload); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestFlows(t *testing.T) {
	for _, c := range []struct{ name, src, dst, replySrc, replyDst, want string }{
		{"IPv6", "[2001:db8::2]:40000", "[2001:db8:1::9]:69", "[2001:db8:1::9]:69", "[2001:db8::2]:40000",
			"accept; udp [2001:db8:1::9]:* -> [2001:db8::2]:40000"},
		{"source translated", client, server, server, outside,
			"accept; udp 198.51.100.9:* -> 198.51.100.1:40000 nat=reply:40000"},
		{"source port translated, too", client, server, server, "198.51.100.1:1024",
			"accept; udp 198.51.100.9:* -> 198.51.100.1:1024 nat=reply:40000"},
		{"destination translated", client, "203.0.113.1:69", server, client,
			"accept; udp 198.51.100.9:* -> 192.0.2.2:40000 nat=reply:40000"},
		{"IPv6 translated", "[2001:db8::2]:40000", "[2001:db8:1::9]:69", "[2001:db8:1::9]:69", "[2001:db8:1::1]:5",
			"accept; udp [2001:db8:1::9]:* -> [2001:db8:1::1]:5 nat=reply:40000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.NATed(t, Helper, unix.IPPROTO_UDP, c.src, c.dst, c.replySrc, c.replyDst)
			if got := f.Send(helper.Original, request); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestPrefixes(t *testing.T) {
	for n := range len(request) + 1 {
		want := "accept"
		if n >= 2 {
			want = expected
		}
		f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
		if got := f.Send(helper.Original, request[:n]); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
}

func TestAllocs(t *testing.T) {
	f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
	if n := f.Allocs(helper.EstablishedReply, data); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead(b *testing.B) {
	helpertest.New(b, Helper, unix.IPPROTO_UDP, client, server).Benchmark(b, helper.EstablishedReply, data)
}

func FuzzRead(f *testing.F) { helpertest.Fuzz(f, Helper, request, data, "\x00") }
