package docs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// page is one Markdown file.
type page struct {
	path     string // from the module's root: "docs/helpers.md"
	text     string
	blocks   []block
	stray    []int    // lines of code that is not fenced, which nobody checks
	headings []string // as GitHub's anchors
	links    []link
}

// block is a fenced block of code, or a comment that does something, in the
// order of the page.
type block struct {
	line     int
	language string // the fence's: "sh"; "setup" for such a comment
	notRun   string // why it is not run, if it is not
	on       []string
	in       string // the clause that a piece of conntrackd.conf belongs into
	text     string
}

type link struct {
	line   int
	target string
}

// pages reads all Markdown files of the tree.
func pages(t *testing.T) (root string, all []*page) {
	t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := filepath.Rel(root, path)
			all = append(all, parse(name, string(text)))
		}
	}
	return root, all
}

func parse(path, text string) *page {
	p := &page{path: path, text: text}
	var (
		fence         string // what closes the block that is open
		indent        string
		open, pending block // pending has what comments say of the next block
		list, blank   = false, true
	)
	for i, line := range strings.Split(text, "\n") {
		number := i + 1
		bare := strings.TrimLeft(line, " ")
		switch {
		case fence != "" && strings.TrimSpace(line) == fence:
			p.blocks = append(p.blocks, open)
			fence, pending = "", block{}
		case fence != "":
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case strings.HasPrefix(bare, "```"):
			fence, indent = "```", line[:len(line)-len(bare)]
			open = pending
			open.line, open.language = number, bare[3:]
		case strings.HasPrefix(bare, "<!-- "):
			comment, _ := strings.CutSuffix(bare[5:], "-->")
			word, rest, _ := strings.Cut(comment, ":")
			rest = strings.TrimSpace(rest)
			switch word {
			case "not run":
				pending.notRun = rest
			case "on":
				pending.on = strings.Fields(rest)
			case "in":
				pending.in = rest
			case "setup":
				p.blocks = append(p.blocks, block{line: number, language: "setup", on: pending.on, text: rest + "\n"})
				pending = block{}
			}
		case blank && !list && (strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "\t")):
			p.stray = append(p.stray, number)
		default:
			if bare != "" && bare == line {
				list = strings.HasPrefix(line, "* ") || strings.HasPrefix(line, "- ") || line[0] >= '0' && line[0] <= '9'
			}
			if h := strings.TrimLeft(line, "#"); h != line && strings.HasPrefix(h, " ") {
				p.headings = append(p.headings, anchor(h))
			}
			p.findLinks(number, line)
		}
		blank = strings.TrimSpace(line) == ""
	}
	return p
}

// findLinks finds [text](target) and, in backquotes, paths of the tree.
func (p *page) findLinks(number int, line string) {
	for i, part := range strings.Split(line, "`") {
		if i%2 == 1 {
			for _, dir := range []string{"scripts/", "docs/", "applets/", "conf/", "helpers/", "nl/", "sync/", "internal/"} {
				if strings.HasPrefix(part, dir) && !strings.ContainsAny(part, " *$<…") {
					p.links = append(p.links, link{number, "/" + part})
				}
			}
		}
	}
	for rest := line; ; {
		_, after, ok := strings.Cut(rest, "](")
		if !ok {
			return
		}
		target, after, ok := strings.Cut(after, ")")
		if !ok {
			return
		}
		p.links = append(p.links, link{number, target})
		rest = after
	}
}

// anchor is GitHub's name for a heading.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127:
			b.WriteRune(r)
		}
	}
	return b.String()
}
