// Package format writes flows and expectations for people and for programs: as
// conntrack(8)'s text, as a command line that creates the flow again (save), as XML and
// as JSON. It also reads the JSON.
//
// Its functions append to a buffer of the caller and allocate nothing else, so that
// listing a table of a million flows makes no garbage. The package does no I/O, reads no
// clock and looks up no time zone: the caller passes time and zone.
package format

import (
	"encoding/binary"
	"time"

	"ctbox/internal/feature"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Format is one of the ways to write a flow or an expectation.
type Format uint8

// Text is the default of conntrack(8). Expectations have no Save form and are written as
// Text, and so is JSON in a build without it (feature.JSON).
const (
	Text Format = iota
	Save
	XML
	JSON
)

// EventType is what happened to an entry; None when it is only listed.
type EventType uint8

// Types of events.
const (
	None EventType = iota
	New
	Update
	Destroy
)

// Event is the event that an entry was part of.
type Event struct {
	Type EventType
	// Time is in nanoseconds since the epoch: when the kernel made the event, if it sent
	// that, else when the event was received. 0 means unknown.
	Time int64
	// PortID is the netlink port of the process that caused the event; 0 is the kernel's.
	PortID uint32
	// Progname is the name of that process, or "" if it is unknown.
	Progname string
	// NetNS is the name of the network namespace of the entry, or "" if that is the
	// caller's own.
	NetNS string
}

// listed is the Event of an entry that is only listed.
var listed = &Event{}

// Style is how entries are written. The zero value is conntrack(8)'s default text. A
// Style is not changed by writing and may be shared.
type Style struct {
	Format Format

	Extended   bool // layer-3 columns (Text)
	Timestamp  bool // time of the event before it (Text), <when> (XML)
	ID         bool // id=N (Text); XML and JSON always have it
	KTimestamp bool // start and stop of the flow (Text, XML); JSON always has them

	// Delete makes Save write a listed flow as a deletion.
	Delete bool

	// Labels are the names of label bits by bit; "" is a bit without a name. If Labels is
	// nil, Text and XML show no labels.
	Labels []string

	// Now is the time for computing ages, in nanoseconds since the epoch. A flow that
	// started after Now has the age 0.
	Now int64

	// Location is the time zone of the dates in Text and XML; nil is UTC.
	Location *time.Location

	// Without and WithoutExpect are attributes to omit even if they are present, such as
	// the counters of a cached copy.
	Without       ctnetlink.Attr
	WithoutExpect ctnetlink.ExpectAttr
}

// CacheWithout is Style.Without for a copy of a flow outside the kernel, where these
// attributes are out of date (conntrackd(8) -i and -e).
const CacheWithout = ctnetlink.HasTimeout | ctnetlink.HasUse | ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply

// AppendFlow appends f to dst in the style s, without a final newline, and
// returns the extended buffer. e may be nil for a flow that is only listed.
func AppendFlow(dst []byte, f *ctnetlink.Flow, s *Style, e *Event) []byte {
	if e == nil {
		e = listed
	}
	switch s.Format {
	case Save:
		return appendOrigin(appendFlowSave(dst, f, s, e), e)
	case XML:
		return appendFlowXML(dst, f, s, e)
	case JSON:
		if feature.JSON {
			return appendFlowJSON(dst, f, s, e)
		}
	}
	return appendOrigin(appendFlowText(dst, f, s, e), e)
}

// AppendExpect appends x to dst as AppendFlow does with flows.
func AppendExpect(dst []byte, x *ctnetlink.Expect, s *Style, e *Event) []byte {
	if e == nil {
		e = listed
	}
	switch s.Format {
	case XML:
		return appendExpectXML(dst, x, s, e)
	case JSON:
		if feature.JSON {
			return appendExpectJSON(dst, x, s, e)
		}
	}
	// Unlike for flows, Text does not show the process that caused the event.
	return AppendNetNS(appendExpectText(dst, x, s, e), e.NetNS)
}

// age returns the number of whole seconds from start to now, or to stop if the flow has
// ended. As in conntrack-tools, both are truncated to seconds first.
func (s *Style) age(start, stop uint64, stopped bool) uint64 {
	end := uint64(max(s.Now, 0))
	if stopped {
		end = stop
	}
	if end <= start {
		return 0
	}
	return end/1e9 - start/1e9
}

// local returns the time ns, in nanoseconds since the epoch, in the style's zone.
func (s *Style) local(ns int64) time.Time {
	loc := s.Location
	if loc == nil {
		loc = time.UTC
	}
	return time.Unix(ns/1e9, ns%1e9).In(loc)
}

// tupleProto returns the protocol that decides how a tuple's layer-4 fields are written.
func tupleProto(t *ctnetlink.Tuple) uint8 {
	if t.Has&ctnetlink.TupleProto == 0 {
		return 0
	}
	return t.Proto
}

// AppendAddr appends the text of an address of the given family as glibc's
// inet_ntop writes it. A family other than IPv4 and IPv6 appends nothing.
func AppendAddr(dst []byte, family uint8, a *ctnetlink.Addr) []byte {
	switch family {
	case nl.FamilyIPv4:
		return appendIPv4(dst, a[0], a[1], a[2], a[3])
	case nl.FamilyIPv6:
		return appendIPv6(dst, a)
	}
	return dst
}

func appendIPv4(dst []byte, a, b, c, d byte) []byte {
	dst = append(appendOctet(dst, a), '.')
	dst = append(appendOctet(dst, b), '.')
	dst = append(appendOctet(dst, c), '.')
	return appendOctet(dst, d)
}

func appendOctet(dst []byte, b byte) []byte {
	switch {
	case b < 10:
		return append(dst, '0'+b)
	case b < 100:
		return append(dst, '0'+b/10, '0'+b%10)
	}
	return append(dst, '0'+b/100, '0'+b/10%10, '0'+b%10)
}

// appendIPv6 follows RFC 5952, except that mapped addresses, and those of which exactly
// the first six words are zero, end in dotted form: ::1.2.3.4, where RFC 5952 has
// ::102:304.
func appendIPv6(dst []byte, a *ctnetlink.Addr) []byte {
	var words [8]uint16
	for i := range words {
		words[i] = binary.BigEndian.Uint16(a[2*i:])
	}
	zeros, zerosEnd := longestZeros(&words)

	dotted := 8
	if zeros == 0 && (zerosEnd == 6 || zerosEnd == 5 && words[5] == 0xffff) {
		dotted = 6
	}
	for i := 0; i < 8; i++ {
		if i == zeros {
			dst = append(dst, ':', ':')
			i = zerosEnd
			if i == 8 {
				break
			}
		} else if i > 0 {
			dst = append(dst, ':')
		}
		if i == dotted {
			return appendIPv4(dst, a[12], a[13], a[14], a[15])
		}
		dst = appendHex(dst, uint64(words[i]))
	}
	return dst
}

// longestZeros returns the bounds of the first longest run of at least two zero
// words; without one the start is -1.
func longestZeros(words *[8]uint16) (start, end int) {
	start = -1
	longest := 1
	for i := 0; i < 8; i++ {
		from := i
		for i < 8 && words[i] == 0 {
			i++
		}
		if i-from > longest {
			start, end, longest = from, i, i-from
		}
	}
	return start, end
}

const hexDigits = "0123456789abcdef"

// appendHex appends v in lower case without leading zeros.
func appendHex(dst []byte, v uint64) []byte {
	shift := 0
	for v>>shift >= 16 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[v>>shift&15])
	}
	return dst
}
