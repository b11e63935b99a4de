package rpc

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

const (
	client  = "192.0.2.2:900"
	server  = "198.51.100.9:111"
	outside = "198.51.100.1:900"
)

// A query for NFS, version 3 over UDP, and the reply with port 2049.
const (
	call     = "12345678 00000000 00000002 000186a0 00000002 00000003 " + noAuth + noAuth + nfs
	nfs      = "000186a3 00000003 00000011 00000000"
	noAuth   = "00000000 00000000 "
	accepted = "12345678 00000001 00000000 " // the beginning of a reply
	port2049 = "00000000 00000801"
	reply    = accepted + noAuth + port2049
	authSys  = "00000001 00000005 aaaaaaaa bbbbbbbb "
	expected = "accept; udp 192.0.2.2:* -> 198.51.100.9:2049 permanent or drop"

	asking  = "78563412a38601000300000011000000" // the private data after the call
	nothing = "00000000000000000000000000000000"
)

// The record marks before them in a stream.
const (
	callMark  = "80000038 "
	replyMark = "8000001c "
)

func unhex(t testing.TB, text string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edit replaces the word i of a message.
func edit(message string, i int, word string) string {
	words := strings.Fields(message)
	words[i] = word
	return strings.Join(words, " ")
}

// talk sends packets, ">" from the client and "<" from the server, and returns the answer to
// the last one.
func talk(t *testing.T, f *helpertest.Flow, packets ...string) (got string) {
	t.Helper()
	for _, packet := range packets {
		d := helper.Original
		if packet[0] == '<' {
			d = helper.Reply
		}
		got = f.Send(d, unhex(t, packet[1:]))
	}
	return got
}

func TestCall(t *testing.T) {
	for _, c := range []struct{ name, call, private string }{
		{"GETPORT", call, asking},
		{"for TCP", edit(call, 12, "00000006"), "78563412a38601000300000006000000"},
		{"for the port mapper", edit(call, 10, "000186a0"), "78563412a08601000300000011000000"},
		{"with credentials", strings.Replace(call, noAuth, authSys, 1), asking},
		{"with a verifier", strings.Replace(call, noAuth+noAuth, noAuth+authSys, 1), asking},
		{"with credentials of 400 bytes", strings.Replace(call, noAuth, "00000001 00000190 "+strings.Repeat("aaaaaaaa ", 100), 1), asking},
		{"credentials of 401 bytes", strings.Replace(call, noAuth, "00000001 00000191 "+strings.Repeat("aaaaaaaa ", 101), 1), nothing},
		{"credentials without end", edit(call, 7, "ffffffff"), nothing},
		{"credentials beyond the end", edit(call, 7, "0000000c"), nothing},
		{"credentials up to the end", edit(call, 7, "00000018"), nothing},
		{"credentials of half the range", edit(call, 7, "80000000"), nothing},
		{"verifier without end", edit(call, 9, "fffffffd"), nothing},
		{"verifier beyond the end", edit(call, 9, "00000014"), nothing},
		{"four bytes more", call + " 00000000", nothing},
		{"another program", edit(call, 3, "000186a3"), nothing},
		{"another RPC version", edit(call, 2, "00000003"), nothing},
		{"version 3", edit(call, 4, "00000003"), nothing},
		{"version 4", edit(call, 4, "00000004"), nothing},
		{"another procedure", edit(call, 5, "00000004"), nothing},
		{"for SCTP", edit(call, 12, "00000084"), nothing},
		{"for a protocol above 255", edit(call, 12, "00000111"), nothing},
		{"with a port", edit(call, 13, "00000005"), nothing},
		{"neither call nor reply", edit(call, 1, "00000002"), nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
			if got := talk(t, f, "> "+c.call); got != "accept" {
				t.Error(got)
			}
			if got := hex.EncodeToString(f.Private); got != c.private {
				t.Errorf("private data %s, want %s", got, c.private)
			}
			// a refused query cancels an earlier accepted one
			f = helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
			talk(t, f, "> "+call, "> "+c.call)
			if got := hex.EncodeToString(f.Private); got != c.private {
				t.Errorf("private data after another call %s, want %s", got, c.private)
			}
		})
	}
}

func TestReply(t *testing.T) {
	for _, c := range []struct {
		name    string
		packets []string
		want    string
	}{
		{"answer", []string{"> " + call, "< " + reply}, expected},
		{"for TCP", []string{"> " + edit(call, 12, "00000006"), "< " + reply}, strings.Replace(expected, "udp", "tcp", 1)},
		{"two calls", []string{"> " + call, "> " + edit(call, 0, "87654321"), "< " + edit(reply, 0, "87654321")}, expected},
		{"port word above 65535", []string{"> " + call, "< " + edit(reply, 6, "00010801")}, expected},
		{"with a verifier", []string{"> " + call, "< " + accepted + authSys + port2049}, expected},
		{"transaction 0", []string{"> " + edit(call, 0, "00000000"), "< " + edit(reply, 0, "00000000")}, expected},
		{"a few bytes between", []string{"> " + call, "> 00000000", "<", "< " + reply}, expected},

		{"without a call", []string{"< " + reply}, "accept"},
		{"transaction 0 without a call", []string{"< " + edit(reply, 0, "00000000")}, "accept"},
		{"transaction 0 after an answer", []string{"> " + call, "< " + reply, "< " + edit(reply, 0, "00000000")}, "accept"},
		{"twice", []string{"> " + call, "< " + reply, "< " + reply}, "accept"},
		{"another transaction", []string{"> " + call, "< " + edit(reply, 0, "12345679")}, "accept"},
		{"after another transaction's", []string{"> " + call, "< " + edit(reply, 0, "12345679"), "< " + reply}, "accept"},
		{"after what is no message", []string{"> " + call, "> ffffffff ffffffff", "< " + reply}, "accept"},
		{"port 0", []string{"> " + call, "< " + edit(reply, 6, "00000000")}, "accept"},
		{"port 0 above 65535", []string{"> " + call, "< " + edit(reply, 6, "00010000")}, "accept"},
		{"no success", []string{"> " + call, "< " + edit(reply, 5, "00000001")}, "accept"},
		{"not accepted", []string{"> " + call, "< " + edit(reply, 2, "00000001")}, "accept"},
		{"four bytes more", []string{"> " + call, "< " + reply + " 00000000"}, "accept"},
		{"verifier without end", []string{"> " + call, "< " + edit(reply, 4, "ffffffff")}, "accept"},
		{"verifier almost without end", []string{"> " + call, "< " + edit(reply, 4, "fffffffd")}, "accept"},
		{"verifier of 401 bytes", []string{"> " + call, "< " + accepted + "00000000 00000191 " + strings.Repeat("aaaaaaaa ", 101) + port2049}, "accept"},
		{"verifier beyond the end", []string{"> " + call, "< " + edit(reply, 4, "0000000c")}, "accept"},
		{"for the port mapper", []string{"> " + edit(call, 10, "000186a0"), "< " + reply}, "accept"},
		{"call from the server", []string{"< " + call, "< " + reply}, "accept"},
		{"reply from the client", []string{"> " + call, "> " + reply}, "accept"},
		{"after a reply from the client", []string{"> " + call, "> " + reply, "< " + reply}, "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
			if got := talk(t, f, c.packets...); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := hex.EncodeToString(f.Private); got != nothing {
				t.Errorf("private data %s", got)
			}
		})
	}
}

// The private data of conntrack-tools' daemon is understood.
func TestPrivateDataOfConntrackTools(t *testing.T) {
	f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
	copy(f.Private, unhex(t, asking))
	if got := talk(t, f, "< "+reply); got != expected {
		t.Errorf("%s, want %s", got, expected)
	}
	copy(f.Private, unhex(t, "00000000"+asking[8:])) // it has seen the answer
	if got := talk(t, f, "< "+reply); got != "accept" {
		t.Error(got)
	}
}

func TestTCP(t *testing.T) {
	for _, c := range []struct {
		name, call, reply string
		want              string
	}{
		{"one fragment", callMark + call, replyMark + reply, expected},
		{"first of two fragments", "00000038 " + call, replyMark + reply, "accept"},
		{"call is longer", "8000003c " + call, replyMark + reply, "accept"},
		{"call is shorter", "80000034 " + call, replyMark + reply, "accept"},
		{"call without end", "ffffffff " + call, replyMark + reply, "accept"},
		{"reply is not the last fragment", callMark + call, "0000001c " + reply, "accept"},
		{"reply is longer", callMark + call, "80000020 " + reply, "accept"},
		{"empty fragment", callMark + call, "80000000 " + reply, "accept"},
		{"no record mark", call, reply, "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, server)
			if got := talk(t, f, "> "+c.call, "<", "< "+c.reply); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	for _, info := range []helper.Info{helper.New, helper.Related} {
		f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, server)
		f.SendAs(info, unhex(t, callMark+call))
		if got := hex.EncodeToString(f.Private); got != nothing {
			t.Errorf("call in state %d is remembered: %s", info, got)
		}
	}
}

func TestFlows(t *testing.T) {
	for _, c := range []struct {
		name                         string
		proto                        uint8
		src, dst, replySrc, replyDst string
		want                         string
	}{
		{"IPv6", unix.IPPROTO_UDP, "[2001:db8::2]:900", "[2001:db8:1::9]:111", "[2001:db8:1::9]:111", "[2001:db8::2]:900",
			"accept; udp [2001:db8::2]:* -> [2001:db8:1::9]:2049 permanent or drop"},
		{"source translated", unix.IPPROTO_UDP, client, server, server, outside,
			"accept; udp 192.0.2.2:* -> 198.51.100.9:2049 permanent nat=original:2049 or drop; the reply"},
		{"destination translated", unix.IPPROTO_TCP, client, "203.0.113.1:111", server, client,
			"accept; udp 192.0.2.2:* -> 203.0.113.1:2049 permanent nat=original:2049 or drop; the reply"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.NATed(t, Helper, c.proto, c.src, c.dst, c.replySrc, c.replyDst)
			question, answer := unhex(t, call), unhex(t, reply)
			if c.proto == unix.IPPROTO_TCP {
				question, answer = unhex(t, callMark+call), unhex(t, replyMark+reply)
			}
			f.Send(helper.Original, question)
			got := f.Send(helper.Reply, answer)
			// with every port free the reply is unchanged
			if got = strings.Replace(got, strconv.Quote(answer), "the reply", 1); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// If the port is taken, another one is announced: the whole word is replaced.
func TestOtherPort(t *testing.T) {
	for _, c := range []struct {
		proto       uint8
		call, reply string
		want        string
	}{
		{unix.IPPROTO_UDP, call, reply, edit(reply, 6, "00000802")},
		{unix.IPPROTO_UDP, call, edit(reply, 6, "00010801"), edit(reply, 6, "00000802")},
		{unix.IPPROTO_TCP, callMark + call, replyMark + reply, replyMark + edit(reply, 6, "00000802")},
	} {
		f := helpertest.NATed(t, Helper, c.proto, client, "203.0.113.1:111", server, client)
		f.Send(helper.Original, unhex(t, c.call))
		p := f.Packet(helper.EstablishedReply, unhex(t, c.reply))
		var a helper.Answer
		Helper.Read(p, &a)
		if len(a.Expect) != 1 {
			t.Fatalf("%d expectations", len(a.Expect))
		}
		e := &a.Expect[0]
		to := p.Dst(helper.Original)
		payload, err := helper.AppendPayload(nil, p.Payload, e.AppendEdits(nil, netip.AddrPortFrom(to.Addr(), 2050)))
		if err != nil || string(payload) != unhex(t, c.want) {
			t.Errorf("%x: %v, want %s", payload, err, c.want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		question, answer := unhex(t, call), unhex(t, reply)
		if proto == unix.IPPROTO_TCP {
			question, answer = unhex(t, callMark+call), unhex(t, replyMark+reply)
		}
		for n := range len(question) {
			f := helpertest.New(t, Helper, proto, client, server)
			if f.Send(helper.Original, question[:n]); hex.EncodeToString(f.Private) != nothing {
				t.Errorf("%d bytes of the call: private data %x", n, f.Private)
			}
		}
		for n := range len(answer) {
			f := helpertest.New(t, Helper, proto, client, server)
			f.Send(helper.Original, question)
			if got := f.Send(helper.Reply, answer[:n]); got != "accept" {
				t.Errorf("%d bytes of the reply: %s", n, got)
			}
		}
	}
}

// Every word of both messages is replaced by numbers that provoke overflows.
func TestWords(t *testing.T) {
	for _, message := range []string{call, reply} {
		for i := range strings.Fields(message) {
			for _, word := range []string{"00000191", "7fffffff", "80000000", "fffffff8", "fffffffc", "fffffffd", "ffffffff"} {
				f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
				copy(f.Private, unhex(t, asking))
				f.Send(helper.Original, unhex(t, edit(message, i, word)))
				copy(f.Private, unhex(t, asking))
				got := f.Send(helper.Reply, unhex(t, edit(message, i, word)))
				port := i == 6 && message == reply // the port: its low half
				flavor := i == 3 && message == reply
				if got != "accept" && !port && !flavor {
					t.Errorf("word %d is %s: %s", i, word, got)
				}
			}
		}
	}
}

func TestAllocs(t *testing.T) {
	f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, server)
	for _, packet := range []string{"", call, edit(call, 4, "00000003"), edit(reply, 6, "00000000")} {
		for _, info := range []helper.Info{helper.Established, helper.EstablishedReply} {
			copy(f.Private, unhex(t, asking))
			if n := f.Allocs(info, unhex(t, packet)); n != 0 {
				t.Errorf("%s: %v allocations", packet, n)
			}
		}
	}
}

func BenchmarkRead(b *testing.B) {
	f := helpertest.New(b, Helper, unix.IPPROTO_UDP, client, server)
	f.Benchmark(b, helper.Established, unhex(b, call))
}

func FuzzRead(f *testing.F) {
	helpertest.Fuzz(f, Helper, unhex(f, call), unhex(f, reply), unhex(f, callMark+call), unhex(f, replyMark+reply))
}

// FuzzConversation is FuzzRead for a reply that follows its call, because random private data
// rarely matches a reply.
func FuzzConversation(f *testing.F) {
	question := unhex(f, call)
	f.Add([]byte(unhex(f, reply)))
	f.Add([]byte(unhex(f, accepted+authSys+port2049)))
	f.Fuzz(func(t *testing.T, answer []byte) {
		flow := helpertest.NATed(t, Helper, unix.IPPROTO_UDP, client, server, server, outside)
		flow.Send(helper.Original, question)
		got := flow.Send(helper.Reply, string(answer))
		if got != "accept" && binary.BigEndian.Uint32(answer) != 0x12345678 {
			t.Errorf("answer to another call: %s", got)
		}
	})
}
