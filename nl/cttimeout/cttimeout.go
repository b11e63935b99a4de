// Package cttimeout is the interface to nfnetlink_cttimeout, the kernel's table of
// timeout policies: named sets of timeouts that a firewall rule gives to the
// flows it matches, and the network namespace's defaults for everything else
// (linux/netfilter/nfnetlink_cttimeout.h).
//
// Policy is one object, Append and Decode turn it into netlink attributes and
// back, the functions below carry the requests over an nl.Conn. The table
// belongs to the network namespace in which the Conn was opened, and every
// request, reading included, needs CAP_NET_ADMIN there.
package cttimeout

import (
	"context"
	"errors"

	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// Message types (enum ctnl_timeout_msg_types).
const (
	subsystem nl.Type = 8

	typeNew        = subsystem << 8
	typeGet        = subsystem<<8 | 1
	typeDelete     = subsystem<<8 | 2
	typeDefaultSet = subsystem<<8 | 3
	typeDefaultGet = subsystem<<8 | 4
)

// Add makes a policy. Timeouts that p does not give are the namespace's
// defaults at this moment. The refusals, as *nl.Error: EBUSY when the name is
// taken, EINVAL when p gives no timeout at all, EOPNOTSUPP when the kernel has
// no timeouts for the protocol.
func Add(ctx context.Context, c *nl.Conn, p *Policy) error {
	return do(ctx, c, nl.Request{Type: typeNew, Flags: unix.NLM_F_CREATE}, p)
}

// Get returns the policy of that name; ENOENT if it does not exist.
func Get(ctx context.Context, c *nl.Conn, name string) (*Policy, error) {
	return ask(ctx, c, typeGet, &Policy{Has: HasName, Name: name})
}

// List calls each for every policy in the order in which they were made. An
// error of each ends the list and is returned; the Conn must then be closed.
func List(ctx context.Context, c *nl.Conn, each func(*Policy) error) error {
	_, err := c.Dump(ctx, nl.Dump{Type: typeGet}, func(m *nl.Message) error {
		var p Policy
		if err := p.Decode(m.Attrs); err != nil {
			return err
		}
		return each(&p)
	})
	return err
}

// Delete removes the policy of that name: ENOENT if it does not exist, EBUSY while
// a rule uses it.
func Delete(ctx context.Context, c *nl.Conn, name string) error {
	return do(ctx, c, nl.Request{Type: typeDelete}, &Policy{Has: HasName, Name: name})
}

// Flush removes all policies that no rule uses. The others stay, and the kernel
// does not report them.
func Flush(ctx context.Context, c *nl.Conn) error {
	return do(ctx, c, nl.Request{Type: typeDelete}, &Policy{})
}

// SetDefault changes the namespace's defaults of p's protocol: the timeouts
// that p gives, and those for every flow without a policy. They are the
// net.netfilter.nf_conntrack_*_timeout* sysctls.
func SetDefault(ctx context.Context, c *nl.Conn, p *Policy) error {
	return do(ctx, c, nl.Request{Type: typeDefaultSet}, p)
}

// Default returns the namespace's defaults of a protocol, as a Policy without a
// name. EOPNOTSUPP says that the kernel has no timeouts for the protocol.
func Default(ctx context.Context, c *nl.Conn, family uint16, proto uint8) (*Policy, error) {
	return ask(ctx, c, typeDefaultGet, &Policy{Has: HasFamily | HasProto, Family: family, Proto: proto})
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

func do(ctx context.Context, c *nl.Conn, r nl.Request, p *Policy) error {
	attrs, err := p.Append(nil)
	if err != nil {
		return err
	}
	r.Attrs = nl.Encoded(attrs)
	return c.Do(ctx, r, nil)
}

// ask sends a request that is answered with one policy.
func ask(ctx context.Context, c *nl.Conn, typ nl.Type, want *Policy) (*Policy, error) {
	attrs, err := want.Append(nil)
	if err != nil {
		return nil, err
	}
	var got *Policy
	err = c.Do(ctx, nl.Request{Type: typ, Attrs: nl.Encoded(attrs)}, func(m *nl.Message) error {
		got = new(Policy)
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
