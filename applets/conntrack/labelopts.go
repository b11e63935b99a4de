package conntrack

import (
	"errors"
	"strings"
	"syscall"

	"ctbox/internal/strerror"
	"ctbox/nl/ctnetlink"
)

// setLabels notes the argument of -l, --label-add or --label-del.
func (p *Parser) setLabels(o *option, arg string, given bool) error {
	if p.cmd.Given&OptLabelAdd != 0 && p.cmd.Given&OptLabelDel != 0 {
		return refused("cannot use --label-add and --label-del at the same time")
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
		return usage("option `--labelmap' can only be specified once")
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
				return usage("unknown label '" + name + "'")
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

// cause is the C library's text for what is wrong with a label file. A file
// without labels is "Success" to conntrack-tools, since no call failed.
func cause(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return "Success"
	}
	return strerror.Text(errno)
}
