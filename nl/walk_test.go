package nl

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// message is a netlink message as the kernel sends it.
func message(typ, flags uint16, seq uint32, payload ...byte) []byte {
	b := native.AppendUint32(nil, uint32(nlmsgHeader+len(payload)))
	b = native.AppendUint16(b, typ)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	return append(native.AppendUint32(b, 0), payload...)
}

// A table that changes while it is read cannot be had on demand, so that these
// are made by hand: what NLM_F_DUMP_INTR says, wherever it stands in the dump.
func TestDumpsKnowTheirEnd(t *testing.T) {
	entry := func(flags uint16, seq uint32) []byte {
		return message(uint16(TypeFlowNew), unix.NLM_F_MULTI|flags, seq, FamilyIPv4, 0, 0, 0)
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
		{"cut off", [][]byte{entry(0, 7), entry(0, 7)[:18]}, true, false, errShort},
		{"a piece of a header", [][]byte{entry(0, 7), {1, 2, 3, 4}}, true, false, errShort},
	} {
		r := dumpReader{seq: 7}
		ended := r.scan(slices.Concat(c.in...))
		if ended != c.done || r.info.Interrupted != c.interrupted || !errors.Is(r.err, c.err) {
			t.Errorf("%s: done %t, interrupted %t, %v", c.name, ended, r.info.Interrupted, r.err)
		}
	}
}

func TestEventsHaveTheTimeOfTheirDatagram(t *testing.T) {
	begin := time.Unix(1800000000, 0)
	var e Events
	var want []time.Duration
	for i, n := range []int{1, 3, 2} {
		for range n {
			e.buf = append(e.buf, message(uint16(TypeFlowNew), 0, 0, FamilyIPv4, 0, 0, 0)...)
			want = append(want, time.Duration(i)*time.Second)
		}
		e.marks = append(e.marks, mark{end: len(e.buf), at: begin.Add(time.Duration(i) * time.Second)})
	}
	var got []time.Duration
	if err := e.Each(func(_ *Message, at time.Time) error {
		got = append(got, at.Sub(begin))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
