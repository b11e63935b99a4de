package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// curve is a line of a chart. A NaN is a gap.
type curve struct {
	label  string
	values []float64
}

// colours are the classes of curves, in turn.
var colours = []string{"a", "c", "d", "e", "b"}

// niceAbove returns a round number that is not less than v.
func niceAbove(v float64) float64 {
	if v <= 0 {
		return 1
	}
	scale := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if v <= m*scale*(1+1e-9) {
			return m * scale
		}
	}
	return 10 * scale
}

// plot draws curves into a frame with lines at the bottom, the middle and the top, and
// negative values below the bottom.
func (s *svg) plot(x, y, w, h float64, curves []curve, format func(float64) string) {
	s.plotFrom(x, y, w, h, 0, curves, format)
}

// plotFrom is plot with the first value at from, a part of the width.
func (s *svg) plotFrom(x, y, w, h, from float64, curves []curve, format func(float64) string) {
	most, least := 0.0, 0.0
	for _, c := range curves {
		for _, v := range c.values {
			if !math.IsNaN(v) {
				most, least = max(most, v), min(least, v)
			}
		}
	}
	most = niceAbove(most)
	if least < 0 {
		least = -niceAbove(-least)
	}
	at := func(v float64) float64 { return y + h*(most-v)/(most-least) }
	ticks := []float64{most, most / 2, 0}
	if least < 0 {
		ticks = []float64{most, 0, least}
	}
	for _, v := range ticks {
		s.path("l", x, at(v), x+w, at(v))
		s.text("m s end", x-5, at(v)+4, format(v))
	}
	for i, c := range curves {
		class := "l" + colours[i%len(colours)]
		if i >= len(colours) {
			class += " dash"
		}
		var points []float64
		flush := func() {
			if len(points) > 2 {
				s.path(class, points...)
			}
			points = points[:0]
		}
		for j, v := range c.values {
			if math.IsNaN(v) {
				flush()
				continue
			}
			points = append(points, x+w*(from+(1-from)*float64(j)/float64(max(len(c.values)-1, 1))), at(v))
		}
		flush()
	}
}

// legend writes the labels of curves, as many as fit three rows of a width.
func (s *svg) legend(x, y, width float64, curves []curve) {
	begin, row := x, 1
	for i, c := range curves {
		w := 24 + 6.3*float64(len(c.label))
		if x+w > begin+width && x > begin {
			if x, y, row = begin, y+14, row+1; row > 3 {
				return
			}
		}
		s.rect("f"+colours[i%len(colours)], x, y-8, 10, 3, 1)
		s.text("m s", x+14, y-3, c.label)
		x += w
	}
}

// drawSoak draws the memory and CPU of a pair over the time of a soak.
func drawSoak(root string) (*svg, error) {
	data, err := os.ReadFile(record(root, "soak.csv"))
	if err != nil {
		return nil, err
	}
	var what string
	columns := map[string][]float64{}
	var names []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "# "); ok {
			what = text
			continue
		}
		cells := strings.Split(line, ",")
		if names == nil {
			names = cells
			continue
		}
		if len(cells) != len(names) {
			return nil, fmt.Errorf("soak.csv: %q does not have %d columns", line, len(names))
		}
		for i, cell := range cells {
			v, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				return nil, fmt.Errorf("soak.csv: %w", err)
			}
			columns[names[i]] = append(columns[names[i]], v)
		}
	}
	times := columns["seconds"]
	if len(times) < 2 {
		return nil, errors.New("soak.csv has no samples")
	}
	last := times[len(times)-1]
	s := newSVG(760, 330, "The soak: memory and CPU of both daemons over "+number(last/60)+" minutes, "+what)
	s.text("h", 20, 28, "make soak")
	s.text("m", 106, 28, fmt.Sprintf("%s, for %s minutes", what, number(last/60)))
	panel := func(y float64, title string, active, backup []float64, format func(float64) string) {
		curves := []curve{{"active", active}, {"backup", backup}}
		s.text("", 70, y, title)
		s.legend(600, y, 150, curves)
		s.plotFrom(70, y+12, 660, 90, times[0]/last, curves, format)
	}
	panel(58, "memory (resident set)", columns["active MiB"], columns["backup MiB"], func(v float64) string { return number(v) + " MiB" })
	panel(190, "CPU for an event", columns["active us/event"], columns["backup us/event"], func(v float64) string { return number(v) + " us" })
	step := math.Ceil(last / 60 / 8)
	for minute := 0.0; minute <= last/60+1e-9; minute += step {
		s.text("m s mid", 70+660*minute*60/last, 310, number(minute)+" min")
	}
	return s, nil
}

// dashboard is the part of Grafana's JSON that is drawn.
type dashboard struct {
	Title  string
	Panels []struct {
		Title, Type string
		GridPos     struct{ X, Y, W, H float64 }
		FieldConfig struct {
			Defaults struct{ Unit string }
		}
		Targets []struct{ Expr, LegendFormat string }
	}
}

var legendLabel = regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}`)

// drawDashboard draws the panels of Grafana's dashboard in their places, with recorded data of
// Prometheus.
func drawDashboard(root string) (*svg, error) {
	text, err := os.ReadFile(filepath.Join(root, "scripts", "monitoring", "grafana-conntrackd.json"))
	if err != nil {
		return nil, err
	}
	var board dashboard
	if err := json.Unmarshal(text, &board); err != nil {
		return nil, err
	}
	if text, err = os.ReadFile(record(root, "dashboard.json")); err != nil {
		return nil, err
	}
	var recorded map[string][]struct {
		Labels map[string]string
		Values []*float64
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		return nil, fmt.Errorf("dashboard.json: %w", err)
	}
	const unit, gap, top = 40.0, 8.0, 44.0 // of the grid of 24 columns
	rows := 0.0
	for _, p := range board.Panels {
		rows = max(rows, p.GridPos.Y+p.GridPos.H)
	}
	const rowHeight = 22.0
	s := newSVG(int(24*unit+gap), int(top+rows*rowHeight+gap), "The Grafana dashboard "+board.Title+": a pair of daemons over three minutes")
	s.text("big", 16, 30, board.Title)
	for _, p := range board.Panels {
		x, y := gap+p.GridPos.X*unit, top+p.GridPos.Y*rowHeight
		w, h := p.GridPos.W*unit-gap, p.GridPos.H*rowHeight-gap
		s.rect("box", x, y, w, h, 4)
		s.text("h", x+10, y+20, p.Title)
		var curves []curve
		for _, target := range p.Targets {
			for _, series := range recorded[target.Expr] {
				c := curve{label: strings.TrimSpace(legendLabel.ReplaceAllStringFunc(target.LegendFormat, func(m string) string {
					return series.Labels[legendLabel.FindStringSubmatch(m)[1]]
				}))}
				for _, v := range series.Values {
					if v == nil {
						c.values = append(c.values, math.NaN())
					} else {
						c.values = append(c.values, *v)
					}
				}
				curves = append(curves, c)
			}
		}
		format := func(v float64) string { return withUnit(v, p.FieldConfig.Defaults.Unit) }
		switch {
		case len(curves) == 0:
			s.text("m mid", x+w/2, y+h/2+8, "no data")
		case p.Type == "stat":
			for i, c := range curves {
				s.text("m", x+10, y+46+float64(26*i), c.label)
				s.text("big end fd", x+w-12, y+50+float64(26*i), format(c.values[len(c.values)-1]))
			}
		default:
			s.plot(x+66, y+32, w-78, h-32-12-14*3, curves, format)
			s.legend(x+10, y+h-34, w-16, curves)
		}
	}
	return s, nil
}

// withUnit formats a value in a unit of Grafana's.
func withUnit(v float64, unit string) string {
	if math.IsNaN(v) {
		return "–"
	}
	scaled := func(base float64, prefixes ...string) string {
		i, a := 0, math.Abs(v)
		for a >= base && i+1 < len(prefixes) {
			a, v, i = a/base, v/base, i+1
		}
		digits := 3
		if a >= 100 {
			digits = 4
		}
		return strconv.FormatFloat(v, 'g', digits, 64) + prefixes[i]
	}
	switch {
	case v == 0 && unit != "percentunit":
		return "0"
	case unit == "s" && math.Abs(v) < 1:
		v *= 1000
		return scaled(1e9, " ms")
	case unit == "s" && math.Abs(v) >= 90:
		v /= 60
		return scaled(1e9, " min")
	case unit == "s":
		return scaled(1e9, " s")
	case unit == "percentunit":
		v *= 100
		return scaled(1e9, " %")
	case unit == "bytes":
		return scaled(1024, " B", " KiB", " MiB", " GiB")
	case unit == "bps":
		return scaled(1000, " b/s", " kb/s", " Mb/s", " Gb/s")
	case unit == "ops":
		return scaled(1000, "/s", "k/s", "M/s")
	}
	return scaled(1000, "", "k", "M", "G")
}
