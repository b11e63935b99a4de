package conntrack

import (
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// matrixText is the table of commands and options as it was probed on
// conntrack-tools: M mandatory, o optional, . refused, 3 one of two pairs, ~
// never refused, D refused by us (row A16). It does not come from the table in the code.
const matrixText = `
                s d r q p t u z e [ ] { } a m i f n g o c b j w l < > ( ) M
-L              o o o o o . o o . . . o o ~ o . o o o o o . o o o . . o o o
-L dying        o o o o o . o o . . . o o ~ o . o o o o o . o o o . . o o o
-L unconfirmed  o o o o o . o o . . . o o ~ o . o o o o o . o o o . . o o o
-I              3 3 3 3 M M o . . . . . . ~ o . . o o . . . . o . o . o o .
-A              3 3 3 3 M M o . . . . . . ~ o . . o o . . . . o . o . o o .
-U              o o o o o o o . . . . o o D o o o o o o . . . . o o o . . o
-D              o o o o o o o . . . . o o D o o o o o o . . . o o . . o o o
-G              3 3 3 3 M . . . . . . . . ~ . o . . . o . . . . o . . . . .
-F              . . . . . . . . . . . . . ~ . . o . . . . . . . . . . . . .
-E              o o o o o . . . o . . o o ~ o . o o o o o o o o o . . o o o
-V              . . . . . . . . . . . . . ~ . . . . . . . . . . . . . . . .
-C              . . . . . . . . . . . . . ~ . . . . . . . . . . . . . . . .
-S              . . . . . . . . . . . . . ~ . . . . . . . . . . . . . . . .
-h              . . . . o . . . . . . . . ~ . . . . . . . . . . . . . . . .
-L expect       . . . . . . . . . . . . . ~ . . o . . o . . . . . . . . . .
-I expect       M M o o M M o . . M M M M ~ . . . . . . . . . . . . . . . .
-D expect       M M o o M . . . . . . . . ~ . . . . . . . . . . . . . . . .
-G expect       M M o o M . . . . . . . . ~ . . . . . . . . . . . . . . . .
-E expect       . . . . . . . . . . . . . ~ . . . . . o . . . . . . . . . .
-F expect       . . . . . . . . . . . . . ~ . . . . . . . . . . . . . . . .
-C expect       . . . . . . . . . . . . . ~ . . . . . . . . . . . . . . . .
-S expect       . . . . . . . . . . . . . ~ . . . . . . . . . . . . . . . .
`

// matrixOptions has the options of the table's head: how to give one, and what
// messages call it.
var matrixOptions = map[string]struct{ give, name string }{
	"s": {"-s 192.0.2.1", "src"}, "d": {"-d 192.0.2.2", "dst"},
	"r": {"-r 192.0.2.2", "reply-src"}, "q": {"-q 192.0.2.1", "reply-dst"},
	"p": {"-p 200", "protonum"}, "t": {"-t 5", "timeout"}, "u": {"-u ASSURED", "status"},
	"z": {"-z", "zero"}, "e": {"-e NEW", "event-mask"},
	"[": {"-[ 192.0.2.3", "tuple-src"}, "]": {"-] 192.0.2.4", "tuple-dst"},
	"{": {"-{ 255.255.255.0", "mask-src"}, "}": {"-} 255.255.255.0", "mask-dst"},
	"a": {"-a x", "nat-range"}, "m": {"-m 5", "mark"}, "i": {"-i 5", "id"}, "f": {"-f ipv4", "family"},
	"n": {"-n", "src-nat"}, "g": {"-g", "dst-nat"}, "o": {"-o id", "output"}, "c": {"-c 5", "secmark"},
	"b": {"-b 65536", "buffer-size"}, "j": {"-j", "any-nat"}, "w": {"-w 5", "zone"},
	"l": {"-l one", "label"}, "<": {"--label-add one", "label-add"}, ">": {"--label-del", "label-del"},
	"(": {"-( 5", "orig-zone"}, ")": {"-) 5", "reply-zone"}, "M": {"-M /dev/null", "labelmap"},
}

// ignoredFilter is the error for -a, which conntrack-tools ignores with a warning.
const ignoredFilter = "`--nat-range' is no filter: use --src-nat or --dst-nat"

// matrixCase is a line that the matrix decides about.
type matrixCase struct{ line, want string }

// matrixCases makes the lines: each row's command with all that it must have,
// then with each other option added, or with one that is mandatory missing.
func matrixCases(t *testing.T) (cases []matrixCase) {
	t.Helper()
	rows := strings.Split(strings.TrimSpace(matrixText), "\n")
	head := strings.Fields(rows[0])
	for _, row := range rows[1:] {
		command, cells := strings.TrimSpace(row[:16]), strings.Fields(row[16:])
		if len(cells) != len(head) {
			t.Fatalf("%s: %d cells", command, len(cells))
		}
		base := func(without string) string {
			line := command
			for i, h := range head {
				// Of the pairs, the first will do.
				if (cells[i] == "M" || cells[i] == "3" && i < 2) && h != without {
					line += " " + matrixOptions[h].give
				}
			}
			return line
		}
		for i, h := range head {
			o := matrixOptions[h]
			switch cells[i] {
			case "M":
				cases = append(cases, matrixCase{base(h), "You need to supply the `--" + o.name + "' option for this command"})
			case "3":
				if i < 2 {
					cases = append(cases, matrixCase{base(h), "you have to specify `--src' and `--dst'"})
				} else {
					cases = append(cases, matrixCase{base("") + " " + o.give, accepted})
				}
			case "D":
				cases = append(cases, matrixCase{base("") + " " + o.give, ignoredFilter})
			case ".":
				cases = append(cases, matrixCase{base("") + " " + o.give, "Illegal option `--" + o.name + "' with this command"})
			default:
				line := base("") + " " + o.give
				if cells[0] == "o" && (h == "{" || h == "}") {
					line += " -s 192.0.2.1 -d 192.0.2.2" // masks need their address
				}
				cases = append(cases, matrixCase{line, accepted})
			}
		}
	}
	return cases
}

func TestMatrix(t *testing.T) {
	cases := matrixCases(t)
	if len(cases) != 22*30 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		p, _ := testParser(t)
		_, text, status := parseLine(t, p, c.line)
		if text != c.want || c.want != accepted && status != exitUsage {
			t.Errorf("%s: %q, status %d; want %q", c.line, text, status, c.want)
		}
	}
}

// TestMatrixParity has the peer decide the same cases. What it accepts it would carry
// out, so only refusals are asked for; 1.4.7 has no --labelmap and reads labels before it
// looks at the rules.
func TestMatrixParity(t *testing.T) {
	ns := netnstest.New(t, "matrix")
	for _, c := range matrixCases(t) {
		if c.want == accepted || c.want == ignoredFilter ||
			strings.Contains(c.line, "one") || netnstest.PeerInstalled() && strings.Contains(c.line, "-M ") {
			continue
		}
		argv := words(c.line)
		theirs := ns.Peer("", argv[0], argv[1:]...)
		_, message, _ := strings.Cut(theirs.Stderr, peerPrefix())
		message, _, _ = strings.Cut(message, "\n")
		if message != c.want || theirs.Code != exitUsage {
			t.Errorf("%s: the peer says %q, status %d; the matrix %q", c.line, theirs.Stderr, theirs.Code, c.want)
		}
	}
}

// protocolMatrixText is the same for the options of protocols. The columns are
// the commands' kinds: -L -D -E, -U, -I -A, -G, -I expect, -D expect -G expect.
const protocolMatrixText = `
tcp
--sport          o o 3 3 M M
--dport          o o 3 3 M M
--reply-port-src o o 3 3 . M
--reply-port-dst o o 3 3 . M
--mask-port-src  . . . . M .
--mask-port-dst  . . . . M .
--state          o o M o . .
--tuple-port-src . . . . M .
--tuple-port-dst . . . . M .
udp
--sport          o o 3 3 M M
--dport          o o 3 3 M M
--reply-port-src o o 3 3 . M
--reply-port-dst o o 3 3 . M
--mask-port-src  . . . . M .
--mask-port-dst  . . . . M .
--tuple-port-src . . . . M .
--tuple-port-dst . . . . M .
udplite
--sport          o o 3 3 M M
--dport          o o 3 3 M M
--reply-port-src o o 3 3 . M
--reply-port-dst o o 3 3 . M
--mask-port-src  . . . . M .
--mask-port-dst  . . . . M .
--tuple-port-src . . . . M .
--tuple-port-dst . . . . M .
sctp
--sport          o o 3 3 M M
--dport          o o 3 3 M M
--reply-port-src o o 3 3 . M
--reply-port-dst o o 3 3 . M
--mask-port-src  . . . . M .
--mask-port-dst  . . . . M .
--state          o o M o . .
--tuple-port-src . . . . M .
--tuple-port-dst . . . . M .
--orig-vtag      . o M o M .
--reply-vtag     . o M o M .
dccp
--sport          o o 3 3 M M
--dport          o o 3 3 M M
--reply-port-src o o 3 3 . M
--reply-port-dst o o 3 3 . M
--mask-port-src  . . . . M .
--mask-port-dst  . . . . M .
--state          o o M o . .
--tuple-port-src . . . . M .
--tuple-port-dst . . . . M .
--role           . . M . M .
gre
--srckey         o o 3 3 M M
--dstkey         o o 3 3 M M
--reply-key-src  o o 3 3 M M
--reply-key-dst  o o 3 3 M M
--mask-key-src   . . . . M .
--mask-key-dst   . . . . M .
--tuple-key-src  . . . . M .
--tuple-key-dst  . . . . M .
icmp
--icmp-type      o o M M . .
--icmp-code      o o M M . .
--icmp-id        o o o o . .
icmpv6
--icmpv6-type    o o M M . .
--icmpv6-code    o o M M . .
--icmpv6-id      o o o o . .
`

// protocolColumns are commands of each column, with what the generic matrix
// asks of them but for -p.
var protocolColumns = [][]string{
	{"-L", "-D", "-E", "-L dying"},
	{"-U"},
	{"-I -s 192.0.2.1 -d 192.0.2.2 -t 5", "-A -s 192.0.2.1 -d 192.0.2.2 -t 5"},
	{"-G -s 192.0.2.1 -d 192.0.2.2"},
	{"-I expect -s 192.0.2.1 -d 192.0.2.2 -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.4/24"},
	{"-D expect -s 192.0.2.1 -d 192.0.2.2", "-G expect -s 192.0.2.1 -d 192.0.2.2"},
}

var firstPairMessages = map[string]string{"gre": "you have to specify `--srckey' and `--dstkey'"}

func protocolCases() (cases []matrixCase) {
	type row struct {
		option string
		cells  []string
	}
	table := map[string][]row{}
	var order []string
	for line := range strings.Lines(strings.TrimSpace(protocolMatrixText)) {
		if f := strings.Fields(line); len(f) == 1 {
			order = append(order, f[0])
		} else {
			proto := order[len(order)-1]
			table[proto] = append(table[proto], row{f[0], f[1:]})
		}
	}
	value := func(option string) string {
		switch option {
		case "--state":
			return option + " NONE"
		case "--role":
			return option + " server"
		}
		return option + " 1"
	}
	for _, proto := range order {
		for column, commands := range protocolColumns {
			for _, command := range commands {
				base := func(without string) string {
					line := command + " -p " + proto
					for i, r := range table[proto] {
						if (r.cells[column] == "M" || r.cells[column] == "3" && i < 2) && r.option != without {
							line += " " + value(r.option)
						}
					}
					return line
				}
				for i, r := range table[proto] {
					line, want := base("")+" "+value(r.option), accepted
					switch r.cells[column] {
					case "M":
						line, want = base(r.option), "You need to supply the `"+r.option+"' option for this command"
					case ".":
						want = "Illegal option `" + r.option + "' with this command"
					case "3":
						if i < 2 {
							line, want = base(r.option), "you have to specify `--sport' and `--dport'"
							if m, ok := firstPairMessages[proto]; ok {
								want = m
							}
						}
					}
					cases = append(cases, matrixCase{line, want})
				}
			}
		}
	}
	return cases
}

func TestProtocolMatrix(t *testing.T) {
	for _, c := range protocolCases() {
		p, _ := testParser(t)
		_, text, status := parseLine(t, p, c.line)
		if text != c.want || c.want != accepted && status != exitUsage {
			t.Errorf("%s: %q, status %d; want %q", c.line, text, status, c.want)
		}
	}
}

func TestProtocolMatrixParity(t *testing.T) {
	ns := netnstest.New(t, "protomatrix")
	for _, c := range protocolCases() {
		if c.want == accepted {
			continue
		}
		argv := words(c.line)
		theirs := ns.Peer("", argv[0], argv[1:]...)
		_, message, _ := strings.Cut(theirs.Stderr, peerPrefix())
		message, _, _ = strings.Cut(message, "\n")
		if message != c.want || theirs.Code != exitUsage {
			t.Errorf("%s: the peer says %q, status %d; the matrix %q", c.line, theirs.Stderr, theirs.Code, c.want)
		}
	}
}

// TestHelpTakesEveryProtocolOption: with -h the protocols' rules do not count.
func TestHelpTakesEveryProtocolOption(t *testing.T) {
	for _, line := range []string{"-h -p tcp --mask-port-src 1", "-h -p sctp --orig-vtag 1", "-h -p gre --tuple-key-dst 1"} {
		p, _ := testParser(t)
		if _, text, _ := parseLine(t, p, line); text != accepted {
			t.Errorf("%s: %s", line, text)
		}
	}
}
