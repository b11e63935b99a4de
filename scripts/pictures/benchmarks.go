package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// benchmark is a row of the table: a work and its times.
type benchmark struct {
	work         string
	peer, ours   string // as the page has them
	peerS, oursS float64
}

// readBenchmarks reads the first table of a page that compares times of another
// program with those of ctbox. peer is the other program's column. Rows where one of
// the two has no time are left out.
func readBenchmarks(page string) (peer string, all []benchmark, err error) {
	var peerAt, oursAt int
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(all) > 0 {
				return peer, all, nil
			}
			peerAt = 0
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if i := slices.Index(cells, "ctbox"); cells[0] == "work" && i > 1 {
			peer, peerAt, oursAt = cells[i-1], i-1, i
			continue
		}
		if peerAt == 0 || len(cells) <= oursAt {
			continue
		}
		b := benchmark{work: cells[0], peer: cells[peerAt], ours: cells[oursAt]}
		if b.peerS = seconds(b.peer); b.peerS == 0 {
			continue
		}
		if b.oursS = seconds(b.ours); b.oursS == 0 {
			continue
		}
		all = append(all, b)
	}
	if len(all) == 0 {
		return "", nil, errors.New("no table of works with times")
	}
	return peer, all, nil
}

// seconds reads "1.66 s" and "2.6 ms"; anything else is 0.
func seconds(text string) float64 {
	number, unit, _ := strings.Cut(text, " ")
	v, err := strconv.ParseFloat(number, 64)
	scale := map[string]float64{"s": 1, "ms": 1e-3, "us": 1e-6}[unit]
	if err != nil || v < 0 {
		return 0
	}
	return v * scale
}

// drawBenchmarks draws the table of docs/benchmarks.md: each work with the peer's time
// as 1 and ctbox's time below it.
func drawBenchmarks(root string) (*svg, error) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "benchmarks.md"))
	if err != nil {
		return nil, err
	}
	peer, all, err := readBenchmarks(string(page))
	if err != nil {
		return nil, err
	}
	const left, row, top = 300.0, 34.0, 62.0
	most := 1.0
	for _, b := range all {
		most = max(most, b.oursS/b.peerS)
	}
	unit := 340 / most
	s := newSVG(760, int(top+row*float64(len(all)))+16, "conntrack's times beside those of "+peer+"'s, which are 1")
	s.rect("fb", left, 16, 12, 12, 2)
	s.text("", left+18, 27, peer+" = 1")
	s.rect("fa", left+120, 16, 12, 12, 2)
	s.text("", left+138, 27, "ctbox")
	s.text("m end", left-12, 27, "time, shorter is better")
	for v := 0.0; v <= most; v += 0.5 {
		x := left + v*unit
		s.path("l", x, top-14, x, top+row*float64(len(all)))
		s.text("m mid", x, top-18, number(v))
	}
	for i, b := range all {
		y := top + row*float64(i)
		s.text("end", left-12, y+17, b.work)
		s.rect("fb", left, y+2, unit, 11, 2)
		s.text("m s halo", left+unit+6, y+11, b.peer)
		w := unit * b.oursS / b.peerS
		s.rect("fa", left, y+15, max(w, 1), 11, 2)
		s.text("s halo", left+w+6, y+25, b.ours)
	}
	return s, nil
}
