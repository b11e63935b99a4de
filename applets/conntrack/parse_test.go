package conntrack

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/applets/internal/getopt"
	"ctbox/internal/netnstest"
)

// words splits a test's command line: blanks separate words, single quotes group.
func words(line string) []string {
	argv := []string{"conntrack"}
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		var word string
		if line[0] == '\'' {
			word, line, _ = strings.Cut(line[1:], "'")
		} else {
			word, line, _ = strings.Cut(line, " ")
		}
		argv = append(argv, word)
	}
	return argv
}

// labelFile has the labels that tests name.
const labelFile = "# labels\n1 one\n2 two\n40 forty\n127 last\n128 beyond\n1023 far beyond\n"

// testParser returns a parser whose label file is labelFile's text, and what
// it warns of.
func testParser(t testing.TB) (*Parser, *strings.Builder) {
	t.Helper()
	var warnings strings.Builder
	p := NewParser(&warnings, false)
	p.LabelFile = filepath.Join(t.TempDir(), "connlabel.conf")
	if err := os.WriteFile(p.LabelFile, []byte(labelFile), 0o644); err != nil {
		t.Fatal(err)
	}
	return p, &warnings
}

// parseLine parses a line; text and status are "" and 0 when it is right.
func parseLine(t testing.TB, p *Parser, line string) (c Command, text string, status int) {
	t.Helper()
	err := p.Parse(words(line), &c)
	if err == nil {
		return c, "", exitOK
	}
	var bad *UsageError
	if !errors.As(err, &bad) {
		t.Fatalf("%s: error %T", line, err)
	}
	return c, bad.Text, bad.Status
}

// accepted is the message of a line that is accepted.
const accepted = ""

// TestMessages has every message about the command line of conntrack-tools 1.4.9 that
// 1.4.7, the second peer of the parity test, lacks or words otherwise, and ctbox's own.
func TestMessages(t *testing.T) {
	for _, c := range []struct {
		line, text string
		status     int
	}{
		// Numbers are checked since 1.4.9; arguments_test.go has those that it does not check.
		{"-L -w 10", accepted, 0},
		{"-L -w 0x10", accepted, 0},
		{"-L -w 010", accepted, 0},
		{"-L -w +5", accepted, 0},
		{"-L -w ' 5'", accepted, 0},
		{"-L -w 65535", accepted, 0},
		{"-L -w 65536", "unexpected value '65536' with -w option", 2},
		{"-L -w -1", "unexpected value '-1' with -w option", 2},
		{"-L -w x", "unexpected value 'x' with -w option", 2},
		{"-L -w 5x", "unexpected value '5x' with -w option", 2},
		{"-L -w ''", "unexpected value '' with -w option", 2},
		{"-L --orig-zone x", "unexpected value 'x' with -( option", 2},
		{"-L --reply-zone x", "unexpected value 'x' with -) option", 2},
		{"-D -i 4294967296", "unexpected value '4294967296' with -i option", 2},
		{"-D --id x", "unexpected value 'x' with -i option", 2},
		{"-L -c x", "unexpected value 'x' with -c option", 2},
		{"-L -m 5", accepted, 0},
		{"-L -m 5/0xff", accepted, 0},
		{"-L -m /5", "unexpected value '/5' with -m option", 2},
		{"-L -m 5x", "unexpected value '5x' with -m option", 2},
		{"-L -m 5/x", "unexpected value '5/x' with -m option", 2},
		{"-L -m 5/5/5", "unexpected value '5/5/5' with -m option", 2},
		{"-L -m -1", "unexpected value '-1' with -m option", 2},
		{"-L -m 4294967296", "unexpected value '4294967296' with -m option", 2},
		{"-L -m ''", "unexpected value '' with -m option", 2},
		// Short commands take no argument since 1.4.8.
		{"-Lexpect", "Bad parameter `xpect'", 2},
		{"-Lx", "unknown option `-Lx'", 2},
		{"-Lxo", "unknown option `conntrack'", 2},
		{"-zLo id", accepted, 0},
		{"-D --id", "option `--id' requires an argument", 2},
		// Labels, with names of a file.
		{"-L -l one", accepted, 0},
		{"-L -l one,two", accepted, 0},
		{"-L -l nix", "unknown label 'nix'", 2},
		{"-L -l one,", "unknown label ''", 2},
		{"-L -l ONE", "unknown label 'ONE'", 2},
		{"-U --label-add one --label-del", "cannot use --label-add and --label-del at the same time", 1},
		{"-U --label-del --label-add nix", "cannot use --label-add and --label-del at the same time", 1},
		{"-L -M a --labelmap b", "option `--labelmap' can only be specified once", 2},
		{"-L -M '' -M ''", "option `--labelmap' can only be specified once", 2},
		{"-I -M a", "You need to supply the `--protonum' option for this command", 2},
		// conntrack-tools dies of a wrong SCTP state.
		{"-L -p sctp --state LISTEN", "unknown SCTP state `LISTEN'", 2},
		{"-L -p sctp --state HEARTBEAT_SENT", "unknown SCTP state `HEARTBEAT_SENT'", 2},
		// Attached arguments count.
		{"-L -n192.0.2.1", accepted, 0},
		{"-L --src-nat=x", "Invalid IP address `x'", 2},
		{"-L --src-nat=", "Invalid IP address `'", 2},
		{"-L -n192.0.2.1 -f ipv6", "mismatched address family", 2},
		{"-L -f ipv6 --any-nat=192.0.2.1", "mismatched address family", 2},
		{"-U --label-del=nix", "unknown label 'nix'", 2},
		{"--dump=zzz", "unknown type `zzz'", 2},
		{"-Czzz", "unknown type `zzz'", 2},
		// An option of a protocol that a later -p replaced.
		{"-L -p tcp -p udp --state NONE", "Illegal option `--state' with this command", 2},
		{"-L -p tcp --state NONE -p udp", "Illegal option `--state' with this command", 2},
		{"-L -p tcp --sport 1 -p icmp", "Illegal option `--sport' with this command", 2},
		{"-L -p tcp --sport 1 -p udp", accepted, 0},
		// Masks without an address on all the tables that can be filtered.
		{"-L dying --mask-src 192.0.2.1", "Can't use --mask-src without --src", 2},
		// Options of ours.
		{"-L -o json", accepted, 0},
		{"-L -o j", accepted, 0},
		{"-E -o json,id,timestamp,ktimestamp,labels,extended,userspace", accepted, 0},
		{"-L -o json,xml", "cannot combine json output with xml output", 1},
		{"-L -o json -o save", "cannot combine save output with any other output type, use -o save only", 1},
		{"-E --queue-size 1048576", accepted, 0},
		{"-E expect --queue-size 1048576", accepted, 0},
		{"-E --queue-size 0", "unexpected value '0' with --queue-size option", 2},
		{"-E --queue-size 1M", "unexpected value '1M' with --queue-size option", 2},
		{"--top", accepted, 0},
		{"--top=conntrack -p tcp --dport 80 -s 192.0.2.0/24 -w 3 -m 1/3 -u ASSURED", accepted, 0},
		{"--top conntrack -o json --refresh 0.5 --key port,bytes", accepted, 0},
		{"--top --refresh 0.125 --key pr", accepted, 0},
		{"--top -z", "Illegal option `--zero' with this command", 2},
		{"--top -o xml", "Illegal option `--output' with this command", 2},
		{"--top -e NEW", "Illegal option `--event-mask' with this command", 2},
		{"--top -t 5", "Illegal option `--timeout' with this command", 2},
		{"--top -L", "Invalid commands combination", 2},
		{"--top expect", "Can't do --top on expectations", 2},
		{"--top dying", "Can't do that command with tables `dying' and `unconfirmed'", 2},
		{"--top --refresh 0", "unexpected value '0' with --refresh option", 2},
		{"--top --refresh 0.05", "unexpected value '0.05' with --refresh option", 2},
		{"--top --refresh 1.2345", "unexpected value '1.2345' with --refresh option", 2},
		{"--top --refresh .", "unexpected value '.' with --refresh option", 2},
		{"--top --refresh -1", "unexpected value '-1' with --refresh option", 2},
		{"--top --key size", "unexpected value 'size' with --key option", 2},
		{"--top --key port,", "unexpected value 'port,' with --key option", 2},
		{"-L --refresh 1", "Illegal option `--refresh' with this command", 2},
		{"-L --key port", "Illegal option `--key' with this command", 2},
		{"-L --queue-size 1", "Illegal option `--queue-size' with this command", 2},
		// What every option does without a command.
		{"-n", "Illegal option `--src-nat' with this command", 2},
		{"-o id", "Illegal option `--output' with this command", 2},
		{"-a x", accepted, 0},
	} {
		p, _ := testParser(t)
		if _, text, status := parseLine(t, p, c.line); text != c.text || status != c.status {
			t.Errorf("%s: %q, status %d; want %q, %d", c.line, text, status, c.text, c.status)
		}
	}
}

// TestAbbreviations checks the abbreviations that 1.4.9 accepts: no option of ctbox's own
// may make one ambiguous.
func TestAbbreviations(t *testing.T) {
	for _, line := range []string{
		"--count", "--co", "--dum", "--du expect", "--cr -h", "--de", "--g -h", "--fl", "--ad -h", "--up",
		"--stats", "--v", "--h", "-L --b 1 -h", "-L --out id", "-L --p tcp", "-L --proto tcp",
		"-L --fa ipv4", "-L --mar 1", "-L --sec 1", "-L --src-n", "-L --dst-n", "-L --an", "-L --orig-s 192.0.2.1", "-L --orig-d 192.0.2.1", "-L --orig-z 1", "-L --reply-s 192.0.2.1",
		"-L --reply-z 1", "-L --zo 1", "-L --labelm x", "-E --event- NEW", "-E --bu 1", "-U --label-a one",
		"-U --label-d one", "-U --ti 5", "-L --n x", "-D --i 5", "-L -p tcp --sp 1", "-L -p tcp --dp 1",
		"-L -p tcp --state NONE", "-L -p gre --srck 1", "-L -p icmp --icmp-t 8", "-L -p tcp --reply-port-s 1",
		"-L -p tcp --orig-port-d 1",
	} {
		p, _ := testParser(t)
		_, text, _ := parseLine(t, p, line)
		if strings.HasPrefix(text, "unknown option") {
			t.Errorf("%s: %s", line, text)
		}
	}
}

// TestAmbiguous checks prefixes that 1.4.9 refuses.
func TestAmbiguous(t *testing.T) {
	for _, line := range []string{
		"-L --sr 192.0.2.1", "-L --ma 1", "-L --d 1", "--c", "--f", "-L --z", "-L --re 1", "-L -p tcp --stat NONE",
		"--stat", "-L --label 1 --l x", "-L --e NEW", "-L -p tcp --orig-p 1", "-L --sport 1", "-L --s", "-L -R x",
		"-L --o id", "-L --ds 192.0.2.1", "-L --a", "-U --t 5",
	} {
		p, _ := testParser(t)
		_, text, status := parseLine(t, p, line)
		if !strings.HasPrefix(text, "unknown ") || status != exitUsage {
			t.Errorf("%s: %q, status %d", line, text, status)
		}
	}
}

// TestOwnOptionsKeepAbbreviations compares every prefix of every long option
// of 1.4.9 with and without the options that are ctbox's own.
func TestOwnOptionsKeepAbbreviations(t *testing.T) {
	var theirs []getopt.Option
	for _, o := range genericOptions() {
		ours := o.Code < codeCommand && options[o.Code].added() ||
			o.Code >= codeCommand && commands[o.Code-codeCommand].added()
		if !ours {
			theirs = append(theirs, o)
		}
	}
	old := getopt.New(theirs)
	find := func(set *getopt.Set, name string) int {
		var s getopt.Scanner
		s.Start(set, []string{"conntrack", "--" + name, "x"}, false)
		m, err := s.Next()
		if err != nil {
			return -2
		}
		return m.Code
	}
	for _, o := range theirs {
		for n := 1; n <= len(o.Long); n++ {
			if was, is := find(old, o.Long[:n]), find(genericSet, o.Long[:n]); was != is {
				t.Errorf("--%s: was %d, is %d", o.Long[:n], was, is)
			}
		}
	}
}

// No prefix of an option or command of ctbox's own has another meaning in conntrack-tools.
func TestOwnOptionsAreUnknownToThePeer(t *testing.T) {
	ns := netnstest.New(t, "prefixes")
	for _, o := range genericOptions() {
		for n := 1; o.Added && n <= len(o.Long); n++ {
			args := []string{"-E", "--" + o.Long[:n] + "=1", "-h"} // refused at the latest for its two commands
			if o.Kind == getopt.None {
				args[1] = "--" + o.Long[:n]
			}
			theirs := ns.Peer("", "conntrack", args...)
			if strings.Contains(theirs.Stderr, "unknown option") {
				continue
			}
			if ours := ns.Run("", netnstest.Applet(t, "conntrack"), args...); strings.ReplaceAll(ours.Stderr, messagePrefix, "") != strings.ReplaceAll(theirs.Stderr, peerPrefix(), "") || ours.Code != theirs.Code {
				t.Errorf("%q: %+v, the peer %+v", args, ours, theirs)
			}
		}
	}
}

// After the message about a wrong word comes a line with the words that are valid.
func TestHints(t *testing.T) {
	for line, want := range map[string]string{
		"-L -p tcp --state ESTABLISHD":      "did you mean ESTABLISHED? states of tcp: NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2.",
		"-L -p sctp --state HEARTBEAT_SENT": "states of sctp: NONE, CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT.",
		"-L -p dccp --state open":           "did you mean OPEN? states of dccp: NONE, REQUEST, RESPOND, PARTOPEN, OPEN, CLOSEREQ, CLOSING, TIMEWAIT, IGNORE, INVALID.",
		"-I -p dccp --role clinet":          "did you mean client? roles: client, server.",
		"-L -u ASURED":                      "did you mean ASSURED? words of -u, which a ! may precede: ASSURED, SEEN_REPLY, UNSET, FIXED_TIMEOUT, EXPECTED, OFFLOAD, HW_OFFLOAD, UNREPLIED.",
		"-L -u !X":                          "words of -u, which a ! may precede: ASSURED, SEEN_REPLY, UNSET, FIXED_TIMEOUT, EXPECTED, OFFLOAD, HW_OFFLOAD, UNREPLIED.",
		"-E -e NEW,DESTORY":                 "did you mean DESTROY? words of -e: ALL, NEW, UPDATES, DESTROY.",
		"-L -o jsno":                        "did you mean json? words of -o: xml, extended, timestamp, id, ktimestamp, labels, userspace, save, json.",
		"-L -f ipv5":                        "did you mean ipv4? families: ipv4, ipv6.",
		"-L -p tpc":                         "did you mean tcp? protocols: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre; a name of FILE, or a number.",
		"-L -p ospff":                       "did you mean ospf? protocols: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre; a name of FILE, or a number.",
		"-L dyign":                          "did you mean dying? tables: expect, conntrack, dying, unconfirmed.",
		"-L -l onee":                        "did you mean one?",
		"-L --dprot 5":                      "",
		"-L -p tcp --dprot=5":               "did you mean --dport?",
		"-L --ziro":                         "did you mean --zero?",
		"--top --key soruce":                "did you mean source? keys: source, destination, port, protocol, zone, mark, state, family.",
		"--top --key source,byte":           "",
		"--top --key source,bites":          "did you mean bytes? columns to sort by: flows, new, ended, packets, bytes.",
		"-L -s 1.2.3":                       "",
		"-L -X":                             "",
	} {
		p, _ := testParser(t)
		p.ProtocolsFile = filepath.Join(t.TempDir(), "protocols")
		if err := os.WriteFile(p.ProtocolsFile, []byte("ospf 89 OSPFIGP\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var cmd Command
		var bad *UsageError
		if err := p.Parse(words(line), &cmd); err != nil && !errors.As(err, &bad) {
			t.Fatal(err)
		}
		got := ""
		if bad != nil {
			got = strings.ReplaceAll(bad.Hint, p.ProtocolsFile, "FILE")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	ns := netnstest.New(t, "hints")
	const text = "Bad parameter `NEWS'\nTry `conntrack -h' or 'conntrack --help' for more information.\nHint: did you mean NEW? words of -e: ALL, NEW, UPDATES, DESTROY.\n"
	if r := run(t, ns, "-E -e NEWS"); r.status != 2 || r.stderr != messagePrefix+text || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

// TestPosix: with POSIXLY_CORRECT the first word ends the options.
func TestPosix(t *testing.T) {
	p, _ := testParser(t)
	p.Posix = true
	for _, c := range []struct{ line, want string }{
		{"foo -L", "unknown command `foo'"}, {"-L -z foo -q", "unexpected word `foo'"}, {"-L conn -z", accepted},
	} {
		if _, text, _ := parseLine(t, p, c.line); text != c.want {
			t.Errorf("%s: %q, want %q", c.line, text, c.want)
		}
	}
}

func TestParseWithoutProgram(t *testing.T) {
	p, _ := testParser(t)
	var cmd Command
	if err := p.Parse(nil, &cmd); err != nil || cmd.Op != OpNone {
		t.Errorf("command %d, %v", cmd.Op, err)
	}
}

func TestUsageErrorMessage(t *testing.T) {
	const program = "conntrack v1.4.9 (conntrack-tools): "
	const try = "Try `conntrack -h' or 'conntrack --help' for more information.\n"
	for _, c := range []struct {
		err  *UsageError
		want string
	}{
		{errUsage("x"), program + "x\n" + try},
		{errRefused("x"), program + "x\n"},
		{&UsageError{Text: "x", Status: exitUsage, File: "f", Line: 3}, program + "f:3: x\n" + try},
	} {
		if got := string(c.err.AppendMessage(nil)); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestLabelFileWarnings checks that an unreadable label file gets one warning, regardless
// of how many lines need it.
func TestLabelFileWarnings(t *testing.T) {
	p, warnings := testParser(t)
	for _, c := range []struct{ line, text, warning string }{
		{"-L -o labels -M /nonexistent", accepted, "nfct_labelmap_new: No such file or directory\n"},
		{"-L -M /nonexistent -l one", "unknown label 'one'", ""},
		{"-L -M /dev/null -l one", "unknown label 'one'", "nfct_labelmap_new: Success\n"},
		{"-L -M / -o labels", accepted, "nfct_labelmap_new: Is a directory\n"},
		{"-L -M /nonexistent2", accepted, ""},
		{"-L -l one", accepted, ""},
	} {
		warnings.Reset()
		if _, text, _ := parseLine(t, p, c.line); text != c.text || warnings.String() != c.warning {
			t.Errorf("%s: %q, warning %q", c.line, text, warnings.String())
		}
	}
}

// TestProtocolThatBeginsWithADigit checks that a name such as "3pc", which some systems
// have in protocols(5), is not read as a number.
func TestProtocolThatBeginsWithADigit(t *testing.T) {
	p := NewParser(io.Discard, false)
	p.ProtocolsFile = filepath.Join(t.TempDir(), "protocols")
	if err := os.WriteFile(p.ProtocolsFile, []byte("3pc 34 3PC\n6 35\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint8{"3pc": 34, "3PC": 34, "6": 6, "0x6": 6} {
		var c Command
		if err := p.Parse([]string{"conntrack", "-L", "-p", name}, &c); err != nil || c.Flow.Orig.Proto != want {
			t.Errorf("-p %s: %d, %v; want %d", name, c.Flow.Orig.Proto, err, want)
		}
	}
}
