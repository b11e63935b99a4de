// Package jsonout writes JSON by appending to a slice: no reflection and no allocation,
// for records that come by the million, and for those whose members depend on what is
// known. encoding/json serves where neither matters.
package jsonout

import (
	"strconv"
	"unicode/utf8"
)

// Object writes JSON objects, one within another, to the end of Dst. Names are written as
// they are: they need no escapes.
type Object struct{ Dst []byte }

// Begin opens an object that is the whole, or the value of a Name.
func (o *Object) Begin() { o.Dst = append(o.Dst, '{') }

// End closes the object that was opened last.
func (o *Object) End() { o.Dst = append(o.Dst, '}') }

// Line closes the whole object and its line.
func (o *Object) Line() { o.Dst = append(o.Dst, '}', '\n') }

// Name writes a member's name; its value follows.
//
// Not inlined: it would be copied into each member of each object, 29 kB.
//
//go:noinline
func (o *Object) Name(name string) {
	if last := o.Dst[len(o.Dst)-1]; last != '{' && last != '[' {
		o.Dst = append(o.Dst, ',')
	}
	o.Dst = append(append(append(o.Dst, '"'), name...), '"', ':')
}

// Open opens an object that is a member.
func (o *Object) Open(name string) {
	o.Name(name)
	o.Dst = append(o.Dst, '{')
}

// List writes a member that is an array of n objects; element writes the members of one.
func (o *Object) List(name string, n int, element func(int)) {
	o.Name(name)
	o.Dst = append(o.Dst, '[')
	for i := range n {
		if i > 0 {
			o.Dst = append(o.Dst, ',')
		}
		o.Dst = append(o.Dst, '{')
		element(i)
		o.Dst = append(o.Dst, '}')
	}
	o.Dst = append(o.Dst, ']')
}

// Uint writes a number.
func (o *Object) Uint(name string, v uint64) {
	o.Name(name)
	o.Dst = strconv.AppendUint(o.Dst, v, 10)
}

// Int writes a number with a sign.
func (o *Object) Int(name string, v int64) {
	o.Name(name)
	o.Dst = strconv.AppendInt(o.Dst, v, 10)
}

// Decimal writes a number with so many decimals, or with as many as it needs if that is -1.
func (o *Object) Decimal(name string, v float64, decimals int) {
	o.Name(name)
	o.Dst = strconv.AppendFloat(o.Dst, v, 'f', decimals, 64)
}

// Nanoseconds writes a time in nanoseconds as seconds with nine decimals: exact, and a
// number that programs without 64-bit integers read well.
func (o *Object) Nanoseconds(name string, ns uint64) {
	o.Uint(name, ns/1e9)
	point := len(o.Dst)
	o.Dst = strconv.AppendUint(o.Dst, 1e9+ns%1e9, 10)
	o.Dst[point] = '.' // in the place of the leading 1
}

// Bool writes true or false.
func (o *Object) Bool(name string, v bool) {
	o.Name(name)
	o.Dst = strconv.AppendBool(o.Dst, v)
}

// Token writes a text that needs no escapes.
func (o *Object) Token(name, v string) {
	o.Name(name)
	o.Dst = append(append(append(o.Dst, '"'), v...), '"')
}

// Text writes a text.
func (o *Object) Text(name, v string) {
	o.Name(name)
	o.Dst = AppendString(o.Dst, v)
}

// Bytes writes a text given as a slice.
func (o *Object) Bytes(name string, v []byte) {
	o.Name(name)
	o.Dst = AppendString(o.Dst, v)
}

const hexDigits = "0123456789abcdef"

// AppendString appends text as a JSON string, in quotes. Bytes that are no UTF-8 become
// U+FFFD.
func AppendString[T string | []byte](dst []byte, text T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
		i++
	}
	return append(dst, '"')
}
