package conntrack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"ctbox/internal/cnum"
	"ctbox/internal/strerror"
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

func (m *LabelMap) sortedNames() []string {
	if m == nil {
		return nil
	}
	return sortedKeys(m.bits)
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

// setLabels keeps the argument of -l, --label-add or --label-del for resolveLabels.
func (p *Parser) setLabels(o *option, arg string, given bool) error {
	if p.cmd.Given&OptLabelAdd != 0 && p.cmd.Given&OptLabelDel != 0 {
		return errRefused("cannot use --label-add and --label-del at the same time")
	}
	if !given {
		p.cmd.LabelDelAll = true
		return nil
	}
	p.labelArgs = append(p.labelArgs, labelArg{o.bit, arg})
	return nil
}

func (p *Parser) setLabelMap(_ *option, arg string, _ bool) error {
	if p.hasLabelFile {
		return errUsage("option `--labelmap' can only be specified once")
	}
	p.labelFile, p.hasLabelFile = arg, true
	return nil
}

// resolveLabels reads the label file if an option needs it, and looks the
// labels' names up.
func (p *Parser) resolveLabels() error {
	c := p.cmd
	if !c.Has(OptLabel|OptLabelAdd|OptLabelDel) && c.Output&OutLabels == 0 {
		return nil
	}
	c.LabelMap = p.labelMap()
	for _, a := range p.labelArgs {
		set := &c.Labels
		switch a.opt {
		case OptLabelAdd:
			set = &c.LabelsAdd
		case OptLabelDel:
			set = &c.LabelsDel
		}
		for name := range strings.SplitSeq(a.arg, ",") {
			bit, ok := 0, false
			if c.LabelMap != nil {
				bit, ok = c.LabelMap.Bit(name)
			}
			if !ok {
				return errUsage("unknown label '"+name+"'").meant(name, c.LabelMap.sortedNames(), "")
			}
			if bit >= ctnetlink.MaxLabels {
				set.Beyond = true
				continue
			}
			set.Bits.SetBit(bit)
		}
	}
	return nil
}

// labelMap reads the line's label file, once for all lines. It returns nil
// after a warning when there is none.
func (p *Parser) labelMap() *LabelMap {
	path := p.LabelFile
	if p.hasLabelFile {
		path = p.labelFile
	}
	if m, read := p.labelMaps[path]; read {
		return m
	}
	m, err := ReadLabelMap(path)
	if err != nil {
		p.warn("nfct_labelmap_new: " + cause(err) + "\n")
		m = nil
	}
	if p.labelMaps == nil {
		p.labelMaps = make(map[string]*LabelMap)
	}
	p.labelMaps[strings.Clone(path)] = m
	return m
}

// cause returns the C library's text for an error of reading a label file. For a file
// without labels it is "Success", as conntrack-tools prints it, since no call failed.
func cause(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return "Success"
	}
	return strerror.Text(errno)
}
