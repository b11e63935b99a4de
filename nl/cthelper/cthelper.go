// Package cthelper is the interface to nfnetlink_cthelper, the kernel's table of
// user-space helpers: names that a firewall rule can give to flows, whose
// packets then go to a queue where a program reads them
// (linux/netfilter/nfnetlink_cthelper.h).
//
// Helper is one object, Append and Decode turn it into netlink attributes and
// back, the functions below carry the requests over an nl.Conn. Every request,
// reading included, needs CAP_NET_ADMIN.
package cthelper

import (
	"context"
	"errors"

	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// Message types (enum nfnl_cthelper_msg_types).
const (
	subsystem nl.Type = 9

	typeNew    = subsystem << 8
	typeGet    = subsystem<<8 | 1
	typeDelete = subsystem<<8 | 2
)

// Set makes a helper, or changes the one of that name, family and protocol.
//
// A new helper needs a private data length and its policies; without a queue
// number it has queue 0, without a status it is disabled. A change may leave
// out all but the name, family and protocol.
//
// The refusals, as *nl.Error: EBUSY when a change gives another private data
// length or other policies than the helper has, or when a helper that is no
// user-space one has the name (the kernel's own, nf_conntrack_ftp.ko, say);
// EINVAL for a change of a helper that is not there; ENOMEM for more private
// data than the kernel has room for (32 bytes in Linux 6.1).
func Set(ctx context.Context, c *nl.Conn, h *Helper) error {
	return do(ctx, c, nl.Request{Type: typeNew, Flags: unix.NLM_F_CREATE}, h)
}

// Get returns the first helper with want's name, family and protocol, as far as
// they are given; ENOENT if it does not exist. (For a name with family and protocol
// the kernel answers with success and no helper; that is ENOENT here, too.)
func Get(ctx context.Context, c *nl.Conn, want Key) (*Helper, error) {
	h := want.helper()
	attrs, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	var got *Helper
	err = c.Do(ctx, nl.Request{Type: typeGet, Attrs: nl.Encoded(attrs)}, func(m *nl.Message) error {
		got = new(Helper)
		return got.Decode(m.Attrs)
	})
	if err == nil && got == nil {
		err = &nl.Error{Errno: unix.ENOENT}
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}

// List calls each for every helper, in no order that means anything. An error
// of each ends the list and is returned; the Conn must then be closed.
func List(ctx context.Context, c *nl.Conn, each func(*Helper) error) error {
	_, err := c.Dump(ctx, nl.Dump{Type: typeGet}, func(m *nl.Message) error {
		var h Helper
		if err := h.Decode(m.Attrs); err != nil {
			return err
		}
		return each(&h)
	})
	return err
}

// Delete removes every helper with the name and, if given, the family and
// protocol. ENOENT says that there are helpers but none such, EBUSY that a rule
// uses it. Without any helper the kernel answers with success.
func Delete(ctx context.Context, c *nl.Conn, which Key) error {
	h := which.helper()
	return do(ctx, c, nl.Request{Type: typeDelete}, &h)
}

// Flush removes all user-space helpers that no rule uses.
func Flush(ctx context.Context, c *nl.Conn) error {
	return do(ctx, c, nl.Request{Type: typeDelete}, &Helper{})
}

// Available reports whether the kernel has this subsystem. One that has not
// refuses every request with EINVAL, which is also its answer to bad ones.
func Available(ctx context.Context, c *nl.Conn) (bool, error) {
	_, err := c.Dump(ctx, nl.Dump{Type: typeGet}, func(*nl.Message) error { return nil })
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	return err == nil, err
}

func do(ctx context.Context, c *nl.Conn, r nl.Request, h *Helper) error {
	attrs, err := h.Append(nil)
	if err != nil {
		return err
	}
	r.Attrs = nl.Encoded(attrs)
	return c.Do(ctx, r, nil)
}
