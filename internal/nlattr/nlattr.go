// Package nlattr walks the netlink attributes of messages that package nl has no codec for:
// rtnetlink's and nf_tables'.
package nlattr

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Each calls f for every complete netlink attribute in b. typ comes without its flags.
//
//go:noinline
func Each(b []byte, f func(typ uint16, value []byte)) {
	const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	for len(b) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^flags, b[unix.SizeofNlAttr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// Nested calls f for every attribute inside the attributes of type nest in b.
//
//go:noinline
func Nested(b []byte, nest uint16, f func(typ uint16, value []byte)) {
	Each(b, func(typ uint16, value []byte) {
		if typ == nest {
			Each(value, f)
		}
	})
}
