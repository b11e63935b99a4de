package conf

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/conntrackd.conf.md and the golden files anew")

// golden compares a file with what it should hold, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (go test ./conf -update writes it anew):\n%s", name, diff)
	}
}

// TestReference keeps docs/conntrackd.conf.md to the grammar's table.
func TestReference(t *testing.T) {
	golden(t, "../docs/conntrackd.conf.md", appendReference(nil))
}

const preamble = `# conntrackd.conf

<!-- Made from the grammar's table in conf/ by: go test ./conf -update -->

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

// appendBlock appends the clauses of a block: those with a value in a table,
// those with a block in a section of their own. whole says that a reload can
// change all of it.
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
		if _, stray := c.value.(forNext); stray {
			continue
		}
		dst = append(dst, "\n"+strings.Repeat("#", level)+" "+c.name+"\n\n`"+c.name+" "+c.value.syntax()+"`\n\n"+describe(c)...)
		if whole || c.live {
			dst = append(dst, " A reload can change it."...)
		}
		dst = append(dst, '\n')
		if m, ok := c.value.(mode); ok {
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

// cell escapes what ends a cell of a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
