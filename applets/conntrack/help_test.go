package conntrack

import (
	"strings"
	"testing"

	"ctbox/internal/version"
)

// TestHelpNamesEverything: no option is missing from the help, and its headings
// are those that conntrack-tools prints.
func TestHelpNamesEverything(t *testing.T) {
	for i := range protocols {
		help := string(AppendHelp(nil, "./x", protocols[i].name))
		wants := []string{
			"Command line interface for the connection tracking system. Version 1.4.9\n" +
				"Usage: ./x [commands] [options]\n\nCommands:\n",
			"\nTables: conntrack, expect, dying, unconfirmed\n",
			"\nConntrack parameters and options:\n", "\nExpectation parameters and options:\n",
			"\nUpdating parameters and options:\n", "\nCommon parameters and options:\n",
			"\nProto `" + protocols[i].name + "' help:\n", "  -R, --load-file FILE",
		}
		for _, o := range options {
			for _, long := range o.long {
				wants = append(wants, "--"+long)
			}
		}
		for _, c := range commands {
			wants = append(wants, "  "+spellings(c.short, c.long[:1]))
		}
		for _, o := range protocols[i].options {
			for _, long := range o.long {
				wants = append(wants, "--"+long)
			}
		}
		for _, w := range wants {
			if !strings.Contains(help, w) {
				t.Errorf("-h -p %s lacks %q", protocols[i].name, w)
			}
		}
	}
	if help := string(AppendHelp(nil, "x", unknownProtocol)); !strings.HasSuffix(help, "Proto `unknown' help:\n  no options (unsupported)\n\n") {
		t.Errorf("help of a protocol without options ends with %q", help[max(0, len(help)-80):])
	}
	if strings.Contains(string(AppendHelp(nil, "x", "")), "Proto `") {
		t.Error("a protocol's help without -p")
	}
}

// -V begins as conntrack-tools' does: puppet, ansible and the like read the number.
func TestVersion(t *testing.T) {
	if got, want := string(AppendVersion(nil)), "conntrack v1.4.9 (conntrack-tools), ctbox v"+version.Number+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestTables checks what the tables' readers rely on.
func TestTables(t *testing.T) {
	for i, o := range options {
		if o.bit != 1<<i {
			t.Errorf("%s is not at its bit", o.name)
		}
		if n := len(strings.ReplaceAll(o.rules, " ", "")); n != columnsWritten {
			t.Errorf("%s has %d rules", o.name, n)
		}
	}
	for _, p := range protocols {
		if len(p.options) > protoStride {
			t.Errorf("%s has %d options", p.name, len(p.options))
		}
		for _, o := range p.options {
			if len(o.rules) != protoColumns {
				t.Errorf("%s %s has %d rules", p.name, o.long[0], len(o.rules))
			}
		}
	}
}
