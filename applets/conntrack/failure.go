package conntrack

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"ctbox/internal/strerror"
	"ctbox/nl"
)

// refusal is what the kernel said to a command, in conntrack(8)'s words.
type refusal struct {
	op    Op
	table Table
	err   error
	hint  string // what we know beyond that, in parentheses
}

func (r *refusal) Unwrap() error { return r.err }

// Error is "Operation failed: TEXT" in the words of conntrack-tools. What the
// kernel itself explained (its extended acknowledgement) follows in
// parentheses, so that programs which look for the text in front still find it.
func (r *refusal) Error() string {
	text := "Operation failed: " + r.text()
	var k *nl.Error
	if errors.As(r.err, &k) && k.Text != "" {
		text += " (kernel: " + k.Text + ")"
	}
	if r.hint != "" {
		text += " (" + r.hint + ")"
	}
	return text
}

func (r *refusal) text() string {
	var errno unix.Errno
	if !errors.As(r.err, &errno) {
		return r.err.Error()
	}
	if r.hint == hintFixedTimeout {
		return strerror.Text(errno) // it is not the user's privilege that is missing
	}
	on := onConntrack
	if r.table == TableExpect {
		on = onExpect
	}
	for _, row := range refusalTexts {
		if row.errno == errno && row.on&on != 0 && (row.ops == nil || slices.Contains(row.ops, r.op)) {
			return row.text
		}
	}
	return strerror.Text(errno)
}

// errENOTSUPP is the kernel's own number, which the C library has no name for.
const errENOTSUPP = unix.Errno(524)

const (
	onConntrack uint8 = 1 << iota
	onExpect
)

// refusalText is the text for an error of some commands; nil is all of them.
type refusalText struct {
	errno unix.Errno
	on    uint8
	ops   []Op
	text  string
}

// refusalTexts are looked through in order; what is not here has strerror(3)'s
// text.
var refusalTexts = [...]refusalText{
	{unix.EPERM, onConntrack | onExpect, nil, "sorry, you must be root or get CAP_NET_ADMIN capability to do this"},
	{errENOTSUPP, onConntrack, []Op{OpList}, "function not implemented"},
	{unix.EINVAL, onConntrack, []Op{OpList, OpCreate, OpUpdate, OpDelete, OpGet, OpFlush, OpEvents, OpCount, OpTop}, "invalid parameters"},
	{unix.EINVAL, onExpect, []Op{OpList, OpCreate, OpDelete, OpGet, OpFlush, OpEvents}, "invalid parameters"},
	{unix.EEXIST, onConntrack, []Op{OpCreate}, "Such conntrack exists, try -U to update"},
	{unix.ENOENT, onConntrack, []Op{OpCreate, OpGet, OpDelete, OpAdd}, "such conntrack doesn't exist"},
	{unix.ENOENT, onExpect, []Op{OpCreate}, "master conntrack not found"},
	{unix.ENOMEM, onConntrack, []Op{OpCreate, OpGet, OpAdd}, "not enough memory"},
	{unix.EAFNOSUPPORT, onConntrack, []Op{OpGet}, "protocol not supported"},
	{unix.ETIME, onConntrack, []Op{OpCreate, OpAdd}, "conntrack has expired"},
}

// isErrno reports whether the kernel refused with one of the errors.
func isErrno(err error, errnos ...unix.Errno) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && slices.Contains(errnos, errno)
}

// failure is an error in the words of conntrack(8), and its cause.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text + ": " + f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }
