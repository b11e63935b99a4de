//go:build long

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// parts are what `make minimal` can leave out, and how a binary without it is
// recognised: what it says when it is asked for the part.
var parts = []struct {
	name string
	args []string
	says string
}{
	{"conntrackd", []string{"conntrackd", "-v"}, `ctbox: no applet "conntrackd"`},
	{"nfct", []string{"nfct", "version"}, `ctbox: no applet "nfct"`},
	{"doctor", []string{"doctor"}, `ctbox: no applet "doctor"`},
	{"helpers", []string{"nfct", "add", "helper", "ftp", "inet", "tcp"}, "that helper is not supported"},
	{"json", []string{"conntrack", "-L", "-o", "json"}, "this ctbox was built without JSON"},
	{"metrics", nil, ""}, // nothing says it but a daemon
	{"export", []string{"conntrackd", "-C", "testdata/export.conf", "--check", "--syntax"}, "this ctbox was built without Export json"},
	{"cluster", []string{"conntrackd", "-C", "testdata/cluster.conf", "--check", "--syntax"}, "testdata/cluster.conf:9:2: this ctbox was built without Cluster"},
	{"top", []string{"conntrack", "--top"}, "this ctbox was built without --top"},
	{"match", []string{"conntrack", "-D", "--match", "/dev/null"}, "this ctbox was built without --match"},
	{"allnetns", []string{"conntrack", "-E", "--all-netns"}, "this ctbox was built without --all-netns"},
	{"box", []string{"--generate-bash-completion"}, `ctbox: unknown option "--generate-bash-completion"`},
}

// leastSaved is what a part has to save to be worth a tag. Files grow by pages of 4 KiB.
const leastSaved = 20 << 10

// documentedSizes are the sizes in docs/size.md by what is left out.
func documentedSizes(t *testing.T) map[string]int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("docs", "size.md"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int)
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		n, err := strconv.Atoi(strings.ReplaceAll(strings.TrimSpace(cells[2]), ",", ""))
		if err == nil {
			sizes[strings.Trim(cells[1], " `")] = n
		}
	}
	return sizes
}

// Each part alone and all of them together, for amd64. A part that is left out must be missing
// and save enough, and docs/size.md must be right within 5 percent.
func TestMinimalBuilds(t *testing.T) {
	root, documented := moduleRoot(t), documentedSizes(t)
	minimal := func(t *testing.T, without string) (path string, size int) {
		t.Helper()
		bin := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", root, "BIN="+bin, "WITHOUT="+without, "minimal")
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make minimal WITHOUT=%q: %v\n%s", without, err, out)
		}
		path = filepath.Join(bin, "minimal", "ctbox")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		name := without
		if without == "" {
			name = "nothing"
		}
		t.Logf("without %s: %d bytes", name, info.Size())
		if want := documented[name]; want == 0 || abs(int(info.Size())-want) > want/20 {
			t.Errorf("without %s ctbox has %d bytes; docs/size.md says %d", name, info.Size(), want)
		}
		return path, int(info.Size())
	}
	refuses := func(t *testing.T, path string, args []string, says string) {
		t.Helper()
		if args == nil {
			return
		}
		out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), says) {
			t.Errorf("ctbox %s: %v, %q; want %q", strings.Join(args, " "), err, out, says)
		}
	}

	whole, all := 0, []string(nil)
	t.Run("whole", func(t *testing.T) { _, whole = minimal(t, "") })
	for _, part := range parts {
		all = append(all, part.name)
		t.Run("without "+part.name, func(t *testing.T) {
			path, size := minimal(t, part.name)
			if saved := whole - size; saved < leastSaved {
				t.Errorf("leaving out %s saves %d bytes", part.name, saved)
			}
			refuses(t, path, part.args, part.says)
			output(t, path, "conntrack", "--version")
		})
	}
	t.Run("without cluster's modules", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "urfave_cli_no_docs,no_cluster", root)
		out, err := cmd.Output()
		if err != nil || bytes.Contains(out, []byte("x/crypto")) || bytes.Contains(out, []byte("ctbox/sync/seal")) {
			t.Errorf("a build without Cluster has x/crypto or sync/seal: %v", err)
		}
	})
	t.Run("without daemon and doctor", func(t *testing.T) { minimal(t, "conntrackd doctor") })
	t.Run("without all", func(t *testing.T) {
		path, _ := minimal(t, strings.Join(all, " "))
		wantSize(t, path, maxMinimalSize, maxMinimalPacked)
		// Every function's name is there, for stack traces. net brings its resolver with
		// whatever takes an address as text: net.Dial, net.Listen, net.ListenConfig.
		// Beside urfave/cli it cannot be left out: text/template makes the linker keep
		// every method.
		if data, err := os.ReadFile(path); err != nil || bytes.Contains(data, []byte("net.(*Resolver).")) {
			t.Errorf("the binary has net's resolver, which is 190 kB (%v)", err)
		}
		if got := output(t, path, "--list"); got != "conntrack\n" {
			t.Errorf("--list says %q", got)
		}
		for _, part := range parts {
			if part.name != "helpers" && part.name != "export" && part.name != "cluster" { // no program is left to refuse these
				refuses(t, path, part.args, part.says)
			}
		}
		output(t, path, "conntrack", "-C")
	})
}

func abs(n int) int { return max(n, -n) }
