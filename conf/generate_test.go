package conf

import (
	"strings"
	"testing"

	"ctbox/internal/gen"
)

// TestGeneratedDocs checks that the reference, the man page and the list of clauses that
// conntrack-tools lacks match the grammar's table.
func TestGeneratedDocs(t *testing.T) {
	gen.File(t, "../docs/conntrackd.conf.md", appendReference(nil))
	gen.File(t, "../docs/man/conntrackd.conf.5", appendManPage(nil))
	gen.Section(t, "../docs/differences.md", "our clauses",
		"* Clauses of conntrackd.conf: "+gen.Names(ourClauses(&grammar, ""))+".\n")
}

// ourClauses returns the clauses of the block that conntrack-tools does not have, each
// with the blocks that it is in.
func ourClauses(b *block, in string) []string {
	var names []string
	for i := range b.clauses {
		c := &b.clauses[i]
		if c.ours {
			names = append(names, in+c.name)
		} else if n, ok := c.value.(nested); ok {
			for _, sub := range n.blocks() {
				names = append(names, ourClauses(sub, in+c.name+" ")...)
			}
		}
	}
	return names
}

const preamble = `# conntrackd.conf

<!-- Made from the grammar's table in conf/ by: make generate -->

The configuration of conntrackd, for the daemon and for the commands that speak
to it. A clause is a keyword and what follows it; some have a block of clauses in
braces. Blanks and line ends separate words, a number sign starts a comment, and
keywords are case-sensitive. There are no quotes: a path runs to the next blank.

` + "`on` and `off` may be `yes` and `no`, in any letter case." + ` Of a clause that is
given twice the last one counts, unless it says otherwise. A number's 0 stands
for the default. Times are in seconds, sizes in bytes.

` + "`conntrackd -C FILE --check`" + ` says what is wrong with a file (exit status 1), and
what this host lacks for it (2). ` + "`--check --syntax`" + ` checks the file alone.

A running daemon reads the file again with ` + "`conntrackd --reload`" + `. It can change the
clauses that say so under *reload*; if another one has changed it changes nothing.
`

func appendReference(dst []byte) []byte {
	dst = append(dst, preamble...)
	return appendBlock(dst, &grammar, 2, false)
}

// appendBlock appends the clauses of a block: clauses with a value in a table, clauses with
// a block in sections of their own. whole is set if a reload can change all of the block.
func appendBlock(dst []byte, b *block, level int, whole bool) []byte {
	table := false
	for i := range b.clauses {
		c := &b.clauses[i]
		if _, ok := c.value.(nested); ok {
			continue
		}
		if !table {
			table = true
			dst = append(dst, "\n| clause | default | reload | |\n|---|---|---|---|\n"...)
		}
		dst = append(dst, "| `"+c.name+" "+cell(c.value.syntax())+"` | "...)
		if s := c.value.standard(); s != "" {
			dst = append(dst, "`"+s+"`"...)
		}
		dst = append(dst, " | "...)
		if whole || c.live {
			dst = append(dst, "yes"...)
		}
		dst = append(dst, " | "+cell(describe(c))+" |\n"...)
	}
	for i := range b.clauses {
		c := &b.clauses[i]
		n, ok := c.value.(nested)
		if !ok {
			continue
		}
		if _, stray := c.value.(*forNext); stray {
			continue
		}
		dst = append(dst, "\n"+strings.Repeat("#", level)+" "+c.name+"\n\n`"+c.name+" "+c.value.syntax()+"`\n\n"+describe(c)...)
		if whole || c.live {
			dst = append(dst, " A reload can change it."...)
		}
		dst = append(dst, '\n')
		if m, ok := c.value.(*mode); ok {
			for i := range m {
				dst = append(dst, "\n"+strings.Repeat("#", level+1)+" "+m[i].title+"\n\n"+m[i].doc+"\n"...)
				dst = appendBlock(dst, &m[i], level+2, false)
			}
			continue
		}
		for _, sub := range n.blocks() {
			dst = appendBlock(dst, sub, level+1, whole || c.live)
		}
	}
	return dst
}

func describe(c *clause) string {
	text := c.doc
	if len(c.aliases) > 0 {
		text += " Old names: `" + strings.Join(c.aliases, "`, `") + "`."
	}
	return text
}

// cell escapes the character that ends a cell of a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

const manHead = `.\" Made from the grammar's table in conf/ by: make generate
.TH CONNTRACKD.CONF 5 "" "ctbox" "File formats"
.SH NAME
conntrackd.conf \- configuration of conntrackd
.SH SYNOPSIS
.I /etc/conntrackd/conntrackd.conf
.SH DESCRIPTION
The configuration of
.BR conntrackd (8),
for the daemon and for the commands that connect to it. A clause is a keyword with
its operands; some have a block of clauses in braces. Blanks and line ends
separate words, a number sign starts a comment, and keywords are case-sensitive.
There are no quotes: a path ends at the next blank.
.PP
.B on
and
.B off
may be
.B yes
and
.BR no ,
in any letter case. If a clause is given twice, the last one counts unless its
description says otherwise. The number 0 means the default. Times are in seconds,
sizes in bytes.
.PP
.B conntrackd \-C
.I file
.B \-\-check
reports errors in a file, and problems with it on this host.
.PP
A running daemon reads the file again with
.BR "conntrackd \-\-reload" .
It can change the clauses that are marked
.IR reload .
If any other clause has changed, it changes nothing.
`

const manTail = `.SH EXAMPLES
A sealed Cluster of two nodes, on fw1. On fw2 exchange the addresses, and the numbers and names of Node and Peer.
.PP
.nf
Sync {
    Mode FTFW {
        StartupResync on
    }
    UDP {
        IPv4_address 203.0.113.1
        Port 3780
        Interface eth0
    }
    Cluster {
        Name edge
        Node 1 fw1
        Peer 2 fw2 {
            IPv4_Destination_Address 203.0.113.2
        }
        Key 1 /etc/conntrackd/cluster.key1
    }
}
.fi
.PP
A further node is another Peer, by a reload of the nodes that run:
.PP
.nf
        Peer 3 fw3 {
            IPv4_Destination_Address 203.0.113.3
        }
.fi
.PP
While the key is being changed, there are two:
.PP
.nf
        Key 1 /etc/conntrackd/cluster.key1
        Key 2 /etc/conntrackd/cluster.key2
        Send 1
.fi
.PP
The section CLUSTER of
.BR conntrackd (8)
has the steps, and what to do with keys and at a takeover.
.SH FILES
.TP
.I /etc/conntrackd/conntrackd.conf
The default file, if
.B \-C
does not name another.
.SH SEE ALSO
.BR conntrackd (8),
.BR nfct (8)
`

func appendManPage(dst []byte) []byte {
	dst = append(dst, manHead...)
	for i := range grammar.clauses {
		c := &grammar.clauses[i]
		dst = append(dst, ".SH "+strings.ToUpper(c.name)+"\n"...)
		dst = appendManNested(dst, c, false)
	}
	return append(dst, manTail...)
}

// TestManPageExamples checks that the Cluster of the man page's examples is right as it is, and that a reload
// can put the clauses of the other examples in force.
func TestManPageExamples(t *testing.T) {
	var examples []string
	for rest := manTail; ; {
		_, after, found := strings.Cut(rest, ".nf\n")
		if !found {
			break
		}
		var example string
		example, rest, _ = strings.Cut(after, ".fi\n")
		examples = append(examples, example)
	}
	if len(examples) != 3 {
		t.Fatalf("%d examples", len(examples))
	}
	whole, peer, keys := examples[0], examples[1], examples[2]
	before, warnings, err := Parse("whole", []byte(whole))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, %v", err, warnings)
	}
	const key = "        Key 1 /etc/conntrackd/cluster.key1\n"
	for _, clauses := range []string{key + peer, keys, strings.Replace(keys, "Send 1", "Send 2", 1)} {
		after, warnings, err := Parse("changed", []byte(strings.Replace(whole, key, clauses, 1)))
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v, %v", clauses, err, warnings)
		}
		changes := before.Changes(after)
		if len(changes) == 0 {
			t.Errorf("%s changes nothing", clauses)
		}
		for _, c := range changes {
			if !c.Live {
				t.Errorf("a reload can't make this change: %v", c)
			}
		}
	}
}

// appendManNested appends a clause with a block: its description, then its clauses.
func appendManNested(dst []byte, c *clause, whole bool) []byte {
	dst = append(dst, ".B "+roff(c.name+" "+c.value.syntax())+"\n.PP\n"...)
	dst = append(dst, sentences(describe(c))...)
	if whole || c.live {
		dst = append(dst, ".I Reload.\n"...)
	}
	if m, ok := c.value.(*mode); ok {
		for i := range m {
			dst = append(dst, ".PP\n.B "+roff(m[i].title)+"\n.RS\n"...)
			dst = append(dst, sentences(m[i].doc)...)
			dst = append(appendManBlock(dst, &m[i], false), ".RE\n"...)
		}
		return dst
	}
	for _, sub := range c.value.(nested).blocks() {
		dst = appendManBlock(dst, sub, whole || c.live)
	}
	return dst
}

// appendManBlock appends the clauses of a block: first clauses with a value, then clauses
// with a block, indented. whole is set if a reload can change all of the block.
func appendManBlock(dst []byte, b *block, whole bool) []byte {
	for i := range b.clauses {
		c := &b.clauses[i]
		if _, ok := c.value.(nested); ok {
			continue
		}
		dst = append(dst, ".TP\n.B "+roff(c.name+" "+c.value.syntax())+"\n"...)
		dst = append(dst, sentences(describe(c))...)
		if s := c.value.standard(); s != "" {
			dst = append(dst, "Default: "+roff(s)+".\n"...)
		}
		if whole || c.live {
			dst = append(dst, ".I Reload.\n"...)
		}
	}
	for i := range b.clauses {
		c := &b.clauses[i]
		if _, ok := c.value.(nested); !ok {
			continue
		}
		if _, stray := c.value.(*forNext); stray {
			continue
		}
		dst = append(dst, ".PP\n"...)
		dst = append(appendManNested(append(dst, ".RS\n"...), c, whole), ".RE\n"...)
	}
	return dst
}

// sentences puts each sentence on a line of its own, as usual in roff.
func sentences(text string) string {
	text = roff(strings.ReplaceAll(text, "`", ""))
	return strings.ReplaceAll(text, ". ", ".\n") + "\n"
}

// roff escapes characters that are special in roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
