package conntrack

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// peerPrefix returns what begins the messages of the peer.
func peerPrefix() string {
	if netnstest.PeerInstalled() {
		return "conntrack v1.4.7 (conntrack-tools): "
	}
	return "conntrack v1.4.9 (conntrack-tools): "
}

// parityLines are command lines for which ctbox prints the same message and warnings as
// the peer, with the same exit status, or which both accept. No line waits for events.
const parityLines = `
-p tcp
-z
-l one
-p
-h
-h foo
-h -p zz
-h -p tcp --state NONE
-h -s 192.0.2.1
-V -p tcp
-V conn
-V dying
-h expect
-S foo
-S conn
-S -s 192.0.2.1
-S dying
-C conn
-C e
-C foo
-C -f ipv6
-C -p tcp
-C unconfirmed
-F -s 192.0.2.1
-F -f ipv6
-F dying
-F expect -f ipv4
-L -h
-L -L
-L -G
-L dying -G
-L -G foo
-G -U dying
-L -A expect
-L -S dying
-L -h foo
-h -L foo
-L dying
-L unconf -f ipv6
-I dying -l foo
-L --
-L e
-L exp
-L c
-L d
-L u
-L foo
-L expectation
foo -L bar
foo -L -s
-L -p
-L -s
-L -m
-L -w
-L -e
-L --proto
-L --zero=1
-L --stats=1
-L --=x
-L -:
-L -W
-L -R x
-R
--load-file
--load-file=/x
--sr
-L --sr 192.0.2.1
-L --ma 1
-L --src-n
-L --proto tcp --spo 1
-L --stat
-L -p tcp --stat
-L -p tcp --state
-L --d
--dum expect
--coun
--count foo
--cre
--g
--f
--fl
--he -s 192.0.2.1
-L --fa ipv4
-L --b 5
-A expect -s
-A expect
-U expect -z
-L -e NEW
-E -e foo
-E -e ''
-E -e NEW,foo,x -q
-E -e NEW,
-E -e S,foo
-E -u ASSURED
-E -t 5
-E -z
-L -u A,foo,B
-L -u A,
-L -u !
-L -u !UNREPLIED
-L -u !S -z -p tcp
-L -u !D,!dst_nat,!x
-L -u !SRC_NATx
-L -u unreplied
-L -u A,!foo,B
-L -u ''
-L -u assu,see,f,e,off,hw
-L -u !assured
-L -u D,foo
-L -u src_nat,foo
-L -o s
-L -o S,D
-L -o SRC_NATx
-L -o SRC_NA,x
-L -o xml,save
-L -o save -o id
-L -o save -o id -s
-L -o save,xm -o zz
-L -o SAVE
-L -o xml,ext,time,id,kt,user
-L -o !id
-L -a x
-L -a x -e NEW
-L -s ''
-L -s x
-L -s 192.0.2.1
-L -s 1
-L -s 1.1
-L -s 0x1.0x2
-L -s 0x01010101
-L -s 010.1
-L -s 08
-L -s 1.1.1.
-L -s 1.1.1.1.
-L -s 1.1.1.1.1
-L -s 256.1
-L -s 1.1.1.256
-L -s 1.16777215
-L -s 1.16777216
-L -s 4294967295
-L -s 4294967296
-L -s 99999999999999999999999
-L -s 0x
-L -s 0x.1
-L -s 0xg
-L -s ' 192.0.2.1'
-L -s [2001:db8::1]
-L -s fe80::1%lo
-L -s '2001:db8::1 '
-L -s ' 2001:db8::1'
-L -s ::ffff:192.0.2.1
-L -s ::01.2.3.4
-L -s 1:2:3:4:5:6:7::
-L -s ::2:3:4:5:6:7:8
-L -s 1::2:3:4:5:6:7:8
-L -s 1:2:3:4:5:6:7:8:9
-L -s 12345::
-L -s 1:2:3:4:5:6:1.2.3.4
-L -s :::
-L -s 192.0.2.1/24
-L -s 192.0.2.1/32
-L -s 192.0.2.1/33
-L -s 192.0.2.1/-1
-L -s '192.0.2.1/ +024'
-L -s '192.0.2.1/ '
-L -s 192.0.2.1/x
-L -s 192.0.2.1/8/8
-L -s 192.0.2.1/99999999999999999999
-L -s x/33
-L -s /24
-L -s 2001:db8::1/128
-L -s 2001:db8::1/129
-L -d 192.0.2.1/33
-L -r 192.0.2.1/33
-L -q 192.0.2.1/33
-L -r x/33
-L --mask-src 192.0.2.1/8 -s 192.0.2.1
-L -s 192.0.2.1 -d 2001:db8::1
-L -s 2001:db8::1 -r 192.0.2.1/33
-L -s 192.0.2.1 --mask-src 2001:db8::1
-L -f ipv4 -n 2001:db8::1
-L -n 192.0.2.1 -f ipv6
-L -j 192.0.2.1 -f ipv6
-L -n 192.0.2.1 -g 2001:db8::1
-L -f ipv4 -f ipv6
-L -f ipv4 -s 2001:db8::1
-L -s 2001:db8::1 -f ipv4
-L -f ipv
-L -f IPV4
-L -f ''
-L --mask-src 192.0.2.1
-L --mask-dst 192.0.2.1
-D --mask-src 192.0.2.1
-U --mask-dst 192.0.2.1
-L --mask-src 192.0.2.1 -z
-L --mask-src 192.0.2.1 -z -m 5
-L -n
-L -n -g
-L -n -z
-L -n 192.0.2.1/33
-L -g 192.0.2.1/8
-L -j 192.0.2.1/8
-L -n 192.0.2.1:5
-L -n 192.0.2.1:5/33
-L -n 192.0.2.1:
-L -n 192.0.2.1:x
-L -n 192.0.2.1:65535
-L -n 192.0.2.1:65536
-L -n 192.0.2.1:0000000000000000080
-L -n 192.0.2.1:+5
-L -n '192.0.2.1: 5'
-L -n :5
-L -n x:
-L -n x:y
-L -n 2001:db8::1
-L -n [2001:db8::1]:5
-L -n [2001:db8::1]
-L -n [2001:db8::1]:
-L -n [2001:db8::1]:5]:6
-L -n []
-L -n []:5
-L -n [2001:db8::1
-L -n [192.0.2.1]:5
-L -n [x]:5
-L -n ]:5
-L -n ''
-L -f ipv4 -n [2001:db8::1]:x
-L -j -n
-L -j -g
-L -j -n -t 5
-L -j -n -l foo
-L -j
-L -l ''
-L --label-add one
-L -p TCP
-L -p IGMP
-L -p igmp
-L -p Igmp
-L -p 0x6 --sport 1
-L -p 017 --sport 1
-L -p ' 17' --sport 1
-L -p '17 '
-L -p 6x
-L -p 255
-L -p 256
-L -p -10
-L -p 20foo
-L -p ''
-L -p tc
-L -p ipv6-icmp --icmpv6-type 1
-L -p ipv6-icmp
-L -p 58 --icmpv6-type 1
-L --sport 1 -p tcp
-L -p icmp --sport 1
-L -p udp --state NONE
-L -p tcp --sport
-L -p tcp --orig-port-src 1 --orig-port-dst 2
-L -p tcp --sport 080 --dport +65535 --reply-port-src ' 7' --reply-port-dst 0
-L -p gre --srckey 0x10 --dstkey 020 --reply-key-src 070000 --reply-key-dst 1
-I -s 192.0.2.1/0 -d 192.0.2.2 -p 200 -t 5
-I -s 192.0.2.1 -d 192.0.2.2 -p 200 -t +05 -q
-L -s '192.0.2.1 ' -d 192.0.2.1/024
-L -p dccp --role s
-L -p tcp -p udp --sport 5
-L -p udp -p tcp --state NONE
-L -p tcp --state foo
-L -p tcp --state established
-L -p tcp --state ''
-L -p tcp --state LISTEN
-L -p tcp --state SYN_SENT2
-L -p dccp --state foo
-L -p dccp --state OPEN
-L -p dccp --role foo
-L -p dccp --role C
-L -p dccp --role clientx
-L -p sctp --state COOKIE_WAIT
-L -p sctp --orig-vtag 5
-L -p tcp --mask-port-src 1
-L -p tcp --tuple-port-dst 1
-L -p gre --mask-key-src 1
-L -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 5
-L -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 5
-L -p icmpv6 --icmp-type 8
-L expect -p tcp
-L expect -o foo
-L expect -f ipv6
-E expect -e NEW
-E expect -f ipv4
-D expect
-D expect -s 192.0.2.1
-D expect -s 192.0.2.1 -d 192.0.2.2
-D expect -s 192.0.2.1 -d 192.0.2.2 -p tcp
-D expect -s 192.0.2.1 -d 192.0.2.2 -p tcp --sport 1 --dport 2
-D expect -s 192.0.2.1 -d 192.0.2.2 -p tcp --sport 1 --dport 2 --reply-port-src 1
-G expect -s 192.0.2.1 -d 192.0.2.2 -p gre --srckey 1
-G expect -s 192.0.2.1 -d 192.0.2.2 -p icmp --icmp-type 8
-I expect -t 5
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3 --tuple-dst 192.0.2.3 --mask-src 255.255.255.255
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3 --tuple-dst 192.0.2.3 --mask-src 255.255.255.255 --mask-dst 255.255.255.255
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --sport 1 --dport 2
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --sport 1 --dport 2 --mask-port-src 1 --mask-port-dst 1 --tuple-port-src 1
-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --sport 1 --dport 2 --mask-port-src 1 --mask-port-dst 1 --tuple-port-src 1 --state NONE
-I expect -s 192.0.2.1 -d 192.0.2.2 -p sctp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --sport 1 --dport 2 --mask-port-src 1 --mask-port-dst 1 --tuple-port-src 1 --tuple-port-dst 1
-I expect -s 192.0.2.1 -d 192.0.2.2 -p dccp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --sport 1 --dport 2 --mask-port-src 1 --mask-port-dst 1 --tuple-port-src 1 --tuple-port-dst 1
-I expect -s 192.0.2.1 -d 192.0.2.2 -p gre -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --srckey 1 --dstkey 2
-I expect -s 192.0.2.1/24 -d 192.0.2.2/32 -p icmp -t 5 --tuple-src 192.0.2.3 --tuple-dst 192.0.2.3
-I expect -s 192.0.2.1 -d 192.0.2.2 -p icmp -t 5 --tuple-src 192.0.2.3/24 --tuple-dst 192.0.2.3/24 --icmp-type 8
-I
-I -s 192.0.2.1 -d 192.0.2.2
-I -s 192.0.2.1 -d 192.0.2.2 -p tcp
-I -p tcp -t 4
-I -p tcp -t 4 --state NONE
-I -s 192.0.2.1 -p tcp -t 4 --state NONE
-I -s 192.0.2.1 -r 192.0.2.1 -p tcp -t 4 --state NONE
-I -r 192.0.2.1 -p tcp -t 4 --state NONE
-I -q 192.0.2.1 -p tcp -t 4 --state NONE
-I -r 192.0.2.1 -q 192.0.2.1 -p tcp -t 4
-I -r 192.0.2.1 -q 192.0.2.1 -p tcp -t 4 --state NONE
-I -r 192.0.2.1 -q 192.0.2.1 -p tcp -t 4 --state NONE --sport 1
-I -r 192.0.2.1 -q 192.0.2.1 -p tcp -t 4 --state NONE --reply-port-src 1
-I -r 192.0.2.1 -q 192.0.2.1 -p dccp -t 4 --state NONE --role client --reply-port-src 1
-I -r 192.0.2.1 -q 192.0.2.1 -p dccp -t 4 --state NONE
-I -r 192.0.2.1 -q 192.0.2.1 -p sctp -t 4 --state NONE
-I -r 192.0.2.1 -q 192.0.2.1 -p sctp -t 4 --state NONE --orig-vtag 1
-I -r 192.0.2.1 -q 192.0.2.1 -p sctp -t 4 --state NONE --orig-vtag 1 --reply-vtag 1 --reply-port-dst 1
-I -r 192.0.2.1 -q 192.0.2.1 -p gre -t 4
-I -r 192.0.2.1 -q 192.0.2.1 -p gre -t 4 --reply-key-src 1
-I -s 192.0.2.1/24 -d 192.0.2.2 -p tcp -t 4
-I -s 192.0.2.1 -d 192.0.2.2 -p icmp -t 4
-I -s 192.0.2.1 -d 192.0.2.2 -p icmp -t 4 --icmp-type 8
-I -s 192.0.2.1 -d 192.0.2.2 -p icmp -t 4 --icmp-code 8
-I -s 192.0.2.1 -d 192.0.2.2 -p 17 -t 5
-I -z -s 192.0.2.1 -d 192.0.2.2 -p 200 -t 5
-A -s 192.0.2.1 -d 192.0.2.2 -p udp -t 5 --sport 1
-G
-G -p tcp
-G -p tcp -s 192.0.2.1
-G -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1 --dport 2 -w 4
-G -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1
-G -s 192.0.2.1 -d 192.0.2.2 -p dccp --sport 1 --dport 2 --role client
-G -s 192.0.2.1 -d 192.0.2.2 -p icmp
-D -p tcp --sport 5 -t 5
-D -j
-D -c 5
-U -w 1
-U -p sctp --orig-vtag 1
-U -p dccp --role client
-L -z -s 192.0.2.1
-L -z -p tcp
-L -z -f ipv4
-L -z -i 5
-L -i 5
-L -t 5
-L -b 5
-L -[ 192.0.2.1
-L '-(4'
-L '-(' 4
-L --orig-zone 1 --reply-zone 2
`

// TestParity runs the peer's conntrack on command lines and compares its
// messages and exit status with ours.
func TestParity(t *testing.T) {
	ns := netnstest.New(t, "cli")
	for line := range strings.Lines(parityLines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		argv := words(line)
		theirs := ns.Peer("", argv[0], argv[1:]...)

		var warnings strings.Builder
		p := NewParser(&warnings, false)
		_, text, status := parseLine(t, p, line)
		want := theirs.Stderr
		if text == accepted {
			// What follows the warnings comes from carrying the command out.
			want = beforeMessage(want)
			if theirs.Code == exitUsage {
				t.Errorf("%s: accepted, but the peer says %s", line, theirs.Stderr)
			}
		} else if status != theirs.Code {
			t.Errorf("%s: status %d, want %d", line, status, theirs.Code)
		}
		got := warnings.String()
		if text != accepted {
			bad := &UsageError{Text: text, Status: status}
			got += strings.Replace(string(bad.AppendMessage(nil)), messagePrefix, peerPrefix(), 1)
		}
		if got != want {
			t.Errorf("%s:\ngot  %swant %s", line, got, want)
		}
	}
}

// beforeMessage returns the lines in front of the first message.
func beforeMessage(stderr string) string {
	warnings, _, _ := strings.Cut(stderr, peerPrefix())
	return warnings
}

// TestDifferencesAreListed checks that each difference that a script announces is a row
// of docs/differences.md, and that the ids of rows are unique.
func TestDifferencesAreListed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "differences.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z]+[0-9]+) \|`).FindAllStringSubmatch(string(text), -1) {
		if slices.Contains(rows, m[1]) {
			t.Errorf("docs/differences.md has two rows %s", m[1])
		}
		rows = append(rows, m[1])
	}
	paths, err := filepath.Glob(filepath.Join("testdata", "parity", "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		script, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(script)) {
			ids, differs := strings.CutPrefix(line, "! ")
			for _, id := range strings.Fields(ids) {
				if differs && !slices.Contains(rows, id) {
					t.Errorf("%s: docs/differences.md has no row %s", path, id)
				}
			}
		}
	}
}
