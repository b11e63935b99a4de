package nl

import (
	"strings"

	"golang.org/x/sys/unix"
)

const (
	nlmsgHeader = 16 // struct nlmsghdr
	nfgenHeader = 4  // struct nfgenmsg
	headers     = nlmsgHeader + nfgenHeader

	seqOffset   = 8 // of nlmsg_seq
	flagsOffset = 6 // of nlmsg_flags
)

// Message is one received nfnetlink message. Attrs points into the receive
// buffer and is good until the function that was given the Message returns.
type Message struct {
	Type   Type
	Flags  uint16 // NLM_F_…
	Seq    uint32
	PortID uint32 // of the socket whose request caused it; 0 for the kernel itself
	Family uint8
	ResID  uint16 // meaning depends on the message; host order
	Attrs  []byte
}

// IsExpect reports whether the message is about an expectation.
func (m *Message) IsExpect() bool { return m.Type>>8 == subsysExpect }

// IsDelete reports whether the message says that a flow or expectation is gone.
func (m *Message) IsDelete() bool { return m.Type == TypeFlowDelete || m.Type == TypeExpectDelete }

// IsNew reports whether an event announces a new flow or expectation rather
// than a change of a known one.
func (m *Message) IsNew() bool {
	return !m.IsDelete() && m.Flags&(unix.NLM_F_CREATE|unix.NLM_F_EXCL) != 0
}

// messages walks the netlink messages of a receive buffer.
type messages struct {
	rest []byte
	raw  []byte // the current message, headers included
	bad  bool   // the buffer ended within a message
}

func (ms *messages) next() bool {
	b := ms.rest
	if len(b) < nlmsgHeader {
		ms.bad = len(b) != 0
		return false
	}
	n := int(native.Uint32(b))
	if n < nlmsgHeader || n > len(b) {
		ms.bad = true
		return false
	}
	ms.raw = b[:n]
	ms.rest = b[min(align4(n), len(b)):]
	return true
}

func (ms *messages) typ() uint16   { return native.Uint16(ms.raw[4:]) }
func (ms *messages) flags() uint16 { return native.Uint16(ms.raw[flagsOffset:]) }
func (ms *messages) seq() uint32   { return native.Uint32(ms.raw[seqOffset:]) }

// parseMessage splits raw, one netlink message, into m.
func parseMessage(raw []byte, m *Message) error {
	if len(raw) < headers {
		return &AttrError{Object: "nfnetlink header"}
	}
	*m = Message{
		Type:   Type(native.Uint16(raw[4:])),
		Flags:  native.Uint16(raw[flagsOffset:]),
		Seq:    native.Uint32(raw[seqOffset:]),
		PortID: native.Uint32(raw[12:]),
		Family: raw[nlmsgHeader],
		ResID:  be.Uint16(raw[nlmsgHeader+2:]),
		Attrs:  raw[headers:],
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

func (e *Error) Unwrap() error { return e.Errno }

const (
	nlmsgerrAttrMsg = 1
	ackTLVs         = 0x200 // NLM_F_ACK_TLVS
	ackCapped       = 0x100 // NLM_F_CAPPED
)

// parseAck reads an NLMSG_ERROR or NLMSG_DONE message: nil for success.
func parseAck(raw []byte) error {
	if len(raw) < nlmsgHeader+4 {
		return nil // a bare NLMSG_DONE
	}
	errno := -int32(native.Uint32(raw[nlmsgHeader:]))
	if errno == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(errno)}
	flags := native.Uint16(raw[flagsOffset:])
	if flags&ackTLVs == 0 {
		return e
	}
	at := nlmsgHeader + 4
	if native.Uint16(raw[4:]) == unix.NLMSG_ERROR {
		// The refused request follows: its header alone when capped.
		if len(raw) < at+nlmsgHeader {
			return e
		}
		size := uint32(nlmsgHeader)
		if flags&ackCapped == 0 {
			size = native.Uint32(raw[at:])
		}
		if uint64(size)+3 > uint64(len(raw)) { // beyond it, and perhaps beyond an int of 32 bits
			return e
		}
		at += align4(int(size))
	}
	if at > len(raw) {
		return e
	}
	a := attrs{rest: raw[at:]}
	for a.next() {
		if a.typ == nlmsgerrAttrMsg {
			e.Text = strings.TrimRight(string(a.val), "\x00")
		}
	}
	return e
}

// Request is one message to the kernel. Flow or Expect, if not nil, gives its
// attributes; Append's documentation says which. Attrs are the encoded
// attributes of another subsystem's message: the packages below this one speak
// those, with message types of their own.
type Request struct {
	Type    Type
	Flags   uint16 // NLM_F_CREATE, NLM_F_EXCL …; NLM_F_REQUEST is implied
	Family  uint8
	Version uint8 // of nfgenmsg; 0 but for a flush that is to respect Family
	Flow    *Flow
	Expect  *Expect
	Attrs   []byte
}

// append adds the whole message to dst.
func (r *Request) append(dst []byte, seq uint32, flags uint16) []byte {
	at := len(dst)
	dst = native.AppendUint32(dst, 0)
	dst = native.AppendUint16(dst, uint16(r.Type))
	dst = native.AppendUint16(dst, r.Flags|flags|unix.NLM_F_REQUEST)
	dst = native.AppendUint32(dst, seq)
	dst = native.AppendUint32(dst, 0)
	dst = append(dst, r.Family, r.Version, 0, 0)
	if r.Flow != nil {
		dst = r.Flow.Append(dst)
	}
	if r.Expect != nil {
		dst = r.Expect.Append(dst)
	}
	dst = append(dst, r.Attrs...)
	native.PutUint32(dst[at:], uint32(len(dst)-at))
	return dst
}
