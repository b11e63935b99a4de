package conntrack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ctbox/internal/cnum"
	"ctbox/nl/ctnetlink"
)

// DefaultLabelFile is where iptables and conntrack look for names of labels.
const DefaultLabelFile = "/etc/xtables/connlabel.conf"

// The limits of a label file: label numbers, which go beyond what a flow can
// carry, and bytes in a line.
const (
	maxLabelNumber = 1023
	maxLabelLine   = 1023
	maxLabelFile   = 1 << 20
)

var errNoLabels = errors.New("no label in it")

// LabelMap is the content of a label file: names of connection labels. It is
// not changed after it was read.
type LabelMap struct {
	names [ctnetlink.MaxLabels]string // by number; "" is a label without name
	bits  map[string]int              // numbers up to maxLabelNumber
}

// Bit returns the number of the label called name.
func (m *LabelMap) Bit(name string) (bit int, ok bool) {
	bit, ok = m.bits[name]
	return bit, ok
}

// ReadLabelMap reads the label file at path. A file without any label is an
// error, as it is for conntrack-tools.
func ReadLabelMap(path string) (*LabelMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLabelFile))
	if err != nil {
		return nil, err
	}
	m := parseLabelMap(text)
	if len(m.bits) == 0 {
		return nil, fmt.Errorf("read %s: %w", path, errNoLabels)
	}
	return m, nil
}

// parseLabelMap reads lines of a number and a name. Lines starting with # and
// lines that do not have that form are skipped; of two lines with the same
// number or the same name the first counts.
func parseLabelMap(text []byte) *LabelMap {
	m := &LabelMap{bits: make(map[string]int)}
	numbered := make(map[int]bool)
	for line := range bytes.Lines(text) {
		if len(line) > maxLabelLine || line[0] == '#' {
			continue
		}
		bit, rest, ok := cnum.Uint(strings.TrimSuffix(string(line), "\n"))
		if !ok || bit > maxLabelNumber {
			continue
		}
		name := strings.Trim(rest, " \t\f\r\v")
		if !validLabel(name) || numbered[int(bit)] {
			continue
		}
		if _, taken := m.bits[name]; taken {
			continue
		}
		numbered[int(bit)] = true
		m.bits[name] = int(bit)
		if bit < ctnetlink.MaxLabels {
			m.names[bit] = name
		}
	}
	return m
}

func validLabel(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !isAlnum(c) && c != ' ' && c != '-' {
			return false
		}
	}
	return name != ""
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
