package conntrack

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"ctbox/applets/internal/screen"
	"ctbox/internal/jsonout"
)

// topLow is the number of lines below which a screen shows rows instead of sums and
// remarks.
const topLow = 8

// topRows returns how many rows fit on a screen of height lines.
func topRows(height int) int {
	if height < topLow {
		return max(height-3, 0)
	}
	return height - 5
}

// topPainter makes the lines of the screen. It reuses its memory.
type topPainter struct {
	view     topView
	every    time.Duration
	command  []string // the command line
	help     bool     // the keys are shown instead of the rows
	selected int      // the row that Enter enters
	lines    [][]byte
	used     int

	keyWidth int
	columns  []topColumn
	text     []byte // of one key or number
}

// line returns an empty line.
func (p *topPainter) line() *[]byte {
	if p.used == len(p.lines) {
		p.lines = append(p.lines, nil)
	}
	l := &p.lines[p.used]
	*l = (*l)[:0]
	p.used++
	return l
}

// paint returns at most height lines of at most width columns.
func (p *topPainter) paint(width, height int, ready bool) [][]byte {
	p.used = 0
	v := &p.view
	head := p.line()
	*head = join(*head, "conntrack ", printable(strings.Join(p.command[1:], " ")), ", every ", p.every.String(), "  ")
	if !ready {
		*head = join(*head, "reading the table")
		return p.cut(width, height)
	}
	*head = v.at.AppendFormat(*head, time.TimeOnly)
	if height >= topLow {
		p.sums()
	}
	if p.help {
		p.helpLines()
	} else {
		p.measure(width)
		p.title(width)
		p.move(0)
		for i := range v.rows {
			if p.used >= height-1 {
				break
			}
			p.row(&v.rows[i])
			if i == p.selected {
				p.mark(width)
			}
		}
	}
	for p.used < height-1 {
		p.line()
	}
	p.used = min(p.used, max(height-1, 0))
	keys := p.line()
	// The keys that quit and help come first: a narrow terminal cuts the end of the line.
	*keys = join(*keys, "q quit  ? help  by: ")
	for i := range topKinds {
		*keys = join(append(*keys, topKinds[i].letter), " ", topKinds[i].word, "  ")
	}
	return p.cut(width, height)
}

// sums writes the lines above the rows.
func (p *topPainter) sums() {
	sum := p.line()
	*sum = p.view.appendSums(*sum)
	remarks := p.line()
	*remarks = p.view.appendRemarks(*remarks)
}

// helpLines writes what each key does.
func (p *topPainter) helpLines() {
	for _, text := range [...]string{
		"Up, Down    choose a row", "Enter       count only the flows of this row, by another key", "Backspace   go back", "q           quit", "",
	} {
		l := p.line()
		*l = append(*l, text...)
	}
	kinds, sorts := p.line(), p.line()
	*kinds, *sorts = append(*kinds, "count by:"...), append(*sorts, "sort by:"...)
	for i := range topKinds {
		*kinds = join(append(append(*kinds, "  "...), topKinds[i].letter), " ", topKinds[i].word)
	}
	for i := range topSorts {
		*sorts = join(append(append(*sorts, "  "...), topSorts[i].letter), " ", topSorts[i].word)
	}
}

// move selects the row that is n below, or the nearest one that exists.
func (p *topPainter) move(n int) {
	p.selected = max(min(p.selected+n, len(p.view.rows)-1), 0)
}

// mark shows the last line in reverse.
func (p *topPainter) mark(width int) {
	l := &p.lines[p.used-1]
	p.text = append(p.text[:0], *l...)
	for len(p.text) < width {
		p.text = append(p.text, ' ')
	}
	*l = join((*l)[:0], screen.Bold, string(p.text[:width]), screen.Plain)
}

// tableWidth is the width of the table that --once prints: IPv6 addresses and all columns.
const tableWidth = 104

// appendTable appends the view as lines of text.
func (p *topPainter) appendTable(dst []byte) []byte {
	p.used = 0
	p.sums()
	p.measure(tableWidth)
	p.title(tableWidth)
	for i := range p.view.rows {
		p.row(&p.view.rows[i])
	}
	for _, l := range p.lines[:p.used] {
		l = bytes.TrimSuffix(bytes.TrimPrefix(l, []byte(screen.Bold)), []byte(screen.Plain))
		dst = append(append(dst, bytes.TrimRight(l, " ")...), '\n')
	}
	return dst
}

func (v *topView) appendSums(dst []byte) []byte {
	for c := range topColumns {
		if !v.knows(c) {
			continue
		}
		unit := "/s  "
		if c == topFlows {
			unit = "  "
		}
		dst = join(screen.AppendNumber(dst, v.all[c], c == topFlows), " ", topSorts[c].word, unit)
	}
	return dst
}

// appendRemarks appends what the rows do not show.
func (v *topView) appendRemarks(dst []byte) []byte {
	for i := range v.drill {
		dst = append(topKinds[v.drill[i].kind].text(join(dst, topKinds[v.drill[i].kind].word, " "), &v.drill[i].key), ", "...)
	}
	dst = strconv.AppendInt(dst, int64(v.keys), 10)
	if v.keys == 1 {
		dst = join(dst, " key")
	} else {
		dst = join(dst, " keys")
	}
	if v.left > 0 {
		dst = join(dst, ", not shown: ", strconv.FormatUint(v.left, 10), " flows of further keys")
	}
	if v.lost > 0 {
		dst = join(dst, ", ", strconv.FormatUint(v.lost, 10), " events lost")
	}
	if !v.counted && v.all[topFlows] > 0 {
		dst = join(dst, ", no packets and bytes: nf_conntrack_acct=0")
	}
	return dst
}

// join appends the parts. It is not inlined, to keep the binary small.
//
//go:noinline
func join(dst []byte, parts ...string) []byte {
	for _, part := range parts {
		dst = append(dst, part...)
	}
	return dst
}

// knows reports whether the values of a column are known.
func (v *topView) knows(c topColumn) bool {
	return c == topFlows || v.seconds > 0 && (c < topPackets || v.counted)
}

const (
	topKeyWidth    = 18 // minimum: an IPv4 address and two blanks
	topColumnWidth = 12
)

// measure finds the columns that fit beside the keys: from the left, and last the one
// that rows are sorted by if it would not fit.
func (p *topPainter) measure(width int) {
	v := &p.view
	p.keyWidth = topKeyWidth
	for i := range v.rows {
		p.text = topKinds[v.kind].text(p.text[:0], &v.rows[i].key)
		p.keyWidth = max(p.keyWidth, len(p.text)+2)
	}
	p.columns = p.columns[:0]
	for c := range topColumns {
		fits := len(p.columns) == 0 || p.keyWidth+(len(p.columns)+1)*topColumnWidth <= width
		if fits && (c < topPackets || v.counted) {
			p.columns = append(p.columns, c)
		}
	}
	if last := len(p.columns) - 1; p.columns[last] < v.sort && (v.sort < topPackets || v.counted) {
		p.columns[last] = v.sort
	}
	p.keyWidth = max(min(p.keyWidth, width-len(p.columns)*topColumnWidth), 1)
}

// title writes the titles of the columns: the letter that sorts by the column and its
// name, with a star between them for the current one.
func (p *topPainter) title(width int) {
	l := p.line()
	*l = join(*l, screen.Bold, strings.ToUpper(topKinds[p.view.kind].word))
	start := len(screen.Bold)
	for i, c := range p.columns {
		between := " "
		if c == p.view.sort {
			between = "*"
		}
		p.text = join(append(p.text[:0], topSorts[c].letter), between, topSorts[c].title)
		*l = screen.AppendRight(*l, p.text, start+p.keyWidth+(i+1)*topColumnWidth)
	}
	*l = screen.AppendRight(*l, nil, start+width)
	*l = join((*l)[:start+width], screen.Plain)
}

func (p *topPainter) row(r *topRow) {
	l := p.line()
	*l = topKinds[p.view.kind].text(*l, &r.key)
	if len(*l) > p.keyWidth {
		*l = append((*l)[:p.keyWidth-1], '~')
	}
	for i, c := range p.columns {
		p.text = p.text[:0]
		if c == topFlows || p.view.seconds > 0 {
			p.text = screen.AppendNumber(p.text, r.values[c], c == topFlows)
		}
		*l = screen.AppendRight(*l, p.text, p.keyWidth+(i+1)*topColumnWidth)
	}
}

// cut shortens the lines to the size of the screen.
func (p *topPainter) cut(width, height int) [][]byte {
	lines := p.lines[:min(p.used, height)]
	for i, l := range lines {
		if len(l) > width && !strings.HasPrefix(string(l[:min(len(l), 4)]), screen.Bold) {
			lines[i] = l[:width]
		}
	}
	return lines
}

// printable returns an argument of the command line without control characters.
func printable(arg string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, arg)
}

// appendJSON appends the result of a refresh as an object.
func (v *topView) appendJSON(dst []byte) []byte {
	o := jsonout.Object{Dst: dst}
	o.Begin()
	o.Nanoseconds("time", uint64(v.at.UnixNano()))
	o.Token("key", topKinds[v.kind].word)
	o.Token("sort", topSorts[v.sort].word)
	if v.seconds > 0 {
		o.Decimal("seconds", v.seconds, 6)
	}
	v.values(&o, &v.all)
	o.Int("keys", int64(v.keys))
	o.Uint("flows_of_further_keys", v.left)
	o.Uint("events_lost", v.lost)
	o.List("top", len(v.rows), func(i int) {
		topKinds[v.kind].json(&o, &v.rows[i].key)
		v.values(&o, &v.rows[i].values)
	})
	o.End()
	return o.Dst
}

// values writes the columns whose values are known.
func (v *topView) values(o *jsonout.Object, values *[topColumns]float64) {
	for c := range topColumns {
		switch {
		case !v.knows(c):
		case c > topFlows:
			o.Decimal(topSorts[c].word+"_per_second", values[c], 1)
		default:
			o.Decimal(topSorts[c].word, values[c], 0)
		}
	}
}
