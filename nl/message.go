package nl

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/internal/strerror"
)

// Type is a whole netlink message type: subsystem<<8 | message.
type Type uint16

// Address families as struct nfgenmsg and the kernel's tables use them: AF_UNSPEC,
// AF_INET and AF_INET6.
const (
	FamilyUnspec = 0
	FamilyIPv4   = 2
	FamilyIPv6   = 10
)

const (
	NetlinkHeaderLen = 16                   // size of struct nlmsghdr
	HeadersLen       = NetlinkHeaderLen + 4 // and of struct nfgenmsg

	seqOffset   = 8 // of nlmsg_seq
	flagsOffset = 6 // of nlmsg_flags
)

// Message is one received nfnetlink message. Attrs points into the receive
// buffer and is valid until the function that received the Message returns.
type Message struct {
	Type   Type
	Flags  uint16 // NLM_F_…
	Seq    uint32
	PortID uint32 // of the socket whose request caused it; 0 for the kernel itself
	Family uint8
	ResID  uint16 // meaning depends on the message; host order
	Attrs  []byte
}

// Messages walks the netlink messages of a receive buffer.
type Messages struct {
	Rest []byte // not read yet
	Raw  []byte // the current message, headers included
	Bad  bool   // the buffer ended within a message
}

// Next reads the next message and reports whether there was one.
func (ms *Messages) Next() bool {
	b := ms.Rest
	if len(b) < NetlinkHeaderLen {
		ms.Bad = len(b) != 0
		return false
	}
	n := int(native.Uint32(b))
	if n < NetlinkHeaderLen || n > len(b) {
		ms.Bad = true
		return false
	}
	ms.Raw = b[:n]
	ms.Rest = b[min(Align(n), len(b)):]
	return true
}

// Type returns nlmsg_type of the current message, NLMSG_ERROR and NLMSG_DONE included.
func (ms *Messages) Type() uint16 { return native.Uint16(ms.Raw[4:]) }

// Flags returns its NLM_F_ bits.
func (ms *Messages) Flags() uint16 { return native.Uint16(ms.Raw[flagsOffset:]) }

// Seq returns its sequence number.
func (ms *Messages) Seq() uint32 { return native.Uint32(ms.Raw[seqOffset:]) }

// Parse sets m to raw, one whole netlink message, into which m.Attrs then points.
func (m *Message) Parse(raw []byte) error {
	if len(raw) < HeadersLen {
		return &AttrError{Object: "nfnetlink header"}
	}
	*m = Message{
		Type:   Type(native.Uint16(raw[4:])),
		Flags:  native.Uint16(raw[flagsOffset:]),
		Seq:    native.Uint32(raw[seqOffset:]),
		PortID: native.Uint32(raw[12:]),
		Family: raw[NetlinkHeaderLen],
		ResID:  be.Uint16(raw[NetlinkHeaderLen+2:]),
		Attrs:  raw[HeadersLen:],
	}
	return nil
}

// Error is the kernel's refusal of a request. It unwraps to the Errno.
type Error struct {
	Errno unix.Errno
	Text  string // extended acknowledgement, when the kernel gave one
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + " (" + e.Text + ")"
}

// Strerror is Error with the number's text as strerror(3) has it, with a capital letter.
func (e *Error) Strerror() string {
	text := strerror.Text(e.Errno)
	if e.Text != "" {
		text += " (" + e.Text + ")"
	}
	return text
}

func (e *Error) Unwrap() error { return e.Errno }

const (
	nlmsgerrAttrMsg = 1
	ackTLVs         = 0x200 // NLM_F_ACK_TLVS
	ackCapped       = 0x100 // NLM_F_CAPPED
)

// ParseAck reads an NLMSG_ERROR or NLMSG_DONE message: nil for success.
func ParseAck(raw []byte) error {
	if len(raw) < NetlinkHeaderLen+4 {
		return nil // a bare NLMSG_DONE
	}
	errno := -int32(native.Uint32(raw[NetlinkHeaderLen:]))
	if errno == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(errno)}
	flags := native.Uint16(raw[flagsOffset:])
	if flags&ackTLVs == 0 {
		return e
	}
	at := NetlinkHeaderLen + 4
	if native.Uint16(raw[4:]) == unix.NLMSG_ERROR {
		// The refused request follows: its header alone when capped.
		if len(raw) < at+NetlinkHeaderLen {
			return e
		}
		size := uint32(NetlinkHeaderLen)
		if flags&ackCapped == 0 {
			size = native.Uint32(raw[at:])
		}
		if uint64(size)+3 > uint64(len(raw)) { // beyond it, and perhaps beyond an int of 32 bits
			return e
		}
		at += Align(int(size))
	}
	if at > len(raw) {
		return e
	}
	a := Attrs{Rest: raw[at:]}
	for a.Next() {
		if a.Type == nlmsgerrAttrMsg {
			e.Text = strings.TrimRight(string(a.Value), "\x00")
		}
	}
	return e
}

// Request is one message to the kernel.
type Request struct {
	Type    Type
	Flags   uint16 // NLM_F_CREATE, NLM_F_EXCL …; NLM_F_REQUEST is implied
	Family  uint8
	Version uint8 // of nfgenmsg; 0, except for a flush that is limited to Family

	// Attrs, if not nil, appends the encoded attributes to dst and returns the
	// result, as a method such as (*ctnetlink.Flow).Append does. It is called
	// before the function that was given the Request returns, and is not kept.
	Attrs func(dst []byte) []byte
}

// Encoded is a Request's Attrs for attributes that are encoded already.
func Encoded(attrs []byte) func(dst []byte) []byte {
	return func(dst []byte) []byte { return append(dst, attrs...) }
}

// append adds the whole message to dst.
func (r *Request) append(dst []byte, seq uint32, flags uint16) []byte {
	at := len(dst)
	dst = BeginMessage(dst, r.Type, r.Flags|flags, seq, r.Family, r.Version, 0)
	if r.Attrs != nil {
		dst = r.Attrs(dst)
	}
	return EndMessage(dst, at)
}

// BeginMessage appends the headers of a message. Its attributes follow, and then
// EndMessage, given the offset at which the message begins, closes it.
func BeginMessage(dst []byte, typ Type, flags uint16, seq uint32, family, version uint8, resID uint16) []byte {
	dst = native.AppendUint32(dst, 0)
	dst = native.AppendUint16(dst, uint16(typ))
	dst = native.AppendUint16(dst, flags|unix.NLM_F_REQUEST)
	dst = native.AppendUint32(dst, seq)
	dst = native.AppendUint32(dst, 0)
	return append(dst, family, version, byte(resID>>8), byte(resID))
}

// EndMessage closes the message that BeginMessage began at offset at.
func EndMessage(dst []byte, at int) []byte {
	native.PutUint32(dst[at:], uint32(len(dst)-at))
	return dst
}

// Strerror returns the kernel's refusal that err wraps in the words of strerror(3), or else
// err's own text.
func Strerror(err error) string {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Strerror()
	}
	return fmt.Sprint(err)
}
