// Package docs_test checks the documents: every command in the README and in docs/*.md is run,
// every configuration and ruleset is checked, every link has a target.
//
// Each page is run from top to bottom on machines of its own (machine_test.go). The word
// behind a fence selects the treatment of the block:
//
//	sh                run by bash, as a script that ends with its first failure
//	console           each line that begins with "# " or "fw1# " is run, on the machine
//	                  of that name; what it prints is compared with what follows,
//	                  but for numbers and the width of gaps. A line "…" stands for any
//	                  lines. A last line "# echo $?" is one way to show a status.
//	conntrackd.conf   checked by conntrackd --check
//	nft               checked by nft -c
//	sysctl            the parameters exist
//	yaml              a Prometheus configuration, checked by promtool, or a Kubernetes Pod,
//	                  which TestPods runs
//	json              an object a line
//	text, message     not checked here (message: by the tests of the codec)
//
// Comments before a block, invisible to readers:
//
//	<!-- not run: WHY -->      the block is not run; the number of such blocks is bounded
//	<!-- on: fw1 fw2 -->       the machines that an sh block is for
//	<!-- in: General -->       the clause that a piece of conntrackd.conf is of
//	<!-- setup: COMMAND -->    run in that place, without a block
package docs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// Pages that other tests run.
var elsewhere = map[string]string{
	"docs/conntrack.md":     "applets/conntrack TestManualsExamples",
	"docs/sync-protocol.md": "sync/proto",
}

// mostNotRun bounds the blocks that are not run. Each one says why.
const mostNotRun = 18

func TestDocuments(t *testing.T) {
	_, all := pages(t)
	var run, notRun int
	for _, p := range all {
		for _, line := range p.stray {
			t.Errorf("%s:%d: indented code: fence it, and say what it is", p.path, line)
		}
		if elsewhere[p.path] != "" || len(p.blocks) == 0 {
			continue
		}
		t.Run(filepath.Base(p.path), func(t *testing.T) {
			net := &network{t: t}
			for _, b := range p.blocks {
				if b.notRun != "" {
					t.Logf("%s:%d: not run: %s", p.path, b.line, b.notRun)
					notRun++
					continue
				}
				if b.check(t, net, p.path) {
					run++
				}
			}
		})
	}
	t.Logf("%d blocks run or checked, %d not", run, notRun)
	if notRun > mostNotRun {
		t.Errorf("%d blocks are not run, more than %d", notRun, mostNotRun)
	}
	if run < 20 {
		t.Errorf("only %d blocks were run: are they found?", run)
	}
}

// check runs or checks a block and reports whether it did.
func (b *block) check(t *testing.T, net *network, path string) bool {
	t.Helper()
	at := fmt.Sprintf("%s:%d", path, b.line)
	switch b.language {
	case "setup", "sh":
		on := b.on
		if len(on) == 0 {
			on = []string{firstMachine}
		}
		for _, name := range on {
			if out, status := net.machine(name).run("set -e\n" + b.text); status != 0 {
				t.Errorf("%s: on %s: exit status %d\n%s\n%s", at, name, status, b.text, out)
			}
		}
		return b.language == "sh"
	case "console":
		b.console(t, net, at)
	case "conntrackd.conf":
		text := b.text
		if b.in != "" {
			text = b.in + " {\n" + text + "}\n"
		}
		m := net.machine(firstMachine)
		m.write("/tmp/checked.conf", text)
		out, _ := m.run("conntrackd -C /tmp/checked.conf --check 2>&1 >/dev/null")
		for line := range strings.Lines(out) {
			// A piece lacks what the rest of the file has.
			if strings.Contains(line, "cannot use the kernel's ") {
				continue // helpers: few kernels have what they need
			}
			if b.in == "Sync" && strings.Contains(line, "no dedicated link") {
				continue
			}
			if strings.Contains(line, "error:") || strings.Contains(line, "found ") {
				t.Errorf("%s: %s", at, line)
			}
		}
	case "nft":
		m := net.machine(firstMachine)
		m.write("/tmp/checked.nft", b.text)
		if out, status := m.run("nft -c -f /tmp/checked.nft"); status != 0 {
			t.Errorf("%s: nft -c: %s", at, out)
		}
	case "sysctl":
		m := net.machine(firstMachine)
		for line := range strings.Lines(b.text) {
			line, _, _ = strings.Cut(line, "#")
			key, _, ok := strings.Cut(line, "=")
			if key = strings.TrimSpace(key); key == "" {
				continue
			}
			if out, status := m.run("sysctl -n " + key); !ok || status != 0 {
				t.Errorf("%s: %s: %s", at, key, out)
			}
		}
	case "yaml":
		if b.isPod() {
			return false
		}
		m := net.machine(firstMachine)
		m.write("/tmp/prometheus.yml", b.text)
		if out, status := m.run("promtool check config --syntax-only /tmp/prometheus.yml"); status != 0 {
			t.Errorf("%s: promtool: %s", at, out)
		}
	case "json":
		for line := range strings.Lines(b.text) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s: no JSON: %s", at, line)
			}
		}
	case "text", "message":
		return false
	default:
		t.Errorf("%s: what is a block of %q?", at, b.language)
	}
	return true
}

// console runs a block's commands and compares what they print.
func (b *block) console(t *testing.T, net *network, at string) {
	t.Helper()
	var machine, command string
	var want []string
	finish := func() {
		t.Helper()
		if command == "" {
			return
		}
		out, _ := net.machine(machine).run(command)
		if show := os.Getenv("SHOW"); show != "" {
			t.Logf("%s# %s\n%s", machine, command, out)
		}
		if !same(want, lines(out)) {
			t.Errorf("%s: on %s: %s\nprinted\n%s\nthe page has\n%s", at, machine, command, out, strings.Join(want, "\n"))
		}
		command, want = "", nil
	}
	for _, line := range lines(b.text) {
		prompt, rest, ok := strings.Cut(line, "# ")
		switch {
		case ok && (prompt == "" || isMachine(prompt)):
			finish()
			if machine = prompt; machine == "" {
				machine = firstMachine
			}
			command = rest
		default:
			want = append(want, line)
		}
	}
	finish()
}

func lines(text string) []string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// same compares output with the lines of a page, in which a line "…" matches any lines.
func same(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "…" {
		for i := range len(got) + 1 {
			if same(want[1:], got[i:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && plain(want[0]) == plain(got[0]) && same(want[1:], got[1:])
}

// plain replaces the parts that differ from run to run: numbers, and the width of gaps.
func plain(line string) string {
	var b strings.Builder
	for i, r := range line {
		digit := r >= '0' && r <= '9'
		switch {
		case digit && i > 0 && line[i-1] >= '0' && line[i-1] <= '9':
		case digit:
			b.WriteByte('#')
		default:
			b.WriteRune(r)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
