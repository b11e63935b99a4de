package conf

import (
	"cmp"
	"strconv"
	"strings"
	"time"
)

// number is an unsigned integer. Unless keepZero is set, a 0 in the file means the
// default, as in conntrack-tools.
type number[T uint16 | uint32] struct {
	at       func(scope) *T
	min, max uint64
	def      T
	zero     T
	keepZero bool
	tooFar   string // message for a number out of range; "" for the usual one
}

// maxInt is the largest number of clauses without a limit of their own: the largest C int,
// the type that conntrack-tools stores them in.
const maxInt = 1<<31 - 1

func (v *number[T]) read(p *parser, c *clause, s scope, at Pos) *Error {
	n, err := p.number(v.min, v.max, v.tooFar)
	if err != nil {
		return err
	}
	field := v.at(s)
	p.mark(field, c, at)
	if *field = T(n); n == 0 && !v.keepZero {
		*field = max(v.def, v.zero)
	}
	return nil
}

func (v *number[T]) field(s scope) any { return v.at(s) }
func (v *number[T]) reset(s scope)     { *v.at(s) = v.def }

func (v *number[T]) print(w *printer, c *clause, s scope) {
	if n := *v.at(s); w.all && n != 0 || n != v.def {
		w.line(c.name, strconv.FormatUint(uint64(n), 10))
	}
}

func (v *number[T]) syntax() string {
	if v.max == maxInt {
		return "N"
	}
	return strconv.FormatUint(v.min, 10) + ".." + strconv.FormatUint(v.max, 10)
}

func (v *number[T]) standard() string {
	if v.def == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(v.def), 10)
}

// number parses an integer in a range.
func (p *parser) number(least, most uint64, tooFar string) (uint64, *Error) {
	expected := "a number from " + strconv.FormatUint(least, 10) + " to " + strconv.FormatUint(most, 10)
	t, err := p.word(expected)
	if err != nil {
		return 0, err
	}
	if strings.Trim(t.text, "0123456789") != "" {
		return 0, p.mismatch(t, expected)
	}
	// All digits: the only error left is a range error.
	n, bad := strconv.ParseUint(t.text, 10, 64)
	if bad != nil || n < least || n > most {
		if tooFar != "" {
			return 0, &Error{Pos: t.pos, Text: tooFar}
		}
		return 0, p.mismatch(t, expected)
	}
	return n, nil
}

// seconds is a number of seconds. Zero means the default.
type seconds struct {
	at     func(scope) *time.Duration
	min    uint64
	max    uint64 // 0: maxInt
	def    time.Duration
	tooFar string
	onOff  bool // also takes on, for the default, and off, for 0
}

func (v *seconds) read(p *parser, c *clause, s scope, at Pos) *Error {
	field := v.at(s)
	if v.onOff && p.tok.kind == tokenWord {
		if on, ok := switches[strings.ToLower(p.tok.text)]; ok {
			p.next()
			p.mark(field, c, at)
			if *field = 0; on {
				*field = v.def
			}
			return nil
		}
	}
	n, err := p.number(v.min, cmp.Or(v.max, maxInt), v.tooFar)
	if err != nil {
		if v.onOff {
			err.Expected = "on, off or " + err.Expected
		}
		return err
	}
	p.mark(field, c, at)
	if *field = time.Duration(n) * time.Second; n == 0 {
		*field = v.def
	}
	return nil
}

func (v *seconds) field(s scope) any { return v.at(s) }
func (v *seconds) reset(s scope)     { *v.at(s) = v.def }

func (v *seconds) print(w *printer, c *clause, s scope) {
	switch d := *v.at(s); {
	case d == v.def && (!w.all || d == 0):
	case d == 0:
		w.line(c.name, "off")
	default:
		w.line(c.name, strconv.FormatInt(int64(d/time.Second), 10))
	}
}

func (v *seconds) syntax() string {
	if v.onOff {
		return "on | off | SECONDS"
	}
	if v.max != 0 {
		return strconv.FormatUint(v.min, 10) + ".." + strconv.FormatUint(v.max, 10)
	}
	return "SECONDS"
}

func (v *seconds) standard() string {
	if v.def == 0 {
		return ""
	}
	return strconv.FormatInt(int64(v.def/time.Second), 10)
}

// boolean is on or off.
type boolean struct {
	at  func(scope) *bool
	def bool
}

// switches are the words of a boolean, in any letter case.
var switches = map[string]bool{"on": true, "yes": true, "off": false, "no": false}

func (p *parser) flag() (bool, *Error) {
	if p.tok.kind == tokenWord {
		if on, ok := switches[strings.ToLower(p.tok.text)]; ok {
			p.next()
			return on, nil
		}
	}
	return false, p.unexpected("on, yes, off or no", "on", "yes", "off", "no")
}

func (v *boolean) read(p *parser, c *clause, s scope, at Pos) *Error {
	on, err := p.flag()
	if err != nil {
		return err
	}
	field := v.at(s)
	p.mark(field, c, at)
	*field = on
	return nil
}

func (v *boolean) field(s scope) any { return v.at(s) }
func (v *boolean) reset(s scope)     { *v.at(s) = v.def }

func (v *boolean) print(w *printer, c *clause, s scope) {
	if on := *v.at(s); w.all || on != v.def {
		w.line(c.name, onOff(on))
	}
}

func (v *boolean) syntax() string   { return "on | off" }
func (v *boolean) standard() string { return onOff(v.def) }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// ignored is a value that is parsed and not stored.
type ignored struct {
	skip func(p *parser) *Error
	form string
}

func (v *ignored) read(p *parser, c *clause, s scope, at Pos) *Error { return v.skip(p) }
func (v *ignored) field(scope) any                                   { return nil }
func (v *ignored) reset(scope)                                       {}
func (v *ignored) print(*printer, *clause, scope)                    {}
func (v *ignored) syntax() string                                    { return v.form }
func (v *ignored) standard() string                                  { return "" }
