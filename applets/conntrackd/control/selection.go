package control

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"ctbox/sync/owner"
)

// Selection limits a commit, or with an owner alone a dump of the external cache, to a part of
// the peers' flows. The zero Selection is all of them. Selections are comparable.
//
// On the socket it follows the number Selected: the number of the request, the length of the
// text, and the text, which is a line for each condition, the option and its value with a
// blank in between. A daemon that does not know an option refuses the request.
type Selection struct {
	// Owner is the name or number of a node. Selector has no Node: only the daemon knows the
	// numbers.
	Owner    string
	Selector owner.Selector

	text string // what Set was given, as it is sent
}

// conditions are the options of a Selection, with what each takes. set reports whether the
// value is valid.
var conditions = [...]struct {
	option, takes string
	set           func(s *Selection, value string) bool
}{
	{"--owner", "the name or number of a node", (*Selection).setOwner},
	{"--nat-src", "an address", (*Selection).setNATSrc},
	{"--zone", "a number from 0 to 65535", (*Selection).setZone},
	{"--mark", "a number up to 0xffffffff, or VALUE/MASK, without bits of VALUE outside MASK", (*Selection).setMark},
	{"--src", "an address or a network", (*Selection).setSrc},
}

// Conditions returns the options that Set takes.
func Conditions() (options []string) {
	for i := range conditions {
		options = append(options, conditions[i].option)
	}
	return options
}

// Set adds a condition. The error is one line that names the option.
func (s *Selection) Set(option, value string) error {
	for i := range conditions {
		c := &conditions[i]
		if c.option != option {
			continue
		}
		if strings.Contains("\n"+s.text, "\n"+option+" ") {
			return errors.New(option + " is there twice")
		}
		if !c.set(s, value) {
			return errors.New(option + " takes " + c.takes + ", found " + strconv.Quote(value))
		}
		s.text += option + " " + value + "\n"
		return nil
	}
	return errors.New("unknown selector " + strconv.Quote(option))
}

// Empty reports whether s is nil or has no condition.
func (s *Selection) Empty() bool { return s == nil || s.text == "" }

// OnlyOwner reports whether s has no condition beside the owner.
func (s *Selection) OnlyOwner() bool { return s.Selector.Empty() }

// maxName is the length of a node's name in the configuration.
const maxName = 63

func (s *Selection) setOwner(value string) bool {
	s.Owner = value
	for i := range len(value) {
		switch c := value[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return value != "" && len(value) <= maxName
}

func (s *Selection) setNATSrc(value string) bool {
	addr, err := netip.ParseAddr(value)
	s.Selector.NATSrc = addr.Unmap()
	return err == nil && addr.Zone() == ""
}

func (s *Selection) setZone(value string) bool {
	zone, err := strconv.ParseUint(value, 10, 16)
	s.Selector.Zone, s.Selector.HasZone = uint16(zone), true
	return err == nil
}

func (s *Selection) setMark(value string) bool {
	text, maskText, masked := strings.Cut(value, "/")
	mark, err := strconv.ParseUint(text, 0, 32)
	mask := uint64(1<<32 - 1)
	if masked && err == nil {
		mask, err = strconv.ParseUint(maskText, 0, 32)
	}
	s.Selector.Mark, s.Selector.Mask, s.Selector.HasMark = uint32(mark), uint32(mask), true
	return err == nil && mark&^mask == 0
}

func (s *Selection) setSrc(value string) bool {
	prefix, err := netip.ParsePrefix(value)
	if addr, notAddr := netip.ParseAddr(value); notAddr == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	s.Selector.Src = prefix.Masked()
	return err == nil && !prefix.Addr().Is4In6()
}

// maxSelection is the longest text of a Selection that is read.
const maxSelection = 1 << 10

// errSelection is the error for a client that sends no Selection.
var errSelection = errors.New("this is no selection")

// parseSelection parses the text of a Selection.
func parseSelection(text string) (s Selection, err error) {
	for len(text) > 0 {
		line, rest, ok := strings.Cut(text, "\n")
		option, value, blank := strings.Cut(line, " ")
		if !ok || !blank {
			return s, errSelection
		}
		if err := s.Set(option, value); err != nil {
			return s, err
		}
		text = rest
	}
	return s, nil
}

// appendRequest appends what a client sends.
func appendRequest(dst []byte, r Request, s *Selection) []byte {
	if s.Empty() {
		return binary.NativeEndian.AppendUint32(dst, uint32(r))
	}
	dst = binary.NativeEndian.AppendUint32(dst, uint32(Selected))
	dst = binary.NativeEndian.AppendUint32(dst, uint32(r))
	dst = binary.NativeEndian.AppendUint32(dst, uint32(len(s.text)))
	return append(dst, s.text...)
}

// question is a request as it was read.
type question struct {
	Request
	selected  bool   // a Selection came with it
	selection string // its text, which has not been parsed
}

// outcome reports whether the client expects an outcome.
func (q *question) outcome() bool { return q.selected || q.Request&WithOutcome != 0 }

// readQuestion reads what appendRequest has written.
func readQuestion(conn io.Reader) (q question, err error) {
	var buf [8]byte
	if _, err := io.ReadFull(conn, buf[:4]); err != nil {
		return q, err
	}
	q.Request = Request(binary.NativeEndian.Uint32(buf[:]))
	if q.Request != Selected {
		return q, nil
	}
	if _, err := io.ReadFull(conn, buf[:]); err != nil {
		return q, err
	}
	q.selected, q.Request = true, Request(binary.NativeEndian.Uint32(buf[:]))
	length := binary.NativeEndian.Uint32(buf[4:])
	if length > maxSelection {
		return q, errSelection
	}
	text := make([]byte, length)
	_, err = io.ReadFull(conn, text)
	q.selection = string(text)
	return q, err
}
