package main

import (
	"bytes"
	"fmt"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// svg is a picture under construction. Shapes take their colours from classes, so that
// one file serves light and dark pages.
type svg struct {
	buf           bytes.Buffer
	width, height int
	title         string
	css           string // of this picture alone
}

// A colour has a value for light pages and one for dark ones. "a" is for ctbox or the active
// node, "b" for the other.
var colourValues = []struct{ name, light, dark string }{
	{"page", "#fff", "#0d1117"},
	{"text", "#1f2328", "#e6edf3"},
	{"muted", "#59636e", "#9198a1"},
	{"line", "#b6bec7", "#3d444d"},
	{"box", "#f6f8fa", "#151b23"},
	{"abox", "#ddf4ff", "#12233a"},
	{"a", "#0969da", "#4493f8"},
	{"b", "#8c959f", "#7d8590"},
	{"c", "#bc4c00", "#f0883e"},
	{"d", "#1a7f37", "#3fb950"},
	{"e", "#8250df", "#ab7df8"},
	{"bad", "#cf222e", "#f85149"},
}

// coloured are the rules that depend on the theme, with a colour's name after each $.
// They have values instead of CSS variables, which not every renderer supports.
const coloured = `text{fill:$text}.m{fill:$muted}.halo{stroke:$page}.page{fill:$page}.box{fill:$box;stroke:$line}.abox{fill:$abox;stroke:$a}
.fa{fill:$a}.fb{fill:$b}.fc{fill:$c}.fd{fill:$d}.fe{fill:$e}.fbad{fill:$bad}.l{stroke:$line}.la{stroke:$a}.lb{stroke:$b}.lc{stroke:$c}.ld{stroke:$d}.le{stroke:$e}
`

const plain = `text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.h{font-weight:600}.big{font-size:22px;font-weight:600}.m{font-size:12px}.s{font-size:11px}.mid{text-anchor:middle}.end{text-anchor:end}
.halo{paint-order:stroke;stroke-width:4px}path.l,path.la,path.lb,path.lc,path.ld,path.le{fill:none}.la,.lb,.lc,.ld,.le{stroke-width:2}
.w{stroke-width:1.5}.dash{stroke-dasharray:5 4}
`

// style returns the rules for both themes.
func style() string {
	in := func(value func(i int) string) string {
		return regexp.MustCompile(`\$[a-z]+`).ReplaceAllStringFunc(coloured, func(m string) string {
			return value(slices.IndexFunc(colourValues, func(c struct{ name, light, dark string }) bool { return c.name == m[1:] }))
		})
	}
	return "\n" + plain + in(func(i int) string { return colourValues[i].light }) +
		"@media (prefers-color-scheme:dark){\n" + in(func(i int) string { return colourValues[i].dark }) + "}\n"
}

func newSVG(width, height int, title string) *svg {
	s := &svg{width: width, height: height, title: title}
	s.rect("page", 0, 0, float64(width), float64(height), 6)
	return s
}

// bytes returns the file.
func (s *svg) bytes() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n",
		s.width, s.height, s.width, s.height)
	fmt.Fprintf(&out, "<!-- Drawn by scripts/pictures: make pictures -->\n<title>%s</title>\n<style>%s%s</style>\n",
		html.EscapeString(s.title), style(), s.css)
	out.Write(s.buf.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// number formats a coordinate: at most one decimal.
func number(v float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
}

func (s *svg) raw(text string) { s.buf.WriteString(text) }

func (s *svg) rect(class string, x, y, w, h, r float64) {
	fmt.Fprintf(&s.buf, `<rect class="%s" x="%s" y="%s" width="%s" height="%s" rx="%s"/>`+"\n",
		class, number(x), number(y), number(w), number(h), number(r))
}

func (s *svg) text(class string, x, y float64, text string) {
	fmt.Fprintf(&s.buf, `<text class="%s" x="%s" y="%s">%s</text>`+"\n", class, number(x), number(y), html.EscapeString(text))
}

// path draws straight lines through points, given as x and y in turn.
func (s *svg) path(class string, points ...float64) { s.line(class, "", points) }

// arrow is path with a head at the end, in the colour of the class a, b or l.
func (s *svg) arrow(class string, points ...float64) {
	n := len(points)
	x, y, fromX, fromY := points[n-2], points[n-1], points[n-4], points[n-3]
	dx, dy := 0.0, 0.0
	switch {
	case x > fromX:
		dx = 1
	case x < fromX:
		dx = -1
	case y > fromY:
		dy = 1
	default:
		dy = -1
	}
	fill := "fb"
	if strings.HasPrefix(class, "la") {
		fill = "fa"
	}
	fmt.Fprintf(&s.buf, `<path class="%s" d="M%s %sL%s %sL%s %sz"/>`+"\n", fill, number(x), number(y),
		number(x-9*dx+5*dy), number(y-9*dy+5*dx), number(x-9*dx-5*dy), number(y-9*dy-5*dx))
	short := append([]float64(nil), points...)
	short[n-2], short[n-1] = x-8*dx, y-8*dy
	s.line(class, "", short)
}

func (s *svg) line(class, extra string, points []float64) {
	fmt.Fprintf(&s.buf, `<path class="%s"%s d="`, class, extra)
	for i := 0; i+1 < len(points); i += 2 {
		s.buf.WriteByte("ML"[min(i, 1)])
		s.buf.WriteString(number(points[i]) + " " + number(points[i+1]))
	}
	s.buf.WriteString("\"/>\n")
}
