package sane

import (
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

const (
	client = "192.0.2.2:40000"
	server = "198.51.100.9:6566"
)

const (
	start    = "00000007 00000000"
	answer   = "00000000 0000c000 00001234 00000000"
	expected = "accept; tcp 192.0.2.2:* -> 198.51.100.9:49152"
)

func unhex(t testing.TB, text string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name    string
		packets []string // ">" from the client, "<" from the server
		private string   // after them
		want    string   // of the last
	}{
		{"request", []string{"> " + start}, "01000000", "accept"},
		{"answer", []string{"> " + start, "< " + answer}, "00000000", expected},
		{"acknowledgements between", []string{"> " + start, "<", ">", "< " + answer}, "00000000", expected},
		{"answer again", []string{"> " + start, "< " + answer, "< " + answer}, "00000000", "accept"},
		{"second scan", []string{"> " + start, "< " + answer, "> " + start, "< " + answer}, "00000000", expected},
		{"answer without a request", []string{"< " + answer}, "00000000", "accept"},
		{"from the wrong side", []string{"< " + start, "> " + answer}, "00000000", "accept"},
		{"refused", []string{"> " + start, "< 00000005 0000c000 00001234 00000000"}, "00000000", "accept"},
		{"port above 65535", []string{"> " + start, "< 00000000 0001c000 00001234 00000000"}, "00000000", "accept"},
		{"port 65536", []string{"> " + start, "< 00000000 00010000 00001234 00000000"}, "00000000", "accept"},
		{"greatest port word", []string{"> " + start, "< 00000000 ffffffff 00001234 00000000"}, "00000000", "accept"},
		{"port 0", []string{"> " + start, "< 00000000 00000000 00001234 00000000"}, "00000000", "accept"},
		{"port 65535", []string{"> " + start, "< 00000000 0000ffff"}, "00000000", "accept; tcp 192.0.2.2:* -> 198.51.100.9:65535"},
		{"answer of 6 bytes", []string{"> " + start, "< 00000000 0000"}, "00000000", "accept"},
		{"another request between", []string{"> " + start, "> 00000006 00000000", "< " + answer}, "00000000", "accept"},
		{"request in halves", []string{"> 00000007", "> 00000000", "< " + answer}, "00000000", "accept"},
		{"request of 12 bytes", []string{"> 00000007 00000000 00000000"}, "00000000", "accept"},
		{"requests of other lengths between", []string{"> " + start, "> 00000006", "> 00000006 00000000 00000000", "< " + answer}, "00000000", expected},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, server)
			for i, packet := range c.packets {
				d := helper.Original
				if packet[0] == '<' {
					d = helper.Reply
				}
				got := f.Send(d, unhex(t, packet[1:]))
				if i == len(c.packets)-1 && got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
			if got := hex.EncodeToString(f.Private); got != c.private {
				t.Errorf("private data %s, want %s", got, c.private)
			}
		})
	}
}

// The addresses of the first packet are used, also with NAT.
func TestFlows(t *testing.T) {
	for _, c := range []struct{ name, src, dst, replySrc, replyDst, want string }{
		{"IPv6", "[2001:db8::2]:40000", "[2001:db8:1::9]:6566", "[2001:db8:1::9]:6566", "[2001:db8::2]:40000",
			"accept; tcp [2001:db8::2]:* -> [2001:db8:1::9]:49152"},
		{"source translated", client, server, server, "198.51.100.1:40000", expected},
		{"destination translated", client, "203.0.113.1:6566", server, client, "accept; tcp 192.0.2.2:* -> 203.0.113.1:49152"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.NATed(t, Helper, unix.IPPROTO_TCP, c.src, c.dst, c.replySrc, c.replyDst)
			f.Send(helper.Original, unhex(t, start))
			if got := f.Send(helper.Reply, unhex(t, answer)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Only packets of an established connection are read.
func TestOnlyEstablishedIsRead(t *testing.T) {
	for _, info := range []helper.Info{helper.New, helper.Related, helper.RelatedReply} {
		f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, server)
		f.SendAs(info, unhex(t, start))
		if f.Private[0] != 0 {
			t.Errorf("request in state %d is remembered", info)
		}
		f.Private[0] = 1
		if got := f.SendAs(info, unhex(t, answer)); got != "accept" || f.Private[0] != 1 {
			t.Errorf("answer in state %d: %s", info, got)
		}
	}
}

func TestPrefixes(t *testing.T) {
	whole := unhex(t, answer)
	for n := range len(whole) + 1 {
		want := "accept"
		if n >= 8 {
			want = expected
		}
		f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, server)
		f.Send(helper.Original, unhex(t, start))
		if got := f.Send(helper.Reply, whole[:n]); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
}

func TestAllocs(t *testing.T) {
	f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, server)
	for _, packet := range []string{"", start, "00000000"} {
		if n := f.Allocs(helper.Established, unhex(t, packet)); n != 0 {
			t.Errorf("request %s: %v allocations", packet, n)
		}
		if n := f.Allocs(helper.EstablishedReply, unhex(t, packet)); n != 0 {
			t.Errorf("answer %s: %v allocations", packet, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	f := helpertest.New(b, Helper, unix.IPPROTO_TCP, client, server)
	f.Benchmark(b, helper.EstablishedReply, strings.Repeat("image", 280))
}

func FuzzRead(f *testing.F) {
	helpertest.Fuzz(f, Helper, unhex(f, start), unhex(f, answer))
}
