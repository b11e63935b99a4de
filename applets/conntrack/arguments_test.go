package conntrack

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// argumentKind says which arguments an option takes: good ones, and bad ones beside
// those that no numeric option takes (badNumbers).
type argumentKind struct{ good, bad []string }

// badNumbers are refused by every option that takes a number.
var badNumbers = []string{
	"", " ", "x", "abc", "-1", "-0", "+", "5x", "5 ", "5 6", "5,6", "5:6", "5-6", "6m", "0x", "0xg", "1e3", "1.5", "½", "--",
	"-18446744073709551615", "18446744073709551616", "99999999999999999999999999",
}

var (
	decimal8  = argumentKind{[]string{"0", "255", "+5", " 5", "010", "08", "00000255"}, []string{"256", "0x5", "65536"}}
	decimal16 = argumentKind{[]string{"0", "65535", "+5", " 5", "010", "08"}, []string{"65536", "0x5", "http"}}
	decimal31 = argumentKind{[]string{"0", "2147483647", "+5", "010"}, []string{"2147483648", "0x5", "1M"}}
	decimal32 = argumentKind{[]string{"0", "4294967295", "+5", " 5", "010", "08"}, []string{"4294967296", "0x5"}}
	number16  = argumentKind{[]string{"0", "65535", "0xffff", "0X10", "+5", " 5", "010"}, []string{"65536", "08", "0x10000"}}
	number32  = argumentKind{[]string{"0", "4294967295", "0xffffffff", "+5", " 5", "010"}, []string{"4294967296", "08"}}
	number63  = argumentKind{[]string{"1", "0x100000", "010"}, []string{"0", "9223372036854775808"}}
	marks     = argumentKind{append([]string{"5/5", "5/0", "0/0xffffffff", "0x10/020", "5/+5"}, number32.good...),
		append([]string{"5/", "0/", "/", "/5", "5/x", "5/5x", "5/-1", "0/4294967296", "5/5/5", "5/ ", "5x/5"}, number32.bad...)}
	port     = argumentKind{append([]string{"http", "www"}, decimal16.good...), []string{"65536", "65616", "80,443", "80:90", "80x", "0x50", "HTTP", "http ", "tftp", "nix"}}
	prefixes = argumentKind{[]string{"192.0.2.1", "192.0.2.1/0", "192.0.2.1/32", "192.0.2.1/024", "192.0.2.1/ +24", "10.1", "0x7f.1", "192.0.2.1 "},
		[]string{"192.0.2.1/", "192.0.2.1/33", "192.0.2.1/-1", "192.0.2.1/24x", "192.0.2.1/0x18", "192.0.2.1/24/24", "192.0.2.1/ ", "192.0.2.1 junk", "192.0.2.1 /24x",
			"/24", "192.0.2.1/255.255.255.0", "192.0.2.1                                       /99", "2001:db8::1/129", "2001:db8::1/"}}
	addresses = argumentKind{[]string{"192.0.2.1", "2001:db8::1"}, []string{"192.0.2.1/24", "192.0.2.1/", "192.0.2.1 junk", "192.0.2.256"}}
	masks     = argumentKind{[]string{"255.255.255.0", "255.0.255.0", "0xffffff00", "0.0.0.0", "ffff::"},
		[]string{"24", "/24", "255", "255.255", "255.255.255", "4294967040", "255.255.255.0/24", "0xffffff00 x"}}
	nats = argumentKind{[]string{"192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.1:0080"},
		[]string{"192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:80x", "192.0.2.1:-1", "192.0.2.1: 80", "192.0.2.1:80,443", "[2001:db8::1]x:80",
			"x[2001:db8::1]:80", "[2001:db8::1]", "192.0.2.1/24", "192.0.2.1 x:80"}}
)

// argumentKinds has every option of the tables that takes an argument; nil for options
// that take names, which other tests check.
var argumentKinds = map[string]*argumentKind{
	"orig-src": &prefixes, "orig-dst": &prefixes, "tuple-src": &prefixes, "tuple-dst": &prefixes,
	"reply-src": &addresses, "reply-dst": &addresses, "mask-src": &masks, "mask-dst": &masks,
	"src-nat": &nats, "dst-nat": &nats, "any-nat": &nats,
	"timeout": &decimal32, "mark": &marks, "id": &number32, "secmark": &number32, "buffer-size": &decimal31,
	"zone": &number16, "orig-zone": &number16, "reply-zone": &number16, "queue-size": &number63,
	"refresh": {[]string{"2", "0.5", "0.1"}, []string{"0", "0.05", "1.2345", ".", "100000"}},
	"family":  {[]string{"ipv4", "ipv6"}, []string{"", "4", "inet", "ipv4xyz", "IPV4", "ipv"}},
	"status":  {[]string{"ASSURED", "UNREPLIED"}, []string{"", "UNREPLIEDx", "4"}},

	"sport": &port, "dport": &port, "reply-port-src": &port, "reply-port-dst": &port, "tuple-port-src": &port, "tuple-port-dst": &port,
	"mask-port-src": &decimal16, "mask-port-dst": &decimal16,
	"srckey": &number16, "dstkey": &number16, "reply-key-src": &number16, "reply-key-dst": &number16,
	"mask-key-src": &number16, "mask-key-dst": &number16, "tuple-key-src": &number16, "tuple-key-dst": &number16,
	"icmp-type": &decimal8, "icmp-code": &decimal8, "icmp-id": &decimal16,
	"icmpv6-type": &decimal8, "icmpv6-code": &decimal8, "icmpv6-id": &decimal16,
	"orig-vtag": &decimal32, "reply-vtag": &decimal32,
	"role": {[]string{"client", "S"}, []string{"", "x", "clientx"}}, "state": {nil, []string{"", "x", "1", "SYN_SENT "}},

	"protonum":  {[]string{"tcp", "6", "0x6", "017"}, []string{"", "256", "-1", "6x", "tc", "tcp,udp"}},
	"nat-range": nil, "output": nil, "event-mask": nil, "label": nil, "label-add": nil, "label-del": nil, "labelmap": nil, "key": nil, "netns": nil, "match": nil, "by": nil,
}

// named are the kinds whose bad arguments do not include badNumbers.
var named = []string{"family", "status", "role", "state", "protonum", "refresh", "src-nat", "dst-nat", "any-nat",
	"orig-src", "orig-dst", "tuple-src", "tuple-dst", "reply-src", "reply-dst", "mask-src", "mask-dst"}

// Every argument of every option is understood as a whole or refused with exit status
// 2, in a line that names the argument or the option; and every option is in the list.
func TestArguments(t *testing.T) {
	try := func(name, line string) {
		kind, known := argumentKinds[name]
		if !known {
			t.Errorf("--%s is not in the list", name)
		}
		if kind == nil {
			return
		}
		bad := kind.bad
		if !slices.Contains(named, name) {
			bad = append(slices.Clone(bad), badNumbers...)
		}
		for _, arg := range append(slices.Clone(kind.good), bad...) {
			p := NewParser(io.Discard, false)
			p.ServicesFile = "/nonexistent"
			var c Command
			err := p.Parse(append(words(line), "--"+name, arg), &c)
			if slices.Contains(kind.good, arg) {
				// The command's other mandatory options are not given.
				if err != nil && strings.Contains(err.Error(), arg) && !strings.Contains(err.Error(), "supply") {
					t.Errorf("%s --%s '%s': %v", line, name, arg, err)
				}
				continue
			}
			var usage *UsageError
			if !asUsage(err, &usage) || usage.Status != exitUsage || strings.Contains(usage.Text, "\n") ||
				!strings.Contains(usage.Text, "`"+arg) && !strings.Contains(usage.Text, "'"+arg) &&
					!regexp.MustCompile("netmask|address|port|CIDR").MatchString(usage.Text) {
				t.Errorf("%s --%s '%s': %v", line, name, arg, err)
			}
		}
	}
	for _, o := range options {
		if o.arg == "" {
			continue
		}
		line := "-D"
		if o.bit&(OptSrcNAT|OptDstNAT|OptAnyNAT) != 0 {
			// A separate word that begins with - is not the argument of these options.
			for _, arg := range nats.bad {
				p, _ := testParser(t)
				var c Command
				if err := p.Parse([]string{"conntrack", "-L", "--" + o.long[0] + "=" + arg}, &c); err == nil {
					t.Errorf("-L --%s='%s' is accepted", o.long[0], arg)
				}
			}
		}
		try(o.long[0], line)
	}
	for i := range protocols {
		for _, o := range protocols[i].options {
			// No list of services has names for UDP-Lite, and the common ones few for others.
			name := o.long[0]
			if argumentKinds[name] == &port && protocols[i].name != "tcp" {
				continue
			}
			try(name, "-D -p "+protocols[i].name)
		}
	}
}

func asUsage(err error, to **UsageError) bool {
	bad, ok := err.(*UsageError)
	*to = bad
	return ok
}

// Names of ports are those of the system's list for the protocol of -p, else of ours.
func TestServices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(file, []byte("# none\nweb 8000/tcp w3 # http\nweb 9000/udp\nbad 1x/tcp\nmine 7/sctp\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, proto, name string
		want              int // -1: refused
	}{
		{file, "tcp", "web", 8000}, {file, "tcp", "w3", 8000}, {file, "udp", "web", 9000}, {file, "udp", "w3", -1},
		{file, "tcp", "http", -1}, {file, "tcp", "bad", -1}, {file, "tcp", "WEB", -1}, {file, "tcp", "web/tcp", -1},
		{file, "sctp", "mine", 7}, {file, "udplite", "web", -1}, {file, "dccp", "web", -1}, {file, "tcp", "web ", -1}, {file, "tcp", "", -1},
		{"/nonexistent", "tcp", "http", 80}, {"/nonexistent", "tcp", "ssh", 22}, {"/nonexistent", "udp", "domain", 53},
		{"/nonexistent", "udp", "ssh", -1}, {"/nonexistent", "sctp", "sip", 5060}, {"/nonexistent", "tcp", "web", -1},
	} {
		p, _ := testParser(t)
		p.ServicesFile = c.file
		var cmd Command
		err := p.Parse([]string{"conntrack", "-L", "-p", c.proto, "--dport", c.name}, &cmd)
		switch {
		case c.want < 0 && (err == nil || !strings.HasSuffix(err.Error(), "--dport option: not a port or a service of "+c.proto)):
			t.Errorf("%s of %s in %s: port %d, %v", c.name, c.proto, c.file, cmd.Flow.Orig.DstPort, err)
		case c.want >= 0 && (err != nil || int(cmd.Flow.Orig.DstPort) != c.want || cmd.Flow.Orig.Has&ctnetlink.TupleDstPort == 0):
			t.Errorf("%s of %s in %s: port %d, %v", c.name, c.proto, c.file, cmd.Flow.Orig.DstPort, err)
		}
	}
}

// refusedLines are command lines that conntrack-tools carries out on more flows than the
// user wants, mostly on all, with the messages that refuse them here.
var refusedLines = []struct{ line, text string }{
	{"-D -p tcp --dport 65616", "unexpected value '65616' with --dport option: not a port or a service of tcp"},
	{"-D -p tcp --dport 80,443", "unexpected value '80,443' with --dport option: not a port or a service of tcp"},
	{"-D -p tcp --orig-port-dst 80:90", "unexpected value '80:90' with --dport option: not a port or a service of tcp"},
	{"-D -p tcp --dport 80x", "unexpected value '80x' with --dport option: not a port or a service of tcp"},
	{"-D -p tcp --sport ''", "unexpected value '' with --sport option: not a port or a service of tcp"},
	{"-D -p udp --dport nix", "unexpected value 'nix' with --dport option: not a port or a service of udp"},
	{"-U -p tcp --dport 80 -t 6m", "unexpected value '6m' with -t option: not a number of seconds"},
	{"-U -p tcp -t abc", "unexpected value 'abc' with -t option: not a number of seconds"},
	{"-U -p tcp -t -1", "unexpected value '-1' with -t option: not a number of seconds"},
	{"-U -p tcp -t ''", "unexpected value '' with -t option: not a number of seconds"},
	{"-D -t abc", "unexpected value 'abc' with -t option: not a number of seconds"},
	{"-D -p icmp --icmp-type 264", "unexpected value '264' with --icmp-type option: not a number up to 255"},
	{"-D -p icmp --icmp-code x", "unexpected value 'x' with --icmp-code option: not a number up to 255"},
	{"-D -p icmp --icmp-id 65545", "unexpected value '65545' with --icmp-id option: not a number up to 65535"},
	{"-D -p icmpv6 --icmpv6-type echo", "unexpected value 'echo' with --icmpv6-type option: not a number up to 255"},
	{"-D -p gre --srckey 0x10009", "unexpected value '0x10009' with --srckey option: not a number up to 65535"},
	{"-D -p gre --reply-key-dst x", "unexpected value 'x' with --reply-key-dst option: not a number up to 65535"},
	{"-U -p sctp --orig-vtag 0x1", "unexpected value '0x1' with --orig-vtag option: not a number up to 4294967295"},
	{"-D -m 0/", "unexpected value '0/' with -m option"},
	{"-D -m 0/4294967296", "unexpected value '0/4294967296' with -m option"},
	{"-D -m ''", "unexpected value '' with -m option"},
	{"-U -m 7/", "unexpected value '7/' with -m option"},
	{"-D -w 65536", "unexpected value '65536' with -w option"},
	{"-D -w -18446744073709551615", "unexpected value '-18446744073709551615' with -w option"},
	{"-D -i x", "unexpected value 'x' with -i option"},
	{"-D -s 192.0.2.1/", "Invalid netmask"},
	{"-D -d 192.0.2.2/", "Invalid netmask"},
	{"-D -s 2001:db8::1/", "Invalid netmask"},
	{"-D -s '192.0.2.1 junk'", "Invalid IP address `192.0.2.1 junk'"},
	{"-D -s 192.0.2.1 --mask-src 24", "unexpected value '24' with --mask-src option: not a mask, written as an address"},
	{"-D -d 192.0.2.2 --mask-dst 255.255", "unexpected value '255.255' with --mask-dst option: not a mask, written as an address"},
	{"-D -f ipv4xyz", "`ipv4xyz' unsupported protocol"},
	{"-D -u UNREPLIEDx", "Bad parameter `UNREPLIEDx'"},
	{"-D -- -p udp", "unexpected word `-p'"},
	{"-D conntrack tcp", "unexpected word `tcp'"},
	{"-D -p udp junk", "unexpected word `junk'"},
	{"junk -D -p udp", "unexpected word `junk'"},
	{"-D -", "unexpected word `-'"},
	{"-F conntrack ipv6", "unexpected word `ipv6'"},
	{"-F -- -f ipv6", "unexpected word `-f'"},
	{"-F ''", "unknown type `'"},
	{"-D ''", "unknown type `'"},
	{"-U -m 7 junk", "unexpected word `junk'"},
	{"-D -nm 5", "Invalid IP address `m'"},
	{"-D -u SRC_NAT,SEEN_REPLY", "`SRC_NAT' is no filter: use --src-nat or --dst-nat"},
	{"-D -a 192.0.2.1", "`--nat-range' is no filter: use --src-nat or --dst-nat"},
	{"-U -m 7 -a 192.0.2.1", "`--nat-range' is no filter: use --src-nat or --dst-nat"},
	{"-R /dev/null -f ipv6", "unexpected word `-f'"},
	{"-L junk -p udp", "unknown type `junk'"},
	{"-L -p udp junk", "unexpected word `junk'"},
	{"-G -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1000 --dport 53 junk", "unexpected word `junk'"},
	{"-I -t 5 -p udp -s 192.0.2.7 -d 192.0.2.8 --sport 70000 --dport 53", "unexpected value '70000' with --sport option: not a port or a service of udp"},
	{"-I -t 5x -p udp -s 192.0.2.7 -d 192.0.2.8 --sport 7 --dport 53", "unexpected value '5x' with -t option: not a number of seconds"},
	{"-I -t 5 -p udp -s 192.0.2.7 -d 192.0.2.8 --sport 7 --dport 53 junk", "unexpected word `junk'"},
	{"-C conntrack junk", "unexpected word `junk'"},
	{"-S conntrack junk", "unexpected word `junk'"},
	{"-E -b 1M", "unexpected value '1M' with -b option: not a number of bytes"},
	{"-E conntrack junk", "unexpected word `junk'"},
	{"list", "unknown command `list'"},
	{"flush conntrack", "unknown command `flush'"},
	{"-", "unknown command `-'"},
	{"-- -D", "unknown command `-D'"},
}

// What is not understood is refused in one line, with exit status 2 and the pointer to
// the help, and leaves the kernel's table as it was. In a load file it is refused
// before the first line is carried out.
func TestRefusedLinesDoNothing(t *testing.T) {
	ns := netnstest.New(t, "refused")
	ns.Track()
	for _, line := range []string{
		"-p tcp --sport 1000 --dport 80 --state ESTABLISHED -u SEEN_REPLY,ASSURED", "-p tcp --sport 1001 --dport 443 --state ESTABLISHED",
		"-p udp --sport 1000 --dport 53", "-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 9", "-p gre --srckey 9 --dstkey 10", "-p 200",
		"-p sctp --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
	} {
		ns.Must("/usr/sbin/conntrack", append(strings.Fields("-I -t 3000 -s 192.0.2.1 -d 192.0.2.2"), strings.Fields(line)...)...)
	}
	ns.Must("/usr/sbin/conntrack", strings.Fields("-I -t 3000 -s 2001:db8::1 -d 2001:db8::2 -p udp --sport 1 --dport 2")...)
	timeout := regexp.MustCompile(`(?m)^(\S+ +\d+) \d+`)
	table := func() string {
		lines := strings.Split(timeout.ReplaceAllString(ns.Must("/usr/sbin/conntrack", "-L", "-o", "id"), "$1"), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	before := table()
	if n := strings.Count(before, "\n"); n != 8 {
		t.Fatalf("%d flows:\n%s", n, before)
	}
	run := func(stdin string, argv []string) (status int, stdout, stderr string) {
		var out, errs strings.Builder
		ns.Do(func() {
			status = Run(context.Background(), argv, strings.NewReader(stdin), &out, &errs)
		})
		return status, out.String(), errs.String()
	}
	for _, c := range refusedLines {
		status, stdout, stderr := run("", words(c.line))
		_, stderr, _ = strings.Cut("\n"+stderr, "\n"+messagePrefix) // without warnings in front
		if status != exitUsage || stdout != "" || hints.ReplaceAllString(stderr, "") != c.text+"\n"+tryHelp {
			t.Errorf("%s: status %d, %q, %q", c.line, status, stdout, stderr)
		}
		if !strings.ContainsAny(c.line, "'") && !strings.HasPrefix(c.line, "-R") {
			file := "-D -p tcp\n" + c.line + "\n"
			if status, stdout, stderr := run(file, words("-R -")); status != exitUsage || stdout != "" || !strings.Contains(stderr, ": -:2: ") {
				t.Errorf("%s in a load file: status %d, %q, %q", c.line, status, stdout, stderr)
			}
		}
		if after := table(); after != before {
			t.Fatalf("%s changed the table:\n%s\nwas\n%s", c.line, after, before)
		}
	}
}
