package doctor

import (
	"strconv"
	"strings"

	"ctbox/applets/conntrack"
	"ctbox/nl/ctnetlink"
)

// checkLabels reads the label file as conntrack does, and reports lines without effect.
func checkLabels(h *host, r *report) {
	path := h.root + strings.TrimPrefix(conntrack.DefaultLabelFile, "/")
	labels, err := conntrack.ReadLabelMap(path)
	switch {
	case isNotExist(err):
		r.ok("no " + conntrack.DefaultLabelFile + ": labels have no names")
		return
	case err != nil:
		r.add(Warning, err.Error(), "-l and -o labels cannot use names", "lines of a number and a name: 0 first-label")
		return
	}
	text, err := h.file(strings.TrimPrefix(conntrack.DefaultLabelFile, "/"))
	if err != nil {
		return
	}
	n, good := 0, true
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		number, name := cutBlank(line)
		bit, known := labels.Bit(name)
		at := conntrack.DefaultLabelFile + ":" + strconv.Itoa(n) + ": "
		switch want, err := strconv.ParseUint(number, 0, 32); {
		case err != nil || !known || uint64(bit) != want:
			good = false
			r.add(Warning, at+"the line `"+line+"' has no effect",
				"it is not a number up to "+strconv.Itoa(ctnetlink.MaxLabels-1)+" and a name of letters, digits and hyphens, or repeats one of the lines before", "correct the line")
		case bit >= ctnetlink.MaxLabels:
			good = false
			r.add(Warning, at+"label "+number+" is beyond "+strconv.Itoa(ctnetlink.MaxLabels-1), "no flow can carry it", "give it a lower number")
		}
	}
	if good {
		r.ok(conntrack.DefaultLabelFile + " can be read")
	}
}

// cutBlank cuts a line at its first blanks.
func cutBlank(line string) (word, rest string) {
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		return line, ""
	}
	return line[:i], strings.TrimSpace(line[i:])
}
