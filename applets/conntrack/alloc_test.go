package conntrack

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/nl"
)

// TestPrintingAllocates holds that a listed flow and an event cost no garbage,
// from the kernel's bytes to ours.
func TestPrintingAllocates(t *testing.T) {
	attrs := made(t, tcp4+" -m 4").Append(nil)
	for _, output := range []string{"", " -o xml", " -o json", " -o extended,id,ktimestamp"} {
		c := parse(t, "-E -p tcp -s 192.0.2.0/24 -m 4/4"+output)
		out := newOutput(io.Discard)
		w := &watcher{session: &session{out: out}, printer: newPrinter(out, c), filter: newFilter(c)}
		m := &nl.Message{Type: nl.TypeFlowNew, Family: nl.FamilyIPv4, PortID: 7, Attrs: attrs}
		now := time.Now()
		event := func() {
			if err := w.print(m, now); err != nil {
				t.Fatal(err)
			}
		}
		// The first lines bring the memory of the chunks.
		for range 4 * outputChunk / 64 {
			event()
		}
		if n := testing.AllocsPerRun(1000, event); n > 0 {
			t.Errorf("-E%s: %v allocations an event", output, n)
		}
		if w.printer.entries == 0 {
			t.Errorf("-E%s: nothing printed", output)
		}
		if err := out.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusalTexts(t *testing.T) {
	for _, tt := range []struct {
		op    Op
		table Table
		err   error
		hint  string
		want  string
	}{
		{OpList, TableConntrack, &nl.Error{Errno: unix.EPERM}, "", "sorry, you must be root or get CAP_NET_ADMIN capability to do this"},
		{OpList, TableConntrack, &nl.Error{Errno: 524}, "", "function not implemented"},
		{OpGet, TableConntrack, &nl.Error{Errno: 524}, "", "Unknown error 524"},
		{OpAdd, TableConntrack, &nl.Error{Errno: unix.EINVAL}, "", "Invalid argument"},
		{OpStats, TableExpect, &nl.Error{Errno: unix.EINVAL}, "", "Invalid argument"},
		{OpCreate, TableConntrack, &nl.Error{Errno: unix.EINVAL, Text: "no such thing"}, "", "invalid parameters (kernel: no such thing)"},
		{OpList, TableConntrack, &nl.Error{Errno: unix.EINVAL}, "hint", "invalid parameters (hint)"},
		{OpCreate, TableConntrack, &nl.Error{Errno: unix.EEXIST}, "", "Such conntrack exists, try -U to update"},
		{OpCreate, TableExpect, &nl.Error{Errno: unix.EEXIST}, "", "File exists"},
		{OpCreate, TableExpect, &nl.Error{Errno: unix.ENOENT}, "", "master conntrack not found"},
		{OpDelete, TableExpect, &nl.Error{Errno: unix.ENOENT}, "", "No such file or directory"},
		{OpUpdate, TableConntrack, &nl.Error{Errno: unix.EOPNOTSUPP}, "", "Operation not supported"},
		{OpUpdate, TableConntrack, &nl.Error{Errno: unix.EBUSY}, "", "Device or resource busy"},
		{OpGet, TableConntrack, &nl.Error{Errno: unix.EAFNOSUPPORT}, "", "protocol not supported"},
		{OpAdd, TableConntrack, &nl.Error{Errno: unix.ETIME}, "", "conntrack has expired"},
		{OpAdd, TableConntrack, &nl.Error{Errno: unix.ENOMEM}, "", "not enough memory"},
		{OpDelete, TableConntrack, &nl.Error{Errno: unix.ENOMEM}, "", "Cannot allocate memory"},
	} {
		r := &refusal{op: tt.op, table: tt.table, err: tt.err, hint: tt.hint}
		if got := r.Error(); got != "Operation failed: "+tt.want {
			t.Errorf("%d %d %v: %s", tt.op, tt.table, tt.err, got)
		}
	}
}

// slowWriter fails after some bytes.
type slowWriter struct{ left int }

var errFull = errors.New("full")

func (w *slowWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

// TestOutputError holds that a failed write is reported once all is said, at
// the latest, and that nothing blocks after it.
func TestOutputError(t *testing.T) {
	o := newOutput(&slowWriter{left: 3 * outputChunk})
	var err error
	for range 20 * outputChunk / 64 {
		o.buf = append(o.buf, "a line of sixty-four bytes, which is one that has a newline, yes\n"...)
		if err = o.next(); err != nil {
			break
		}
	}
	if err == nil {
		err = o.sync()
	}
	if !errors.Is(err, errFull) {
		t.Errorf("next and sync: %v", err)
	}
	if err := o.close(); !errors.Is(err, errFull) {
		t.Errorf("close: %v", err)
	}
	if err := o.close(); !errors.Is(err, errFull) {
		t.Errorf("second close: %v", err)
	}
}
