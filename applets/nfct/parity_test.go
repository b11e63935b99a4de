package nfct

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/cttimeout"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// words splits a command line of a test table; ” is the empty word.
func words(line string) []string {
	w := strings.Fields(line)
	for i := range w {
		if w[i] == "''" {
			w[i] = ""
		}
	}
	return w
}

var (
	versionWord = regexp.MustCompile(`(?m)^nfct v[0-9.]+:`)
	reasonPart  = regexp.MustCompile(`(?m)^(nfct v: (?:netlink error|cannot open netlink): [^(\n]*) \((.*)\)$`)
)

// comparable removes what differs intentionally: the version, and the reasons at the end
// of our messages about the kernel's refusals, which it returns.
func comparable(r netnstest.Result) (netnstest.Result, string) {
	r.Stdout = versionWord.ReplaceAllString(r.Stdout, "nfct v:")
	r.Stderr = versionWord.ReplaceAllString(r.Stderr, "nfct v:")
	reason := ""
	if m := reasonPart.FindStringSubmatch(r.Stderr); m != nil {
		reason = m[2]
	}
	r.Stderr = reasonPart.ReplaceAllString(r.Stderr, "$1")
	return r, reason
}

// parity runs both nfct programs with the same words and compares output, exit status,
// and the timeout policies afterwards, as Debian's nfct lists them. It returns our result
// and its reason.
func parity(t *testing.T, tw *netnstest.Twins, args ...string) (netnstest.Result, string) {
	t.Helper()
	theirs, ours := tw.Run("", "nfct", args...)
	want, _ := comparable(theirs)
	got, reason := comparable(ours)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nfct %q (-theirs +ours):\n%s", args, diff)
	}
	if a, b := tables(tw.Theirs), tables(tw.Ours); a != b {
		t.Errorf("nfct %q left other tables (-theirs +ours):\n%s", args, cmp.Diff(a, b))
	}
	return ours, reason
}

func tables(ns *netnstest.NS) string {
	return ns.Must("/usr/sbin/nfct", "list", "timeout") +
		ns.Must("/usr/sbin/nfct", "default-get", "timeout", "inet", "udp") +
		ns.Must("/usr/sbin/nfct", "default-get", "timeout", "inet", "tcp")
}

func twins(t *testing.T) *netnstest.Twins {
	return netnstest.NewTwins(t, func(*netnstest.NS) {})
}

// Everything that goes wrong before the kernel is asked, and every way to name
// command and subsystem.
func TestParityOfCommandLines(t *testing.T) {
	tw := twins(t)
	for _, line := range []string{
		"", "list", "version", "help", "--help", "-o", "t l", "l t", "timeout list", "ti li",
		"foo", "foo bar", "list foo", "timeout foo", "foo timeout", "foo list", "List timeout", "list Timeout", "listt timeout",
		"timeout version", "version x", "version timeout", "h x", "help help", "timeout timeout", "list list",
		"disable timeout", "timeout disable", "di t x y", "default-set helper", "helper default-get", "default-get helper a b", "helper def",
		"list timeout x", "list timeout x y", "flush timeout x", "flush helper x", "list helper x",
		"delete timeout", "delete timeout a b", "get timeout", "get timeout a b", "d t", "g t",
		"add timeout", "add timeout x", "add timeout x inet", "add timeout x foo", "a t", "default-set timeout", "default-set timeout inet tcp",
		"default-set timeout inet", "def t inet tcp established", "default-get timeout", "default-get timeout inet", "default-g t",
		"add timeout x ipv4 tcp", "add timeout x INET tcp", "add timeout x '' tcp", "add timeout x foo bar", "add timeout x inet6 bar", "add timeout x inet 6",
		"add timeout x inet ''", "add timeout x inet Tcp established 1", "add timeout x inet tcp foo 1", "add timeout x inet tcp established",
		"add timeout x inet tcp established 1 foo", "add timeout x inet tcp foo 1 bar", "add timeout x inet tcp '' 1", "add timeout x inet tcp unack 3",
		"add timeout x inet TCP x 1", "add timeout x inet esp timeout 1", "add timeout x inet udp established 3", "add timeout x inet sctp heartbeat_sent 3",
		"default-set timeout ipv4 tcp established 1", "default-set timeout inet foo established 1", "default-set timeout inet udp established 1",
		"default-set timeout inet udp replied 1 unreplied", "default-get timeout ipv4 tcp", "default-get timeout inet foo",
		"add helper", "add helper ftp", "add helper ftp inet", "add helper ftp ipv4 tcp", "add helper ftp inet TCP", "add helper ftp inet icmp",
		"add helper ftp inet udp", "add helper foo inet tcp", "add helper '' inet tcp", "add helper FTP inet tcp", "add helper foo ipv4 icmp",
		"add helper ftpx inet tcp", "disable helper", "disable helper ftp inet", "disable helper foo inet tcp", "disable helper ftp ipv4 tcp", "disable helper ftp inet sctp",
		"delete helper", "delete helper a inet tcp x", "delete helper a ipv4", "delete helper a inet TCP", "get helper", "get helper a inet tcp x",
		"get helper a foo", "get helper a inet foo", "helper get", "helper add ftp inet",
	} {
		parity(t, tw, words(line)...)
	}
	// argv[0] as given is what the usage line shows.
	theirs := tw.Theirs.Run("", netnstest.Peer(t, "nfct"))
	ours := tw.Ours.Run("", netnstest.Applet(t, "nfct"))
	if theirs.Stderr != "Usage: "+netnstest.Peer(t, "nfct")+" command subsystem [parameters]...\n" || ours.Stderr != strings.Replace(theirs.Stderr, netnstest.Peer(t, "nfct"), netnstest.Applet(t, "nfct"), 1) {
		t.Errorf("usage lines: %q, %q", theirs.Stderr, ours.Stderr)
	}
}

func TestParityOfVersion(t *testing.T) {
	tw := twins(t)
	for _, line := range []string{"list version", "version list", "v default-g", "flush ver"} {
		theirs, ours := tw.Run("", "nfct", words(line)...)
		want, _ := comparable(theirs)
		got, _ := comparable(ours)
		first, _, _ := strings.Cut(want.Stdout, "\n")
		if !strings.HasPrefix(got.Stdout, first+"\n") || strings.Count(got.Stdout, "\n") != 5 || got.Code != want.Code || got.Stderr != want.Stderr {
			t.Errorf("nfct %s: %+v, theirs %+v", line, got, want)
		}
	}
}

// protocolNames are the names that command lines can have for the protocols
// with states.
var protocolNames = map[string]uint8{"tcp": 6, "UDP": 17, "udplite": 136, "gre": 47, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58,
	"IPv6-ICMP": 58, "generic": 255, "sctp": 132, "dccp": 33}

// Every state of every protocol in both families: added alone, listed, got, the
// defaults read, deleted.
func TestParityOfPolicies(t *testing.T) {
	tw := twins(t)
	for name, proto := range protocolNames {
		for _, family := range []string{"inet", "inet6"} {
			for i, state := range cttimeout.StateNames(proto) {
				if i%2 == 0 {
					state = strings.ToLower(state)
				}
				parity(t, tw, "add", "timeout", "p"+state, family, name, state, "77")
			}
			parity(t, tw, "list", "timeout")
			parity(t, tw, "get", "timeout", "p"+strings.ToLower(cttimeout.StateNames(proto)[0]))
			parity(t, tw, "default-get", "timeout", family, name)
			parity(t, tw, "flush", "timeout")
		}
	}
}

// Policies are created, used and deleted, with our reasons for the kernel's refusals.
func TestParityOfTimeoutCommands(t *testing.T) {
	tw := twins(t)
	long := strings.Repeat("n", 31)
	for _, tt := range []struct {
		line   string
		reason string
	}{
		{"add timeout a inet tcp established 100 close 5 close_wait 0", ""},
		{"timeout add b inet6 icmpv6 timeout 9", ""},
		{"add timeout a inet tcp established 100", "a timeout policy named `a' exists"},
		{"add timeout a inet udp replied 1", "a timeout policy named `a' exists"},
		{"add timeout c inet udp replied 1 REPLIED 2 unreplied 3 replied 4", ""},
		{"add timeout d inet icmpv6 timeout +7", ""},
		{"add timeout e inet tcp", "no state and timeout given"},
		{"add timeout e inet esp", "no state and timeout given"},
		{"add timeout e inet dccp open 4", "this kernel has no timeouts for layer 4 protocol 33 (dccp), which needs CONFIG_NF_CT_PROTO_DCCP"},
		{"default-get timeout inet esp", "this kernel has no timeouts for layer 4 protocol 50"},
		{"default-get timeout inet6 dccp", "this kernel has no timeouts for layer 4 protocol 33 (dccp), which needs CONFIG_NF_CT_PROTO_DCCP"},
		{"default-set timeout inet dccp open 4", "this kernel has no timeouts for layer 4 protocol 33 (dccp), which needs CONFIG_NF_CT_PROTO_DCCP"},
		{"add timeout '' inet generic timeout 600", ""},
		{"get timeout ''", ""},
		{"add timeout " + long + " inet udp replied 5", ""},
		{"add timeout " + long + " inet udp replied 5", "a timeout policy named `" + long + "' exists"},
		{"get timeout " + long, ""},
		{"list timeout", ""},
		{"get timeout a", ""},
		{"get timeout A", "there is no timeout policy named `A'"},
		{"delete timeout " + long, ""},
		{"delete timeout a", ""},
		{"delete timeout a", "there is no timeout policy named `a'"},
		{"default-set timeout inet udp unreplied 11 replied 12", ""},
		{"default-set timeout inet6 tcp established 1000 retrans 5", ""},
		{"default-get timeout inet udp", ""},
		{"add timeout f inet udp replied 2", ""},
		{"get timeout f", ""},
		{"t g f", ""},
		{"flush timeout", ""},
		{"flush timeout", ""},
		{"list timeout", ""},
	} {
		if _, reason := parity(t, tw, words(tt.line)...); reason != tt.reason {
			t.Errorf("nfct %s: reason %q, want %q", tt.line, reason, tt.reason)
		}
	}
}

func TestParityOfPoliciesInUse(t *testing.T) {
	tw := twins(t)
	parity(t, tw, "add", "timeout", "used", "inet", "udp", "unreplied", "50")
	parity(t, tw, "add", "timeout", "free", "inet", "udp", "unreplied", "51")
	tw.Each(func(ns *netnstest.NS) {
		ns.Must("iptables", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "-j", "CT", "--timeout", "used")
		// nft's own objects of the kind are another table.
		ns.NFT("table ip t {\nct timeout free { protocol tcp; policy = { established : 100 }; }\n}")
	})
	// The kernel decides: before 6.1.192, 6.12.117 and 7.2 it keeps what a rule uses.
	r, reason := parity(t, tw, "delete", "timeout", "used")
	if r.Code != 0 && reason != "timeout policy `used' is in use by a rule" {
		t.Errorf("reason %q", reason)
	}
	kept := r.Code != 0
	parity(t, tw, "list", "timeout")
	parity(t, tw, "flush", "timeout")
	if r, _ := parity(t, tw, "list", "timeout"); strings.HasPrefix(r.Stdout, ".used = {\n") != kept || strings.Contains(r.Stdout, "free") {
		t.Errorf("after flush: %s", r.Stdout)
	}
	tw.Each(func(ns *netnstest.NS) { ns.Must("iptables", "-t", "raw", "-F") })
	parity(t, tw, "delete", "timeout", "used")
}

// Without the privilege, and without a socket.
func TestParityOfRefusedSockets(t *testing.T) {
	tw := twins(t)
	for _, tt := range []struct {
		wrapper string
		line    string
		code    int
		reason  string
	}{
		{"setpriv --bounding-set -net_admin", "list timeout", 1, "this needs CAP_NET_ADMIN"},
		{"setpriv --bounding-set -net_admin", "add timeout x inet udp replied 1", 1, "this needs CAP_NET_ADMIN"},
		{"setpriv --bounding-set -net_admin", "default-get timeout inet udp", 1, "this needs CAP_NET_ADMIN"},
		{"strace -f -o /dev/null -e inject=socket:error=EPROTONOSUPPORT", "list timeout", 255,
			"kernel without nfnetlink: load that module or set CONFIG_NETFILTER_NETLINK"},
		{"strace -f -o /dev/null -e inject=socket:error=EMFILE", "add timeout", 255, ""},
		{"strace -f -o /dev/null -e inject=bind:error=ENOMEM", "default-set helper", 255, ""},
		{"strace -f -o /dev/null -e inject=socket:error=EMFILE", "list foo", 1, ""},
	} {
		wrapper := strings.Fields(tt.wrapper)
		run := func(ns *netnstest.NS, nfct string) (netnstest.Result, string) {
			return comparable(ns.Run("", wrapper[0], slices.Concat(wrapper[1:], []string{nfct}, words(tt.line))...))
		}
		want, _ := run(tw.Theirs, netnstest.Peer(t, "nfct"))
		got, reason := run(tw.Ours, netnstest.Applet(t, "nfct"))
		got.Stderr = strings.ReplaceAll(got.Stderr, netnstest.Applet(t, "nfct"), netnstest.Peer(t, "nfct"))
		if got != want || got.Code != tt.code || reason != tt.reason {
			t.Errorf("%s nfct %s: %+v (%s), theirs %+v; want status %d, reason %q", tt.wrapper, tt.line, got, reason, want, tt.code, tt.reason)
		}
	}
}

// Intended differences; docs/differences.md has the reasons.
func TestDifferences(t *testing.T) {
	tw := twins(t)
	wrong := func(arg, why string) string {
		return "nfct v: Wrong timeout: `" + arg + "' for state `replied': " + why + "\n"
	}
	longest := strconv.FormatUint(uint64(longestTimeout()), 10)
	long := strings.Repeat("n", 32)
	tooLong := "not between 0 and " + longest + " seconds"
	for _, tt := range []struct {
		line   string
		stderr string
	}{
		{"add timeout x inet udp replied abc", wrong("abc", "not a number of seconds")},
		{"add timeout x inet udp replied ''", wrong("", "not a number of seconds")},
		{"add timeout x inet udp replied 0x10", wrong("0x10", "not a number of seconds")},
		{"add timeout x inet udp replied 5m", wrong("5m", "not a number of seconds")},
		{"add timeout x inet udp replied -1", wrong("-1", tooLong)},
		{"add timeout x inet udp replied 4294967295", wrong("4294967295", tooLong)},
		{"add timeout x inet udp replied 99999999999", wrong("99999999999", tooLong)},
		{"default-set timeout inet udp replied never", wrong("never", "not a number of seconds")},
		{"add timeout x inet mptcp", "nfct v: unknown layer 4 protocol\n"},
		{"default-get timeout inet mptcp", "nfct v: unknown layer 4 protocol\n"},
		{"default-get timeout inet udp and more words", "nfct v: too many arguments\n"},
		{"list version x", "nfct v: too many arguments\n"},
		{"add helper ftp inet tcp x", "nfct v: too many arguments\n"},
		{"disable helper ftp inet tcp x", "nfct v: too many arguments\n"},
		{"add timeout " + long + " inet udp replied 5", "nfct v: name `" + long + "' is longer than 31 bytes\n"},
		{"get timeout " + long, "nfct v: name `" + long + "' is longer than 31 bytes\n"},
		{"delete timeout " + long, "nfct v: name `" + long + "' is longer than 31 bytes\n"},
		{"delete helper ftpftpftpftpftpf", "nfct v: name `ftpftpftpftpftpf' is longer than 15 bytes\n"},
		{"get helper ftpftpftpftpftpf inet tcp", "nfct v: name `ftpftpftpftpftpf' is longer than 15 bytes\n"},
		{"'' ''", "nfct v: Unknown subsystem: \nUsage: nfct command subsystem [parameters]...\n"},
		{"flush ''", "nfct v: Unknown subsystem: flush\nUsage: nfct command subsystem [parameters]...\n"},
		{"timeout ''", "nfct v: Unknown command: timeout\nUsage: nfct command subsystem [parameters]...\n"},
		{"get timeout x -o xml", "nfct v: unknown output format `xml', there is only json\n"},
		{"-o json flush timeout", "nfct v: -o goes with list, get and default-get\n"},
	} {
		theirs, ours := tw.Run("", "nfct", words(tt.line)...)
		theirs, _ = comparable(theirs)
		got, _ := comparable(ours)
		if want := (netnstest.Result{Stderr: tt.stderr, Code: 1}); got != want || got == theirs {
			t.Errorf("nfct %s: %+v, want %+v; theirs %+v", tt.line, got, want, theirs)
		}
		if list := tw.Ours.Must(netnstest.Peer(t, "nfct"), "list", "timeout"); list != "" {
			t.Errorf("nfct %s left %s", tt.line, list)
		}
	}

	// The longest timeout that is taken is one that the kernel keeps.
	tw = twins(t) // Debian's nfct has set a default to 0 above
	for seconds, shown := range map[string]string{longest: longest, "0": "0", "00012": "12", " 7": "7"} {
		parity(t, tw, "add", "timeout", "long", "inet", "udp", "replied", seconds)
		if r, _ := parity(t, tw, "get", "timeout", "long"); !strings.Contains(r.Stdout, ".REPLIED = "+shown+",\n") {
			t.Errorf("%q seconds became %s", seconds, r.Stdout)
		}
		tw.Each(func(ns *netnstest.NS) { ns.Must(netnstest.Peer(t, "nfct"), "flush", "timeout") })
	}

	// Output that cannot be written is an error.
	r := tw.Ours.Run("", "sh", "-c", "exec "+netnstest.Applet(t, "nfct")+" default-get timeout inet udp >/dev/full")
	if r.Code != 1 || !strings.HasSuffix(r.Stderr, ": No space left on device\n") {
		t.Errorf("on a full device: %+v", r)
	}
	// Names of protocols are known without the file of them.
	r = tw.Ours.Run("", "strace", "-f", "-o", "/dev/null", "-P", "/etc/protocols", "-e", "inject=openat:error=ENOENT",
		netnstest.Applet(t, "nfct"), "default-get", "timeout", "inet", "udp")
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "\t.l3proto = 2,\n\t.l4proto = 17,\n") {
		t.Errorf("without protocols(5): %+v", r)
	}
}
