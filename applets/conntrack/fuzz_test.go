package conntrack

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// seedParity gives the parity test's lines to a fuzzer.
func seedParity(add func(line string)) {
	for line := range strings.Lines(parityLines) {
		add(strings.TrimSpace(line))
	}
}

// FuzzArgv parses elements separated by NUL. Whatever they are, the result is
// a command or a message with a status, the same a second time, and a command
// that changes or deletes has passed the rules.
func FuzzArgv(f *testing.F) {
	seedParity(func(line string) { f.Add(strings.Join(words(line)[1:], "\x00"), false) })
	for _, line := range saveLines {
		f.Add(strings.ReplaceAll(line, " ", "\x00"), true)
	}
	p := NewParser(&strings.Builder{}, false)
	p.LabelFile = "/dev/null"
	f.Fuzz(func(t *testing.T, line string, posix bool) {
		if strings.Contains(line, "-M") || strings.Contains(line, "--labelm") {
			return // would open files of any name
		}
		p.Posix = posix
		argv := append([]string{"conntrack"}, strings.Split(line, "\x00")...)
		var first, second Command
		err := p.Parse(argv, &first)
		again := p.Parse(argv, &second)
		var bad *UsageError
		switch {
		case err != nil && (!errors.As(err, &bad) || bad.Status != exitFailed && bad.Status != exitUsage):
			t.Fatalf("%q: %v", argv, err)
		case (err == nil) != (again == nil) || err != nil && err.Error() != again.Error():
			t.Fatalf("%q: %v, then %v", argv, err, again)
		case err == nil:
			if diff := cmp.Diff(first, second); diff != "" {
				t.Fatalf("%q: the second time (-first +second):\n%s", argv, diff)
			}
			checkInvariants(t, &first)
		}
	})
}

// checkInvariants checks what the execution of commands relies on.
func checkInvariants(t *testing.T, c *Command) {
	t.Helper()
	switch {
	case c.Table == TableExpect && (c.Op == OpAdd || c.Op == OpUpdate),
		(c.Table == TableDying || c.Table == TableUnconfirmed) && c.Op != OpList:
		t.Fatalf("command %d on table %d", c.Op, c.Table)
	case c.Has(OptMaskSrc) && c.Flow.Orig.Has&ctnetlink.TupleSrc == 0 && c.Table == TableConntrack && c.Op == OpDelete:
		t.Fatal("a mask without an address")
	case (c.Op == OpCreate || c.Op == OpAdd) && c.Table == TableConntrack &&
		(c.Flow.Orig.Has&ctnetlink.TupleAddrs != ctnetlink.TupleAddrs || c.Flow.Reply.Has&ctnetlink.TupleAddrs != ctnetlink.TupleAddrs ||
			c.Flow.Orig.Family != c.Family || c.Flow.Reply.Proto != c.Flow.Orig.Proto):
		t.Fatalf("a new flow of %+v and %+v", c.Flow.Orig, c.Flow.Reply)
	case c.Flow.Has&ctnetlink.HasStatusMask != 0 && c.Flow.Status&^c.Flow.StatusMask != 0:
		t.Fatalf("status %x outside its mask %x", c.Flow.Status, c.Flow.StatusMask)
	case c.Flow.Has&ctnetlink.HasMark == 0 && c.Has(OptMark):
		t.Fatal("a mark option without a mark")
	}
}

// FuzzLoadLine splits and parses lines of a load file. A line without quotes
// gives what the same words give as arguments.
func FuzzLoadLine(f *testing.F) {
	for _, line := range saveLines {
		f.Add(line)
	}
	for _, line := range []string{
		"-D -p \"ud\"\"p\"", "-D -p u\"dp\"", "-D -p \"u\\\\dp\"", "-D -p \"", "-D -p \"a\\", "\t-D  -p\tudp ", "# x", "-U -m 1",
	} {
		f.Add(line)
	}
	p := NewParser(&strings.Builder{}, false)
	p.LabelFile = "/dev/null"
	var split wordSplitter
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "-M") || strings.Contains(line, "--labelm") || strings.ContainsAny(line, "\n") {
			return
		}
		got, err := split.split("conntrack", []byte(line))
		if err != nil {
			return
		}
		if !strings.Contains(line, `"`) {
			want := strings.FieldsFunc("conntrack "+line, func(r rune) bool { return r == ' ' || r == '\t' })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%q: words (-want +got):\n%s", line, diff)
			}
		}
		var asLine, asArgv Command
		lineErr := p.parseLine(&split, "conntrack", []byte(line), &asLine)
		argvErr := p.parse(got, &asArgv)
		if argvErr == nil && lineErr == nil {
			if diff := cmp.Diff(asArgv, asLine); diff != "" {
				t.Fatalf("%q: as a line (-argv +line):\n%s", line, diff)
			}
			checkInvariants(t, &asLine)
		}
		if argvErr != nil && lineErr == nil {
			t.Fatalf("%q: right as a line, but %v", line, argvErr)
		}
	})
}

// FuzzLabelMap reads label files. Every name found leads back to its number.
func FuzzLabelMap(f *testing.F) {
	f.Add(labelFile)
	f.Add("10x name\n1 a b \n2\n3 \n-1 neg\n 4 four\n5 fi_ve\n6\tsix\n1 dup\n7 a b\n8 four\n0x10 hex\n0 zero\r\n1024 huge\n")
	f.Add("0 a\n#1 b\n\n1 b")
	f.Fuzz(func(t *testing.T, text string) {
		m := parseLabelMap([]byte(text))
		for bit, name := range m.names {
			if name == "" {
				continue
			}
			if got, ok := m.Bit(name); !ok || got != bit || !strings.Contains(text, name) {
				t.Fatalf("label %d is %q, which is label %d, %v", bit, name, got, ok)
			}
		}
	})
}

// FuzzAddr parses addresses with and without a length, and NAT arguments.
func FuzzAddr(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1", "1.1", "0x1.0x2", "192.0.2.1 junk", "192.0.2.1/24", "192.0.2.1/", "2001:db8::1/64", "::ffff:192.0.2.1",
		"192.0.2.1:80", "[2001:db8::1]:80", "[]:5", "]:5", ":5", "[2001:db8::1]x:5", "fe80::1%lo", "1:2:3:4:5:6:7::",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, family, ok := parseAddr(s)
		if ok && family == nl.FamilyIPv4 && addr4Tail(a) != ([12]byte{}) {
			t.Fatalf("%q: bytes behind the address %v", s, a)
		}
		if ok && family != nl.FamilyIPv4 && family != nl.FamilyIPv6 {
			t.Fatalf("%q: family %d", s, family)
		}
		var c Command
		p := NewParser(&strings.Builder{}, false)
		p.cmd = &c
		if a, prefix, err := p.addrArg(s, "src", true); err == nil {
			if prefix > addrBits(c.Family) || prefix < -1 {
				t.Fatalf("%q: %v/%d", s, a, prefix)
			}
			if m := prefixMask(max(prefix, 0)); prefix == 0 && m != (ctnetlink.Addr{}) {
				t.Fatalf("%q: mask %v", s, m)
			}
		}
		host, port, hasPort, err := splitNAT(s)
		if err == nil && hasPort && !strings.Contains(s, ":") {
			t.Fatalf("%q: host %q, port %q", s, host, port)
		}
	})
}

func addr4Tail(a ctnetlink.Addr) (tail [12]byte) {
	copy(tail[:], a[4:])
	return tail
}
