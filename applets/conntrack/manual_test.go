package conntrack

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctbox/internal/gen"
	"ctbox/internal/netnstest"
	"ctbox/internal/version"
)

// TestManualsExamples runs the examples of docs/conntrack.md in a namespace and
// holds that they print what the manual shows, but for what normalize takes
// out. -update writes it anew.
//
// Examples are blocks of ```console: a line that begins with "# " is a command
// for bash, what follows is what it prints, standard error behind standard
// output. In front of a block, <!-- + WORDS --> sets up as a line of a script
// does, and <!-- meanwhile: + WORDS --> happens while the block's -E listens.
func TestManualsExamples(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "conntrack.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &manual{script: newScript(t, path)}
	for line := range strings.Lines(string(text)) {
		m.line(strings.TrimSuffix(line, "\n"))
	}
	if got := strings.Join(m.out, "\n") + "\n"; *gen.Update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// manual goes through docs/conntrack.md.
type manual struct {
	*script
	inBlock   bool
	meanwhile []string
	command   string // the one whose output is being read
	printed   []string
}

func (m *manual) line(line string) {
	comment, isComment := strings.CutPrefix(line, "<!-- ")
	comment = strings.TrimSuffix(comment, " -->")
	switch {
	case line == "```console":
		m.inBlock = true
	case m.inBlock && line == "```":
		m.finish()
		m.inBlock, m.meanwhile = false, nil
	case m.inBlock && strings.HasPrefix(line, "# "):
		m.finish()
		m.command = line[2:]
	case m.inBlock:
		m.printed = append(m.printed, line)
		return
	case isComment && strings.HasPrefix(comment, "+ "):
		m.setUp(comment, words(comment[2:])[1:], "")
	case isComment && strings.HasPrefix(comment, "meanwhile: + "):
		m.meanwhile = append(m.meanwhile, strings.TrimPrefix(comment, "meanwhile: "))
	}
	m.out = append(m.out, line)
}

// finish runs the command whose output has been read, and compares.
func (m *manual) finish() {
	if m.command == "" {
		return
	}
	ns := m.tw.Ours
	cmd := ns.Command("bash", "-c", "exec 2>err; "+m.command)
	cmd.Dir = m.dirs[1]
	cmd.Env = append(cmd.Env, "PATH="+netnstest.BinDir(m.t)+":"+os.Getenv("PATH"))
	events := strings.HasPrefix(m.command, "conntrack -E")
	if events {
		cmd = ns.Command("bash", "-c", "exec 2>err "+m.command)
		cmd.Dir = m.dirs[1]
		cmd.Env = append(cmd.Env, "PATH="+netnstest.BinDir(m.t)+":"+os.Getenv("PATH"))
	}
	p := ns.Launch(cmd)
	var r netnstest.Result
	if events {
		netnstest.Eventually(m.t, 10*time.Second, m.command, func() bool { return ns.Subscribers() == 1 })
		for _, what := range m.meanwhile {
			m.setUp(what, words(what[2:])[1:], "")
		}
		netnstest.Eventually(m.t, 10*time.Second, m.command, func() bool { return idle(m.t, ns, p) })
		r = p.Stop(syscall.SIGINT)
	} else {
		r = p.Wait(30 * time.Second)
	}
	stderr, err := os.ReadFile(filepath.Join(m.dirs[1], "err"))
	if err != nil {
		m.t.Fatal(err)
	}
	got := r.Stdout
	if events {
		got += "^C\n"
	}
	got += string(stderr)
	want := strings.Join(m.printed, "\n")
	if len(m.printed) > 0 {
		want += "\n"
	}
	argv := strings.Fields(m.command)
	if normalizeExample(argv, got) != normalizeExample(argv, want) {
		if !*gen.Update {
			m.t.Errorf("# %s\nprints other than the manual shows (-manual +printed):\n%s", m.command,
				cmp.Diff(normalizeExample(argv, want), normalizeExample(argv, got)))
		}
		want = got
	}
	m.out = append(m.out, strings.Split(strings.TrimSuffix(want, "\n"), "\n")...)
	if want == "" {
		m.out = m.out[:len(m.out)-1]
	}
	m.command, m.printed = "", nil
}

func normalizeExample(argv []string, text string) string {
	text = references.ReplaceAllString(normalizeText(argv, text), "$1#")
	if len(argv) > 1 && argv[1] == "-E" {
		return text
	}
	return sortFlows(text)
}

// The command lines of the man page's examples are right.
func TestManualPageExamples(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/conntrack.8")
	if err != nil {
		t.Fatal(err)
	}
	_, examples, _ := strings.Cut(string(page), ".SH EXAMPLES\n")
	examples, _, _ = strings.Cut(examples, ".SH ")
	n := 0
	for line := range strings.Lines(examples) {
		line, ok := strings.CutPrefix(line, ".B ")
		if !ok {
			continue
		}
		n++
		for command := range strings.SplitSeq(strings.ReplaceAll(line, `\-`, "-"), ";") {
			command, _, _ = strings.Cut(command, "|")
			command, _, _ = strings.Cut(command, ">")
			argv := strings.Fields(command)
			var cmd Command
			if err := NewParser(io.Discard, false).Parse(argv, &cmd); err != nil || argv[0] != "conntrack" || cmd.Op == OpNone {
				t.Errorf("%q: %v", argv, err)
			}
		}
	}
	if n != 10 {
		t.Errorf("%d examples", n)
	}
}

// TestManualPage checks that groff reports nothing about the man page.
func TestManualPage(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "man", "conntrack.8")
	lint := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z", path)
	lint.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff -ww: %v\n%s", err, out)
	}
}

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

// -V begins as in conntrack-tools: puppet, ansible and others read the number.
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

// The commands in the Kubernetes page's table are run as they are by the script components.
func TestComponents(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "quickstart-kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join("testdata", "parity", "components.txt"))
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, part := range strings.Split(line, "`") {
			if !strings.HasPrefix(part, "conntrack -") {
				continue
			}
			commands++
			if !strings.Contains(string(script), "\n$ "+part+"\n") {
				t.Errorf("testdata/parity/components.txt does not run: %s", part)
			}
		}
	}
	if commands < 15 {
		t.Errorf("the page's table has %d commands", commands)
	}
}
