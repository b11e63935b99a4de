// Package iface asks the kernel about network interfaces (rtnetlink(7)).
//
// net.InterfaceByName reads the list of all interfaces to find one, and
// net.Interface.Addrs the list of all addresses for each: on a host with a thousand
// containers the first takes a hundred times as long as the one small request here, and the
// second, called for all of them, seconds.
package iface

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ctbox/internal/nlattr"
)

// Interface is a network interface.
type Interface struct {
	Index int
	Name  string
	Flags uint32 // IFF_UP, IFF_RUNNING, …
	MTU   int    // bytes

	AltNames []string // alternative names (Linux 5.5)

	// Addresses are the interface's own, without zones. Only All fills them in.
	Addresses []netip.Addr
}

// Has reports whether the interface has the flags, IFF_UP and the like.
func (i *Interface) Has(flags uint32) bool { return i.Flags&flags == flags }

// Named reports whether name is one of the interface's names.
func (i *Interface) Named(name string) bool {
	return i.Name == name || slices.Contains(i.AltNames, name)
}

// ErrNone is the error for an interface that this network namespace does not have.
var ErrNone = errors.New("no such interface")

// maxName is the longest name that the kernel accepts in a request: an alternative name. A
// primary name has at most 15 bytes.
const maxName = 127 // ALTIFNAMSIZ - 1

// ByName returns the interface with that name in the calling thread's network namespace. The
// error wraps ErrNone if there is no such interface.
func ByName(name string) (Interface, error) {
	if name == "" || len(name) > maxName {
		return Interface{}, fmt.Errorf("interface %s: %w", name, ErrNone)
	}
	attr := uint16(unix.IFLA_IFNAME)
	if len(name) >= unix.IFNAMSIZ {
		attr = unix.IFLA_ALT_IFNAME
	}
	b := make([]byte, unix.SizeofIfInfomsg, 64)
	b = appendAttr(b, attr, append([]byte(name), 0))
	i, err := one(b)
	if err != nil {
		return i, fmt.Errorf("interface %s: %w", name, err)
	}
	return i, nil
}

// ByIndex is ByName for an interface's number.
func ByIndex(index int) (Interface, error) {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[indexAt:], uint32(index))
	i, err := one(b)
	if err != nil {
		return i, fmt.Errorf("interface %d: %w", index, err)
	}
	return i, nil
}

// one requests one interface.
func one(request []byte) (i Interface, err error) {
	err = execute(netlink.Request, unix.RTM_GETLINK, request, func(m *netlink.Message) {
		if found, ok := ParseLink(uint16(m.Header.Type), m.Data); ok {
			i = found
		}
	})
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EOPNOTSUPP):
		// Kernels without alternative names refuse or ignore the attribute.
		err = ErrNone
	case err == nil && i.Index == 0:
		err = ErrNone
	}
	return i, err
}

// All returns all interfaces of the calling thread's network namespace, with their
// addresses, in two requests.
func All() ([]Interface, error) {
	var all []Interface
	at := map[int]int{}
	err := execute(netlink.Request|netlink.Dump, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(m *netlink.Message) {
		if i, ok := ParseLink(uint16(m.Header.Type), m.Data); ok {
			at[i.Index] = len(all)
			all = append(all, i)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	err = execute(netlink.Request|netlink.Dump, unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(m *netlink.Message) {
		if index, addr, ok := ParseAddr(uint16(m.Header.Type), m.Data); ok {
			if k, known := at[index]; known {
				all[k].Addresses = append(all[k].Addresses, addr)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return all, nil
}

// execute sends one request and calls each for every message of the answer.
func execute(flags netlink.HeaderFlags, typ uint16, data []byte, each func(*netlink.Message)) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := conn.Execute(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: flags}, Data: data})
	for i := range answer {
		each(&answer[i])
	}
	return err
}

// Offsets in struct ifinfomsg and struct ifaddrmsg (linux/rtnetlink.h,
// linux/if_addr.h): both begin with the family and have the index at 4.
const (
	indexAt = 4
	flagsAt = 8
)

// ParseLink parses a message of type typ, without its header: an RTM_NEWLINK or RTM_DELLINK
// about an interface itself. ok is false for other messages, such as the RTM_DELLINK of
// family AF_BRIDGE for a port that leaves a bridge.
func ParseLink(typ uint16, data []byte) (i Interface, ok bool) {
	if typ != unix.RTM_NEWLINK && typ != unix.RTM_DELLINK || len(data) < unix.SizeofIfInfomsg || data[0] != unix.AF_UNSPEC {
		return i, false
	}
	i.Index = int(int32(binary.NativeEndian.Uint32(data[indexAt:])))
	i.Flags = binary.NativeEndian.Uint32(data[flagsAt:])
	nlattr.Each(data[unix.SizeofIfInfomsg:], func(typ uint16, value []byte) {
		switch {
		case typ == unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(value)
		case typ == unix.IFLA_MTU && len(value) == 4:
			i.MTU = int(binary.NativeEndian.Uint32(value))
		case typ == unix.IFLA_PROP_LIST:
			nlattr.Each(value, func(typ uint16, value []byte) {
				if typ == unix.IFLA_ALT_IFNAME {
					i.AltNames = append(i.AltNames, unix.ByteSliceToString(value))
				}
			})
		}
	})
	return i, i.Index > 0
}

// ParseAddr parses a message of type typ, without its header: an RTM_NEWADDR or
// RTM_DELADDR. It returns the index of the interface, and the address. ok is false for
// any other message.
func ParseAddr(typ uint16, data []byte) (index int, addr netip.Addr, ok bool) {
	if typ != unix.RTM_NEWADDR && typ != unix.RTM_DELADDR || len(data) < unix.SizeofIfAddrmsg {
		return 0, addr, false
	}
	index = int(int32(binary.NativeEndian.Uint32(data[indexAt:])))
	local := false
	nlattr.Each(data[unix.SizeofIfAddrmsg:], func(typ uint16, value []byte) {
		// On a point-to-point link, IFA_ADDRESS is the peer's.
		if typ != unix.IFA_LOCAL && (typ != unix.IFA_ADDRESS || local) {
			return
		}
		if a, good := netip.AddrFromSlice(value); good {
			addr, local = a, typ == unix.IFA_LOCAL
		}
	})
	return index, addr, index > 0 && addr.IsValid()
}

func appendAttr(dst []byte, typ uint16, value []byte) []byte {
	dst = binary.NativeEndian.AppendUint16(dst, uint16(unix.SizeofNlAttr+len(value)))
	dst = append(binary.NativeEndian.AppendUint16(dst, typ), value...)
	for len(dst)%4 != 0 {
		dst = append(dst, 0)
	}
	return dst
}
