package dhcpv6

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

const (
	client  = "[fe80::1]:546"
	server  = "[fe80::2]:547"
	servers = "[ff02::1:2]:547"
	solicit = "\x01\xaa\xbb\xcc"
)

const expected = "udp *:* -> [fe80::1]:546 permanent"

func TestTypes(t *testing.T) {
	for kind, timeout := range []string{
		1: "2m0s", 3: "30s", 4: "4s", 5: "10m0s", 6: "10m0s", 8: "1s", 9: "1s", 11: "2m0s", 13: "",
	} {
		want := "accept; " + expected
		if timeout != "" {
			want = "accept; timeout " + timeout + "; " + expected
		}
		f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, servers)
		for _, payload := range []string{string(rune(kind)) + "\xaa\xbb\xcc", string(rune(kind))} {
			if got := f.Send(helper.Original, payload); got != want {
				t.Errorf("type %d: %s, want %s", kind, got, want)
			}
		}
	}
	for kind := 14; kind < 256; kind++ { // RFC 5007 and later, and what is to come
		f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, servers)
		if got := f.Send(helper.Original, string([]byte{byte(kind), 0xaa, 0xbb, 0xcc})); got != "accept" {
			t.Errorf("type %d: %s", kind, got)
		}
	}
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name              string
		info              helper.Info
		src, dst, payload string
		want              string
	}{
		{"to the group", helper.New, client, servers, solicit, "accept; timeout 2m0s; " + expected},
		{"site's servers", helper.New, client, "[ff05::1:3]:547", solicit, "accept; timeout 2m0s; " + expected},
		{"from another port", helper.New, "[fe80::1]:1024", servers, solicit, "accept; timeout 2m0s; " + expected},
		{"again", helper.Established, client, servers, solicit, "accept; timeout 2m0s; " + expected},
		{"unicast", helper.New, client, "[2001:db8::1]:547", solicit, "accept"},
		{"answer", helper.EstablishedReply, client, server, "\x02\xaa\xbb\xcc", "accept"},
		{"IPv4", helper.New, "192.0.2.2:546", "224.0.0.1:547", solicit, "accept"},
		{"nothing", helper.New, client, servers, "", "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, c.src, c.dst)
			if got := f.SendAs(c.info, c.payload); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestAllocs(t *testing.T) {
	f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, servers)
	for _, payload := range []string{"", solicit, "\x0e\xaa\xbb\xcc", strings.Repeat("\xff", 1000)} {
		if n := f.Allocs(helper.New, payload); n != 0 {
			t.Errorf("%q: %v allocations", payload, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	helpertest.New(b, Helper, unix.IPPROTO_UDP, client, servers).Benchmark(b, helper.New, solicit)
}

func FuzzRead(f *testing.F) { helpertest.Fuzz(f, Helper, solicit, "\x0d", "\x0e", "") }
