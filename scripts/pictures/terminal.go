package main

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"strings"
	"unicode/utf8"
)

// A cell of a terminal, and the border around it.
const (
	cellWidth, cellHeight = 7.3, 17.0
	termBorder, termTop   = 14.0, 44.0
)

// termCSS is for pictures of terminals, which are dark on every page.
const termCSS = `.term{fill:#0d1117;stroke:#3d444d}.rev{fill:#c9d1d9}
text.tt{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#e6edf3;white-space:pre}
text.on{fill:#0d1117;font-weight:600}text.hd{fill:#f0883e;font-weight:600}text.ok{fill:#3fb950}text.dim{fill:#9198a1}
`

// newTerminal is a window of columns and rows with a title.
func newTerminal(columns, rows int, title, alt string) *svg {
	s := newSVG(int(float64(columns)*cellWidth+2*termBorder), int(float64(rows)*cellHeight+termTop+12), alt)
	s.css = termCSS
	s.rect("term", 0.5, 0.5, float64(s.width)-1, float64(s.height)-1, 8)
	for i, class := range []string{"fbad", "fc", "fd"} {
		s.raw(fmt.Sprintf(`<circle class="%s" cx="%d" cy="17" r="5"/>`+"\n", class, 18+i*16))
	}
	s.text("tt dim", 76, 21, title)
	return s
}

// cells writes text at a place of the terminal, as wide as its cells whatever the font.
func (s *svg) cells(class string, column, row int, text, extra string) {
	trimmed := strings.TrimRight(text, " ")
	if trimmed == "" {
		return
	}
	lead := len(trimmed) - len(strings.TrimLeft(trimmed, " "))
	trimmed, column = trimmed[lead:], column+lead
	fmt.Fprintf(&s.buf, `<text class="tt%s" x="%s" y="%s" textLength="%s" lengthAdjust="spacingAndGlyphs"%s>%s</text>`+"\n",
		class, number(termBorder+float64(column)*cellWidth), number(termTop+float64(row)*cellHeight+2),
		number(float64(utf8.RuneCountInString(trimmed))*cellWidth), extra, html.EscapeString(trimmed))
}

// drawTop draws a screen of tmux with its attributes.
func drawTop(root string) (*svg, error) {
	screen, err := os.ReadFile(record(root, "top.ansi"))
	if err != nil {
		return nil, err
	}
	const columns = 92
	lines := strings.Split(strings.TrimRight(string(screen), "\n"), "\n")
	s := newTerminal(columns, len(lines), "conntrack --top", "conntrack --top: the sources with the most flows, in a terminal")
	reverse, bold := false, false
	for row, line := range lines {
		column := 0
		for len(line) > 0 {
			text, rest, found := strings.Cut(line, "\x1b[")
			if text != "" {
				class := ""
				if reverse {
					s.rect("rev", termBorder+float64(column)*cellWidth-2, termTop+float64(row)*cellHeight-11,
						float64(columns-column)*cellWidth+4, cellHeight-1, 2)
					class = " on"
				} else if bold {
					class = " on hd"
				}
				s.words(class, column, row, text)
				column += utf8.RuneCountInString(text)
			}
			if !found {
				break
			}
			codes, rest, found := strings.Cut(rest, "m")
			if !found {
				return nil, fmt.Errorf("top.ansi:%d: an escape sequence that sets no attribute", row+1)
			}
			for code := range strings.SplitSeq(codes, ";") {
				switch code {
				case "", "0":
					reverse, bold = false, false
				case "1":
					bold = true
				case "7":
					reverse = true
				case "27":
					reverse = false
				}
			}
			line = rest
		}
	}
	return s, nil
}

// words writes a line in pieces, so that columns are aligned in every font.
func (s *svg) words(class string, column, row int, text string) {
	start := -1
	runes := []rune(text + "  ")
	for i := 0; i+1 < len(runes); i++ {
		gap := runes[i] == ' ' && runes[i+1] == ' '
		switch {
		case start < 0 && runes[i] != ' ':
			start = i
		case start >= 0 && gap:
			s.cells(class, column+start, row, string(runes[start:i]), "")
			start = -1
		}
	}
}

// drawFailover draws the recording of the failover demo: each line appears at its recorded time.
func drawFailover(root string) (*svg, error) {
	data, err := os.ReadFile(record(root, "demo.cast"))
	if err != nil {
		return nil, err
	}
	const columns, hold = 104, 6.0
	header, rest, _ := strings.Cut(string(data), "\n")
	var head struct{ Version int }
	if err := json.Unmarshal([]byte(header), &head); err != nil || head.Version != 2 {
		return nil, fmt.Errorf("demo.cast is no asciicast of version 2: %v", err)
	}
	type shown struct {
		at   float64
		text string
	}
	var lines []shown
	for line := range strings.Lines(rest) {
		var event []any
		if err := json.Unmarshal([]byte(line), &event); err != nil || len(event) != 3 {
			return nil, fmt.Errorf("demo.cast: %q: %v", line, err)
		}
		at, _ := event[0].(float64)
		text, _ := event[2].(string)
		lines = append(lines, shown{at, strings.TrimRight(text, "\n")})
	}
	for len(lines) > 0 && lines[0].text == "" {
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("demo.cast has no lines")
	}
	s := newTerminal(columns, len(lines)+1, "make demo: a sealed pair of firewalls, one of them killed",
		"The failover demo: fw1 is killed, fw2 commits its flows, and the connections go on; fw1 returns and takes over again")
	length := lines[len(lines)-1].at + hold
	var css strings.Builder
	seen := map[string]string{} // the animation of a moment
	s.cells(" dim", 0, 0, "# scripts/demo-failover.sh ours-ours", "")
	for i, l := range lines {
		class := ""
		switch {
		case strings.HasPrefix(l.text, "== "):
			class = " hd"
		case strings.HasPrefix(l.text, "demo: "), strings.Contains(l.text, "none lost"), strings.Contains(l.text, "proven equal: yes"):
			class = " ok"
		}
		moment := fmt.Sprintf("%.1f", 100*l.at/length)
		name := seen[moment]
		if name == "" && l.at > 0 {
			name = fmt.Sprintf("t%d", len(seen))
			seen[moment] = name
			fmt.Fprintf(&css, "@keyframes %s{0%%{opacity:0}%s%%{opacity:1}}.%s{animation:%s %.1fs step-end infinite}\n", name, moment, name, name, length)
		}
		if name != "" {
			class += " " + name
		}
		text := []rune(l.text)
		if len(text) > columns {
			text = append(text[:columns-1], '…')
		}
		s.cells(class, 0, i+1, string(text), "")
	}
	s.css += css.String() + "@media (prefers-reduced-motion:reduce){text{animation:none!important}}\n"
	return s, nil
}
