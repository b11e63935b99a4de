package conntrack

import (
	"math"
	"strconv"
	"strings"
	"time"

	"ctbox/internal/cnum"
	"ctbox/nl/ctnetlink"
)

// wholeNumber reads all of s as an unsigned number up to most: decimal, octal (0…) or
// hexadecimal (0x…), as strtoul(3) does with base 0. A minus sign is refused, which
// strtoul(3) takes for a large number.
func wholeNumber(s string, most uint64) (uint64, bool) {
	v, rest, ok := cnum.Uint(s)
	return v, ok && rest == "" && v <= most && !strings.Contains(s, "-")
}

// wholeDecimal reads all of s as an unsigned decimal number up to most. The options
// that conntrack-tools reads by atoi(3) are decimal: "010" is 10, and "0x10" is no
// number.
func wholeDecimal(s string, most int64) (int64, bool) {
	v, rest, ok := cnum.Int(s)
	return v, ok && rest == "" && v >= 0 && v <= most && !strings.Contains(s, "-")
}

// unexpected refuses an argument that is not understood as a whole. The text is
// conntrack-tools'; name is the option with its dashes.
func unexpected(arg, name string) error {
	return usage("unexpected value '" + arg + "' with " + name + " option")
}

// notA is unexpected for the options whose arguments conntrack-tools takes as they
// come; it says what the argument has to be.
func notA(arg, name, what string) error {
	return usage("unexpected value '" + arg + "' with " + name + " option: not " + what)
}

// setNumber sets the options whose argument is one number and nothing else.
func (p *Parser) setNumber(o *option, arg string, _ bool) error {
	most := uint64(math.MaxUint32)
	if o.bit&(OptZone|OptOrigZone|OptReplyZone) != 0 {
		most = math.MaxUint16
	}
	v, ok := wholeNumber(arg, most)
	if !ok {
		return unexpected(arg, "-"+string(rune(o.short)))
	}
	f := &p.cmd.Flow
	switch o.bit {
	case OptID:
		f.ID = uint32(v)
		f.Has |= ctnetlink.HasID
	case OptSecmark:
		f.Secmark = uint32(v)
		f.Has |= ctnetlink.HasSecmark
	case OptZone:
		f.Zone = uint16(v)
		f.Has |= ctnetlink.HasZone
	case OptOrigZone:
		f.Orig.Zone = uint16(v)
		f.Orig.Has |= ctnetlink.TupleZone
	case OptReplyZone:
		f.Reply.Zone = uint16(v)
		f.Reply.Has |= ctnetlink.TupleZone
	}
	return nil
}

// setMark reads VALUE[/MASK].
func (p *Parser) setMark(o *option, arg string, _ bool) error {
	value, maskText, hasMask := strings.Cut(arg, "/")
	v, ok := wholeNumber(value, math.MaxUint32)
	m := uint64(math.MaxUint32)
	if ok && hasMask {
		m, ok = wholeNumber(maskText, math.MaxUint32)
	}
	if !ok {
		return unexpected(arg, "-"+string(rune(o.short)))
	}
	p.cmd.Flow.Mark, p.cmd.Flow.MarkMask = uint32(v), uint32(m)
	p.cmd.Flow.Has |= ctnetlink.HasMark | ctnetlink.HasMarkMask
	return nil
}

func (p *Parser) setTimeout(_ *option, arg string, _ bool) error {
	v, ok := wholeDecimal(arg, math.MaxUint32)
	if !ok {
		return notA(arg, "-t", "a number of seconds")
	}
	p.cmd.Flow.Timeout = uint32(v)
	p.cmd.Flow.Has |= ctnetlink.HasTimeout
	return nil
}

func (p *Parser) setBufferSize(_ *option, arg string, _ bool) error {
	v, ok := wholeDecimal(arg, math.MaxInt32)
	if !ok {
		return notA(arg, "-b", "a number of bytes")
	}
	p.cmd.BufferSize = v
	return nil
}

func (p *Parser) setQueueSize(o *option, arg string, _ bool) error {
	v, ok := wholeNumber(arg, math.MaxInt64)
	if !ok || v == 0 {
		return unexpected(arg, "--"+o.name)
	}
	p.cmd.QueueSize = int64(v)
	return nil
}

// setRefresh reads seconds, whole ones or with up to three decimals.
func (p *Parser) setRefresh(o *option, arg string, _ bool) error {
	whole, fraction, _ := strings.Cut(arg, ".")
	ms, err := strconv.ParseUint(whole+(fraction + "000")[:3], 10, 32)
	every := time.Duration(ms) * time.Millisecond
	if err != nil || whole == "" || len(fraction) > 3 || every < 100*time.Millisecond || every > 24*time.Hour {
		return unexpected(arg, "--"+o.name)
	}
	p.cmd.Refresh = every
	return nil
}

// setTopKey reads KEY[,SORT]. Words can be shortened.
func (p *Parser) setTopKey(o *option, arg string, _ bool) error {
	key, sort, sorted := strings.Cut(arg, ",")
	known := false
	for i := range topKinds {
		if key != "" && strings.HasPrefix(topKinds[i].word, key) {
			p.cmd.TopKey, known = uint8(i), true
			break
		}
	}
	if known && sorted {
		known = false
		for i := range topSorts {
			if sort != "" && strings.HasPrefix(topSorts[i].word, sort) {
				p.cmd.TopSort, known = topColumn(i), true
				break
			}
		}
	}
	if !known {
		return unexpected(arg, "--"+o.name)
	}
	return nil
}

func (p *Parser) setNothing(*option, string, bool) error { return nil }

func (p *Parser) ignoreNATRange(*option, string, bool) error {
	p.warn("WARNING: ignoring -a, deprecated option.\n")
	p.dropped = "--nat-range"
	return nil
}
