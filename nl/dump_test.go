package nl

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// message is a netlink message as the kernel sends it.
func message(typ, flags uint16, seq uint32, payload ...byte) []byte {
	b := native.AppendUint32(nil, uint32(NetlinkHeaderLen+len(payload)))
	b = native.AppendUint16(b, typ)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	return append(native.AppendUint32(b, 0), payload...)
}

// A change of the table during a dump cannot be provoked, so these messages are made by hand:
// NLM_F_DUMP_INTR is recognised anywhere in a dump.
func TestScanOfADump(t *testing.T) {
	entry := func(flags uint16, seq uint32) []byte {
		return message(1<<8, unix.NLM_F_MULTI|flags, seq, FamilyIPv4, 0, 0, 0)
	}
	done := func(flags uint16, seq uint32) []byte {
		return message(unix.NLMSG_DONE, unix.NLM_F_MULTI|flags, seq, 0, 0, 0, 0)
	}
	refused := message(unix.NLMSG_ERROR, 0, 7, native.AppendUint32(nil, ^uint32(unix.EPERM-1))...)
	for _, c := range []struct {
		name              string
		in                [][]byte
		done, interrupted bool
		err               error
	}{
		{"goes on", [][]byte{entry(0, 7), entry(0, 7)}, false, false, nil},
		{"ends", [][]byte{entry(0, 7), done(0, 7)}, true, false, nil},
		{"interrupted at an entry", [][]byte{entry(unix.NLM_F_DUMP_INTR, 7), entry(0, 7), done(0, 7)}, true, true, nil},
		{"interrupted at the end", [][]byte{entry(0, 7), done(unix.NLM_F_DUMP_INTR, 7)}, true, true, nil},
		{"the end of another", [][]byte{done(unix.NLM_F_DUMP_INTR, 6), entry(0, 7)}, false, false, nil},
		{"refused", [][]byte{refused}, true, false, unix.EPERM},
		{"cut off", [][]byte{entry(0, 7), entry(0, 7)[:18]}, true, false, ErrTruncated},
		{"a piece of a header", [][]byte{entry(0, 7), {1, 2, 3, 4}}, true, false, ErrTruncated},
	} {
		r := dumpReader{seq: 7}
		ended := r.scan(slices.Concat(c.in...))
		if ended != c.done || r.info.Interrupted != c.interrupted || !errors.Is(r.err, c.err) {
			t.Errorf("%s: done %t, interrupted %t, %v", c.name, ended, r.info.Interrupted, r.err)
		}
	}
}
