package conntrack

import (
	"io"
	"strings"
	"testing"

	"ctbox/nl/ctnetlink"
)

// parse parses a command line of words without blanks.
func parse(t testing.TB, line string) *Command {
	t.Helper()
	var c Command
	p := NewParser(io.Discard, false)
	if err := p.Parse(append([]string{"conntrack"}, strings.Fields(line)...), &c); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return &c
}

// made returns the flow that an -A line describes, changed by parts.
func made(t testing.TB, line string, parts ...func(*ctnetlink.Flow)) *ctnetlink.Flow {
	t.Helper()
	c := parse(t, "-A -t 100 "+line)
	f := c.Flow.Clone()
	f.Status |= ctnetlink.StatusConfirmed
	f.Has |= ctnetlink.HasStatus | ctnetlink.HasMark
	f.ID = 77
	f.Has |= ctnetlink.HasID
	for _, part := range parts {
		part(&f)
	}
	return &f
}

func TestFilter(t *testing.T) {
	v4 := func(a, b, c, d byte) ctnetlink.Addr { return ctnetlink.Addr{a, b, c, d} }
	snat := func(to ctnetlink.Addr, port uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) {
			f.Reply.Dst, f.Reply.DstPort = to, port
			f.Status |= ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone
		}
	}
	dnat := func(to ctnetlink.Addr, port uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) {
			f.Reply.Src, f.Reply.SrcPort = to, port
			f.Status |= ctnetlink.StatusDstNAT | ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone
		}
	}
	labels := func(bits ...int) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) {
			for _, b := range bits {
				f.Labels.SetBit(b)
			}
			f.Has |= ctnetlink.HasLabels
		}
	}
	done := func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone }
	status := func(bits uint32) func(*ctnetlink.Flow) { return func(f *ctnetlink.Flow) { f.Status |= bits } }
	without := func(has ctnetlink.Attr) func(*ctnetlink.Flow) { return func(f *ctnetlink.Flow) { f.Has &^= has } }

	tcp := "-p tcp -s 192.0.2.1 -d 198.51.100.2 --sport 1000 --dport 80 --state ESTABLISHED"
	tcp6 := "-p tcp -s 2001:db8::1 -d 2001:db8::2 --sport 1000 --dport 80 --state ESTABLISHED"
	gre := "-p gre -s 192.0.2.1 -d 198.51.100.2 --srckey 16 --dstkey 77"
	icmp := "-p icmp -s 192.0.2.1 -d 198.51.100.2 --icmp-type 8 --icmp-code 0 --icmp-id 9"
	sctp := "-p sctp -s 192.0.2.1 -d 198.51.100.2 --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2"

	tests := []struct {
		filter string
		f      *ctnetlink.Flow
		want   bool
	}{
		{"-L", made(t, tcp), true},
		{"-D", made(t, tcp), true},
		{"-L -f ipv4", made(t, tcp), true},
		{"-L -f ipv6", made(t, tcp), false},
		{"-L -f ipv6", made(t, tcp6), true},
		{"-L -s 192.0.2.1", made(t, tcp), true},
		{"-L -s 192.0.2.2", made(t, tcp), false},
		{"-L -s 192.0.2.0/24", made(t, tcp), true},
		{"-L -s 192.0.3.0/24", made(t, tcp), false},
		{"-L -s 0.0.0.0/0", made(t, tcp), true},
		{"-L -s 0.0.0.0/0", made(t, tcp6), false},
		{"-L dying -s 192.0.2.0/24", made(t, tcp), true},
		{"-L -s 2001:db8::/126", made(t, tcp6), true},
		{"-L -s 2001:db8::8/125", made(t, tcp6), false},
		{"-L -s 192.0.0.1 --mask-src 255.255.0.255", made(t, tcp), true},
		{"-L -s 192.0.0.2 --mask-src 255.255.0.255", made(t, tcp), false},
		{"-L -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.1", made(t, tcp), true},
		{"-L -r 192.0.2.1", made(t, tcp), false},
		{"-L -p tcp", made(t, tcp), true},
		{"-L -p udp", made(t, tcp), false},
		{"-L -p tcp --sport 1000 --dport 80", made(t, tcp), true},
		{"-L -p tcp --dport 81", made(t, tcp), false},
		{"-L -p tcp --reply-port-src 80", made(t, tcp), true},
		{"-L -p tcp --reply-port-src 81", made(t, tcp), false},
		{"-L -p tcp --state ESTABLISHED", made(t, tcp), true},
		{"-L -p tcp --state CLOSE", made(t, tcp), false},
		{"-L -p tcp --state NONE", made(t, tcp, without(ctnetlink.HasTCPState)), false},
		{"-L -p sctp --state ESTABLISHED", made(t, sctp), true},
		{"-L -p sctp --state CLOSED", made(t, sctp), false},
		{"-L -p gre --srckey 16", made(t, gre), true},
		{"-L -p gre --srckey 9", made(t, gre), false},
		{"-L -p icmp --icmp-type 8", made(t, icmp), true},
		{"-L -p icmp --icmp-type 0", made(t, icmp), false},
		{"-L -p icmp --icmp-id 9", made(t, icmp), true},
		{"-L -p icmp --icmp-id 8", made(t, icmp), false},

		{"-L -m 5", made(t, tcp+" -m 5"), true},
		{"-L -m 4", made(t, tcp+" -m 5"), false},
		{"-L -m 4/4", made(t, tcp+" -m 5"), true},
		{"-L -m 0/2", made(t, tcp+" -m 5"), true},
		{"-L -m 0", made(t, tcp, without(ctnetlink.HasMark)), false},
		{"-L -c 5", made(t, tcp), false},
		{"-L -c 0", made(t, tcp), true},

		{"-D -u ASSURED", made(t, tcp, status(ctnetlink.StatusAssured)), true},
		{"-D -u ASSURED", made(t, tcp), false},
		{"-D -u UNREPLIED", made(t, tcp), true},
		{"-D -u UNREPLIED", made(t, tcp, status(ctnetlink.StatusSeenReply)), false},
		{"-D -u !ASSURED", made(t, tcp), true},
		{"-D -u !ASSURED", made(t, tcp, status(ctnetlink.StatusAssured)), false},
		{"-L -u ASSURED,UNREPLIED", made(t, tcp, status(ctnetlink.StatusAssured)), true},
		{"-L -u ASSURED,UNREPLIED", made(t, tcp, status(ctnetlink.StatusAssured|ctnetlink.StatusSeenReply)), false},
		{"-L -u ASSURED -u SEEN_REPLY", made(t, tcp, status(ctnetlink.StatusAssured|ctnetlink.StatusSeenReply)), true},
		{"-L -u ASSURED", made(t, tcp, without(ctnetlink.HasStatus)), false},

		{"-D -t 100", made(t, tcp), true},
		{"-D -t 99", made(t, tcp), false},
		{"-D -t 99", made(t, tcp, without(ctnetlink.HasTimeout)), false},
		{"-D -i 77", made(t, tcp), true},
		{"-D -i 78", made(t, tcp), false},
		{"-D -i 77", made(t, tcp, without(ctnetlink.HasID)), false},

		{"-L -w 5", made(t, tcp+" -w 5"), true},
		{"-L -w 5", made(t, tcp), false},
		{"-L -w 0", made(t, tcp), true},
		{"-L -w 5", made(t, tcp+" --orig-zone 5"), false},
		{"-L --orig-zone 5", made(t, tcp+" --orig-zone 5"), true},
		{"-L --orig-zone 5", made(t, tcp+" --reply-zone 5"), false},
		{"-L --orig-zone 5", made(t, tcp+" -w 5"), false},
		{"-L --reply-zone 0", made(t, tcp), true},

		{"-L -n", made(t, tcp), false},
		{"-L -n", made(t, tcp, done), false},
		{"-L -n", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), true},
		{"-L -g", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), false},
		{"-L -j", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), true},
		{"-L -n 203.0.113.1", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), true},
		{"-L -n 203.0.113.2", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), false},
		{"-L -n 203.0.113.1:1000", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), false},
		{"-L -n 203.0.113.1:2000", made(t, tcp, snat(v4(203, 0, 113, 1), 2000)), true},
		{"-L -n 203.0.113.1:2001", made(t, tcp, snat(v4(203, 0, 113, 1), 2000)), false},
		{"-L -n", made(t, tcp, snat(v4(192, 0, 2, 1), 2000)), true},
		{"-L -n 192.0.2.1", made(t, tcp, snat(v4(192, 0, 2, 1), 2000)), false},
		{"-L -j 203.0.113.1 -p tcp", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), true},
		{"-L -j 203.0.113.1 -p udp", made(t, tcp, snat(v4(203, 0, 113, 1), 1000)), false},
		{"-L -g", made(t, tcp, dnat(v4(203, 0, 113, 1), 80)), true},
		{"-L -n", made(t, tcp, dnat(v4(203, 0, 113, 1), 80)), false},
		{"-L -g 203.0.113.1:8080", made(t, tcp, dnat(v4(203, 0, 113, 1), 8080)), true},
		{"-L -n -g", made(t, tcp, dnat(v4(203, 0, 113, 1), 8080)), false},
		{"-L -n -g", made(t, tcp, dnat(v4(203, 0, 113, 1), 8080), snat(v4(203, 0, 113, 9), 1)), true},
		{"-L -j", made(t, icmp, done), false},
		{"-L -n", made(t, icmp, done, func(f *ctnetlink.Flow) { f.Reply.ICMPID++ }), true},
		{"-L -n 2001:db8::9", made(t, tcp6, func(f *ctnetlink.Flow) {
			done(f)
			f.Reply.Dst[15] = 9
		}), true},
		{"-L -n 2001:db8::8", made(t, tcp6, func(f *ctnetlink.Flow) {
			done(f)
			f.Reply.Dst[15] = 9
		}), false},

		{"-U -m 9", made(t, tcp+" -m 5"), true},
		{"-U -t 9 -u ASSURED", made(t, tcp), true},
		{"-U -p tcp --state CLOSE", made(t, tcp), true},
		{"-U -p udp -m 9", made(t, tcp), false},
		{"-U -s 192.0.2.9 -m 9", made(t, tcp), false},
		{"-U -i 78 -m 9", made(t, tcp), false},
		{"-U -n -m 9", made(t, tcp), false},

		{"-E -p tcp -f ipv4", made(t, tcp), true},
		{"-E -m 0", made(t, tcp, without(ctnetlink.HasMark)), false},
	}
	for _, tt := range tests {
		if got := newFilter(parse(t, tt.filter)).match(tt.f); got != tt.want {
			t.Errorf("%s: %v for %+v", tt.filter, got, tt.f)
		}
	}

	c := parse(t, "-L")
	c.Given |= OptLabel
	c.Labels.Bits.SetBit(1)
	c.Labels.Bits.SetBit(40)
	for _, tt := range []struct {
		f    *ctnetlink.Flow
		want bool
	}{
		{made(t, tcp), false},
		{made(t, tcp, labels(1)), false},
		{made(t, tcp, labels(1, 2, 40)), true},
	} {
		if got := newFilter(c).match(tt.f); got != tt.want {
			t.Errorf("labels 1 and 40: %v for %+v", got, tt.f)
		}
	}
	c.Labels.Beyond = true
	if newFilter(c).match(made(t, tcp, labels(1, 40))) {
		t.Error("a flow has a label that there is no bit for")
	}
}

// TestKernelFilter checks the part of a filter that goes to the kernel: it must not
// exclude a flow that matches.
func TestKernelFilter(t *testing.T) {
	for _, tt := range []struct {
		line   string
		has    ctnetlink.Attr
		orig   ctnetlink.TupleAttr
		reply  ctnetlink.TupleAttr
		tuples bool
	}{
		{line: "-L"},
		{line: "-L -p tcp"}, // no family, no tuples
		{line: "-L -f ipv4 -p tcp", orig: ctnetlink.TupleProto, tuples: true},
		{line: "-L -s 192.0.2.1 -p tcp --dport 80", orig: ctnetlink.TupleSrc | ctnetlink.TupleProto | ctnetlink.TupleDstPort, tuples: true},
		{line: "-L -s 192.0.2.0/24 -d 192.0.2.1", orig: ctnetlink.TupleDst, tuples: true},
		{line: "-L -d 192.0.2.0/24 -q 192.0.2.1", reply: ctnetlink.TupleDst, tuples: true},
		{line: "-L -m 4/7 -u ASSURED", has: ctnetlink.HasMark | ctnetlink.HasMarkMask | ctnetlink.HasStatus | ctnetlink.HasStatusMask},
		{line: "-D -m 4 -u !ASSURED", has: ctnetlink.HasMark | ctnetlink.HasMarkMask | ctnetlink.HasStatus | ctnetlink.HasStatusMask},
		{line: "-L -w 5", has: ctnetlink.HasZone},
		{line: "-L -w 0"},
		{line: "-L --orig-zone 5 -s 192.0.2.1", orig: ctnetlink.TupleSrc, tuples: true},
		{line: "-U -m 4 -u ASSURED -t 3 -s 192.0.2.1", orig: ctnetlink.TupleSrc, tuples: true},
		{line: "-L -n 192.0.2.1"},
	} {
		w, tuples := kernelFilter(parse(t, tt.line))
		if w == nil {
			w = &ctnetlink.Flow{}
		}
		if w.Has != tt.has || tuples != tt.tuples || tuples && (w.Orig.Has != tt.orig || w.Reply.Has != tt.reply) {
			t.Errorf("%s: %x %x %x %v", tt.line, w.Has, w.Orig.Has, w.Reply.Has, tuples)
		}
	}
}

func TestEventFilter(t *testing.T) {
	for _, tt := range []struct{ line, src, dst string }{
		{"-E -s 192.0.2.0/24 -d 192.0.2.9", "192.0.2.0/24", "192.0.2.9/32"},
		{"-E -s 192.0.2.0 --mask-src 255.0.255.0", "invalid Prefix", "invalid Prefix"},
		{"-E -s 2001:db8::/33", "2001:db8::/33", "invalid Prefix"},
		{"-E -s 0.0.0.0/0", "0.0.0.0/0", "invalid Prefix"},
	} {
		e := eventFilter(parse(t, tt.line))
		if e.Src.String() != tt.src || e.Dst.String() != tt.dst {
			t.Errorf("%s: %v %v", tt.line, e.Src, e.Dst)
		}
	}
	if e := eventFilter(parse(t, "-E -m 3")); e != nil {
		t.Errorf("a mark made an event filter: %+v", e)
	}
}

func TestNamesOne(t *testing.T) {
	for line, want := range map[string]bool{
		"-D": false,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1 --dport 2":                   false,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1 --dport 2 -w 0":              true,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1 -w 0":                        false,
		"-D -s 192.0.2.1/24 -d 192.0.2.2 -p udp --sport 1 --dport 2 -w 0":           false,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p 200 -w 0":                                  true,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p icmp --icmp-type 8 --icmp-code 0 -w 0":     false,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p 200 -w 0 --orig-zone 3":                    false,
		"-D -s 192.0.2.1 -d 192.0.2.2 -p gre --srckey 1 --dstkey 2 -w 4 -u ASSURED": true,
	} {
		if got := namesOne(parse(t, line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
