package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLinks holds that what a page refers to inside the tree is there: files,
// headings, and paths in backquotes.
func TestLinks(t *testing.T) {
	root, all := pages(t)
	byPath := make(map[string]*page)
	for _, p := range all {
		byPath[p.path] = p
	}
	count := 0
	for _, p := range all {
		for _, l := range p.links {
			if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
				continue
			}
			count++
			name, heading, _ := strings.Cut(l.target, "#")
			switch {
			case name == "":
				name = p.path
			case name[0] == '/':
				name = name[1:]
			default:
				name = filepath.Join(filepath.Dir(p.path), name)
			}
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Errorf("%s:%d: %s is not there", p.path, l.line, l.target)
				continue
			}
			if heading != "" && (byPath[name] == nil || !slices.Contains(byPath[name].headings, heading)) {
				t.Errorf("%s:%d: %s has no heading #%s", p.path, l.line, name, heading)
			}
		}
	}
	if count < 50 {
		t.Errorf("found only %d links", count)
	}
}

// TestEveryPageIsLinked checks that the README leads to every page at the top of the
// tree, and to the index of docs/, which leads to every page there.
func TestEveryPageIsLinked(t *testing.T) {
	_, all := pages(t)
	const index = "docs/README.md"
	text := map[string]string{}
	for _, p := range all {
		text[p.path] = p.text
	}
	for _, p := range all {
		from, to := "README.md", p.path
		if dir, base := filepath.Split(p.path); dir == "docs/" && p.path != index {
			from, to = index, base
		}
		if p.path != "README.md" && !strings.Contains(text[from], "]("+to+")") {
			t.Errorf("%s has no link to %s", from, p.path)
		}
	}
}

// The pages that a man page of ours refers to and that are not ours.
var foreignPages = []string{
	"capabilities(7)", "flock(2)", "ip-netns(8)", "iptables(8)", "iptables-extensions(8)", "keepalived(8)", "logrotate(8)",
	"netlink(7)", "nft(8)", "protocols(5)", "sched(7)", "seccomp(2)", "sysctl(8)", "syslog(3)", "systemd(1)", "systemd.service(5)",
}

var document = regexp.MustCompile(`\bdocs/[a-z0-9.-]+\.md\b`)

var reference = regexp.MustCompile(`(?m)([a-zA-Z][a-zA-Z0-9.\-\\]+)[ "]*\(([1-8])\)`)

// TestManPages checks that groff reports nothing about the man pages, and that they refer to pages and documents
// that exist.
func TestManPages(t *testing.T) {
	root, _ := pages(t)
	paths, err := filepath.Glob(filepath.Join(root, "docs/man/*.[1-8]"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no man pages: %v", err)
	}
	ours := make(map[string]bool)
	for _, path := range paths {
		base := filepath.Base(path)
		ours[base[:len(base)-2]+"("+base[len(base)-1:]+")"] = true
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lint := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z", path)
		lint.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("groff -ww %s: %v\n%s", filepath.Base(path), err, out)
		}
		for _, name := range document.FindAllString(strings.ReplaceAll(string(text), `\`, ""), -1) {
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Errorf("%s: refers to %s, which is not there", filepath.Base(path), name)
			}
		}
		for _, m := range reference.FindAllStringSubmatch(string(text), -1) {
			name := strings.ReplaceAll(m[1], `\`, "") + "(" + m[2] + ")"
			if !ours[name] && !slices.Contains(foreignPages, name) {
				t.Errorf("%s: refers to %s, which is neither ours nor in the list", filepath.Base(path), name)
			}
		}
	}
}
