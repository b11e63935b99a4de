package export

import (
	"encoding/binary"
	"slices"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// IPFIX (RFC 7011) with the elements of RFC 7012 and of IANA's registry. A record's template is
// chosen by what the record has, so that absent values take no room and are not sent as 0. A
// template is sent before its first record.

var be = binary.BigEndian

// shape is what a data record has: the number of its template.
type shape uint16

const (
	shapeFlow     shape = 1 << iota // a flow with both directions (RFC 5103), else a NAT event (RFC 8158)
	shapeIPv6                       // addresses
	shapeICMP                       // flow: type and code in the place of the destination port
	shapeNAT                        // flow: with the translated addresses and ports
	shapeZones                      // the zones of both directions
	shapeCounters                   // flow: packets and bytes
	shapeStart                      // flow: its begin is known
	shapeExisting                   // Origin
	shapeMadeUp
	shapes
)

const (
	firstTemplate = 256 // of data: a template's id is firstTemplate plus its shape
	exporterStats = firstTemplate + uint16(shapes)
	meterStats    = exporterStats + 1
)

// Numbers of sets.
const (
	setTemplate = 2
	setOptions  = 3
)

// reverse is the enterprise number of the elements of the reply direction (RFC 5103).
const reverse = 29305

// privateSizes are the sizes of our elements, from number 1 on, which have a meaning with the
// operator's enterprise number only: Origin, mark, status, TCP state and labels.
var privateSizes = [...]uint16{1, 4, 4, 1, 16}

// field is a field specifier of a template.
type field struct {
	id, size   uint16
	enterprise uint32
}

// IPFIX encodes records as data records. It does not change, so several goroutines may use it.
type IPFIX struct {
	Choice
	Enterprise uint32 // the operator's private enterprise number, for our elements; 0 leaves them out
}

// AppendRecords calls add for each data record that is made of r, at most two. The bytes are
// good until add returns. buf is memory to use; it is returned for the next call.
func (x *IPFIX) AppendRecords(buf []byte, r *Record, add func(id uint16, record []byte)) []byte {
	if x.wantsNAT(r) {
		s := x.shapeOf(r) & (shapeIPv6 | shapeZones | shapeExisting | shapeMadeUp)
		buf = x.appendNAT(buf[:0], r, s)
		add(firstTemplate+uint16(s), buf)
	}
	if x.Flow && r.Kind != Begin {
		s := x.shapeOf(r) | shapeFlow
		buf = x.appendFlow(buf[:0], r, s)
		add(firstTemplate+uint16(s), buf)
	}
	return buf
}

func (x *IPFIX) shapeOf(r *Record) (s shape) {
	f := r.Flow
	if f.Orig.Family == nl.FamilyIPv6 {
		s |= shapeIPv6
	}
	if ctnetlink.IsICMP(f.Orig.Proto) {
		s |= shapeICMP
	}
	if source, destination := translated(f); source || destination {
		s |= shapeNAT
	}
	if orig, reply := r.zones(); orig != 0 || reply != 0 {
		s |= shapeZones
	}
	const counters = ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
	if f.Has&counters == counters {
		s |= shapeCounters
	}
	if r.start() != 0 {
		s |= shapeStart
	}
	switch r.Origin {
	case Existing:
		s |= shapeExisting
	case MadeUp:
		s |= shapeMadeUp
	}
	return s
}

// fields appends the fields of a template. The order is that of appendNAT and appendFlow.
func (x *IPFIX) fields(dst []field, s shape) []field {
	size := uint16(addrSize(s))
	source, destination, postSource, postDestination := uint16(8), uint16(12), uint16(225), uint16(226)
	if size == 16 {
		source, destination, postSource, postDestination = 27, 28, 281, 282
	}
	if s&shapeFlow == 0 {
		// observationTimeMilliseconds, natEvent, protocolIdentifier, the addresses,
		// sourceTransportPort, postNAPTSourceTransportPort
		dst = add(dst, 323, 8, 230, 1, 4, 1, source, size, postSource, size, 7, 2, 227, 2)
		if !x.WithoutDestinations {
			// destinationTransportPort, postNAPTDestinationTransportPort
			dst = add(dst, destination, size, postDestination, size, 11, 2, 228, 2)
		}
	} else {
		if s&shapeStart != 0 {
			dst = add(dst, 152, 8) // flowStartMilliseconds
		}
		// flowEndMilliseconds, flowId, protocolIdentifier, flowEndReason
		dst = add(dst, 153, 8, 148, 8, 4, 1, 136, 1, source, size, destination, size, 7, 2)
		port := uint16(11)
		switch {
		case s&shapeICMP == 0:
		case size == 16:
			port = 139 // icmpTypeCodeIPv6
		default:
			port = 32 // icmpTypeCodeIPv4
		}
		dst = add(dst, port, 2)
		if s&shapeNAT != 0 {
			dst = add(dst, postSource, size, postDestination, size, 227, 2)
			if s&shapeICMP == 0 {
				dst = add(dst, 228, 2)
			}
		}
		if s&shapeCounters != 0 {
			dst = add(dst, 86, 8, 85, 8) // packetTotalCount, octetTotalCount
			dst = append(dst, field{86, 8, reverse}, field{85, 8, reverse})
		}
	}
	if s&shapeZones != 0 {
		dst = add(dst, 234, 4, 235, 4) // ingressVRFID, egressVRFID
	}
	if e := x.Enterprise; e != 0 {
		for i, size := range privateSizes {
			dst = append(dst, field{uint16(1 + i), size, e})
		}
	}
	return dst
}

// add appends fields, each of which is two of the numbers: the element's and the size.
func add(dst []field, fields ...uint16) []field {
	for i := 0; i < len(fields); i += 2 {
		dst = append(dst, field{id: fields[i], size: fields[i+1]})
	}
	return dst
}

// Values of natEvent. RFC 8158 has none for IPv6, which gets the same.
const (
	natSessionCreate = 4
	natSessionDelete = 5
)

func (x *IPFIX) appendNAT(b []byte, r *Record, s shape) []byte {
	f := r.Flow
	b = be.AppendUint64(b, uint64(r.Time/1e6))
	event := byte(natSessionCreate)
	if r.Kind == End {
		event = natSessionDelete
	}
	size := addrSize(s)
	src, dst := ports(&f.Orig)
	postSrc, postDst := replied(&f.Reply)
	b = append(b, event, f.Orig.Proto)
	b = append(append(b, f.Orig.Src[:size]...), f.Reply.Dst[:size]...)
	b = be.AppendUint16(be.AppendUint16(b, src), postSrc)
	if !x.WithoutDestinations {
		b = append(append(b, f.Orig.Dst[:size]...), f.Reply.Src[:size]...)
		b = be.AppendUint16(be.AppendUint16(b, dst), postDst)
	}
	return x.appendRest(b, r, s)
}

func (x *IPFIX) appendFlow(b []byte, r *Record, s shape) []byte {
	f := r.Flow
	if s&shapeStart != 0 {
		b = be.AppendUint64(b, uint64(r.start()/1e6))
	}
	b = be.AppendUint64(b, uint64(r.end()/1e6))
	id := uint64(0)
	if f.Has&ctnetlink.HasID != 0 {
		id = uint64(f.ID)
	}
	b = be.AppendUint64(b, id)
	size := addrSize(s)
	src, dst := ports(&f.Orig)
	b = append(b, f.Orig.Proto, byte(r.Reason()))
	b = append(append(b, f.Orig.Src[:size]...), f.Orig.Dst[:size]...)
	b = be.AppendUint16(b, src)
	if s&shapeICMP != 0 {
		dst = uint16(f.Orig.ICMPType)<<8 | uint16(f.Orig.ICMPCode)
	}
	b = be.AppendUint16(b, dst)
	if s&shapeNAT != 0 {
		postSrc, postDst := replied(&f.Reply)
		b = append(append(b, f.Reply.Dst[:size]...), f.Reply.Src[:size]...)
		b = be.AppendUint16(b, postSrc)
		if s&shapeICMP == 0 {
			b = be.AppendUint16(b, postDst)
		}
	}
	if s&shapeCounters != 0 {
		b = be.AppendUint64(be.AppendUint64(b, f.CountersOrig.Packets), f.CountersOrig.Bytes)
		b = be.AppendUint64(be.AppendUint64(b, f.CountersReply.Packets), f.CountersReply.Bytes)
	}
	return x.appendRest(b, r, s)
}

// appendRest appends what both kinds of records end with.
func (x *IPFIX) appendRest(b []byte, r *Record, s shape) []byte {
	if s&shapeZones != 0 {
		orig, reply := r.zones()
		b = be.AppendUint32(be.AppendUint32(b, uint32(orig)), uint32(reply))
	}
	if x.Enterprise == 0 {
		return b
	}
	f := r.Flow
	var mark, status uint32
	var state byte
	if f.Has&ctnetlink.HasMark != 0 {
		mark = f.Mark
	}
	if f.Has&ctnetlink.HasStatus != 0 {
		status = f.Status
	}
	if f.Has&ctnetlink.HasTCPState != 0 {
		state = f.TCPState
	}
	b = be.AppendUint32(be.AppendUint32(append(b, byte(r.Origin)), mark), status)
	b = append(b, state)
	for i := range ctnetlink.LabelWords { // the highest label first: a 128-bit number
		word := uint32(0)
		if n := ctnetlink.LabelWords - 1 - i; f.Has&ctnetlink.HasLabels != 0 && n < int(f.LabelsLen) {
			word = f.Labels[n]
		}
		b = be.AppendUint32(b, word)
	}
	return b
}

func addrSize(s shape) int {
	if s&shapeIPv6 != 0 {
		return 16
	}
	return 4
}

// appendTemplate appends the template record of a template id of data records.
func (x *IPFIX) appendTemplate(b []byte, id uint16) []byte {
	var buf [32]field
	return appendTemplate(b, id, 0, x.fields(buf[:0], shape(id-firstTemplate)))
}

// appendTemplate appends a template record, or with scopes an options template record whose
// first fields are the scopes.
func appendTemplate(b []byte, id uint16, scopes uint16, fields []field) []byte {
	b = be.AppendUint16(be.AppendUint16(b, id), uint16(len(fields)))
	if scopes > 0 {
		b = be.AppendUint16(b, scopes)
	}
	for _, f := range fields {
		const enterpriseBit = 0x8000
		if f.enterprise == 0 {
			b = be.AppendUint16(be.AppendUint16(b, f.id), f.size)
		} else {
			b = be.AppendUint16(be.AppendUint16(b, f.id|enterpriseBit), f.size)
			b = be.AppendUint32(b, f.enterprise)
		}
	}
	return b
}

// The options templates (RFC 7011, sections 4.1 to 4.3): what the exporting process has sent
// and thrown away, and what the metering process, which reads the kernel's events, has seen and
// what it could not see.
var (
	// observationDomainId, exportingProcessId; exportedMessageTotalCount,
	// exportedFlowRecordTotalCount, notSentFlowTotalCount
	exporterFields = []field{{id: 149, size: 4}, {id: 144, size: 4}, {id: 41, size: 8}, {id: 42, size: 8}, {id: 166, size: 8}}
	// observationDomainId, meteringProcessId; observedFlowTotalCount, notSentFlowTotalCount
	meterFields = []field{{id: 149, size: 4}, {id: 143, size: 4}, {id: 163, size: 8}, {id: 166, size: 8}}
)

const optionScopes = 2

// Statistics are an exporter's totals since its start.
type Statistics struct {
	Messages uint64 // sent
	Records  uint64 // sent
	Thrown   uint64 // thrown away because the queue was full
	Observed uint64 // flows of which the kernel's events or table gave a record
	Lost     uint64 // events that the kernel dropped
}

// Session is a transport session with a collector: what both ends know. Its messages are used
// by one goroutine.
type Session struct {
	encoder  *IPFIX
	domain   uint32
	sequence uint32
	known    [int(shapes)]bool // templates that have been sent
	order    []uint16          // their ids, in the order of their first use
}

// NewSession returns a session of an observation domain.
func NewSession(x *IPFIX, domain uint32) *Session { return &Session{encoder: x, domain: domain} }

// Announce has Templates send the templates of most records before the first record: a
// collector may handle datagrams in another order.
func (s *Session) Announce() {
	for _, v6 := range [...]shape{0, shapeIPv6} {
		if s.encoder.NAT {
			s.learn(firstTemplate + uint16(v6))
		}
		for _, more := range [...]shape{0, shapeICMP, shapeNAT, shapeICMP | shapeNAT} {
			if s.encoder.Flow {
				s.learn(firstTemplate + uint16(v6|more|shapeFlow|shapeCounters|shapeStart))
			}
		}
	}
}

func (s *Session) learn(id uint16) {
	if !s.known[id-firstTemplate] {
		s.known[id-firstTemplate] = true
		s.order = append(s.order, id)
	}
}

// Restart begins a new session: sequence numbers start at 0. Before other messages, those of
// Templates must be sent.
func (s *Session) Restart() { s.sequence = 0 }

// Templates calls send for messages, of at most size bytes, with the templates that the
// session has used, until one fails.
func (s *Session) Templates(size int, send func(*Message) error) error {
	m := s.NewMessage(size)
	for _, id := range s.order {
		begin := len(m.buf)
		m.open(setTemplate)
		m.buf = s.encoder.appendTemplate(m.buf, id)
		if len(m.buf) > m.size && begin > messageHeader {
			m.buf = m.buf[:begin]
			if err := send(m); err != nil {
				return err
			}
			m.clear()
			m.open(setTemplate)
			m.buf = s.encoder.appendTemplate(m.buf, id)
		}
	}
	if m.Empty() {
		return nil
	}
	return send(m)
}

// Message is an IPFIX message under construction.
type Message struct {
	session *Session
	size    int // the largest message

	buf       []byte
	set       int // where the open set begins; 0: none is open
	setID     uint16
	records   uint32
	templates []uint16 // that come first with this message
}

const messageHeader = 16

// NewMessage returns an empty message of at most size bytes. A single record makes it larger
// if necessary.
func (s *Session) NewMessage(size int) *Message {
	m := &Message{session: s}
	m.SetSize(size)
	m.clear()
	return m
}

// SetSize changes the largest size, for records that are not yet added.
func (m *Message) SetSize(size int) { m.size = min(size, 0xffff) }

func (m *Message) clear() {
	m.buf = append(m.buf[:0], make([]byte, messageHeader)...)
	m.set, m.setID, m.records = 0, 0, 0
	m.templates = m.templates[:0]
}

// Records returns the number of data records.
func (m *Message) Records() int { return int(m.records) }

// Empty reports whether the message has neither records nor templates.
func (m *Message) Empty() bool { return len(m.buf) == messageHeader }

// Add adds a data record and, if it is the first of its template, the template. It returns
// false if the message has no room.
func (m *Message) Add(id uint16, record []byte) bool {
	begin, set, setID, templates := len(m.buf), m.set, m.setID, len(m.templates)
	if !m.session.known[id-firstTemplate] && !slices.Contains(m.templates, id) {
		m.open(setTemplate)
		m.buf = m.session.encoder.appendTemplate(m.buf, id)
		m.templates = append(m.templates, id)
	}
	m.open(id)
	m.buf = append(m.buf, record...)
	if len(m.buf) > m.size && begin > messageHeader {
		m.buf, m.set, m.setID, m.templates = m.buf[:begin], set, setID, m.templates[:templates]
		return false
	}
	m.records++
	return true
}

// open begins a set with this number, unless one is open.
func (m *Message) open(id uint16) {
	if m.set != 0 && m.setID == id {
		return
	}
	m.close()
	m.set, m.setID = len(m.buf), id
	m.buf = be.AppendUint16(be.AppendUint16(m.buf, id), 0)
}

// close writes the length of the open set. The set can grow after it, and be closed again.
func (m *Message) close() {
	if m.set != 0 {
		be.PutUint16(m.buf[m.set+2:], uint16(len(m.buf)-m.set))
	}
}

// AddStatistics adds the options templates and their data records to an empty message. domain is
// the observation domain that they are about.
func (m *Message) AddStatistics(domain uint32, s *Statistics) {
	about := [...]struct {
		id      uint16
		fields  []field
		numbers []uint64
	}{
		{exporterStats, exporterFields, []uint64{s.Messages, s.Records, s.Thrown}},
		{meterStats, meterFields, []uint64{s.Observed, s.Lost}},
	}
	for _, a := range about {
		m.open(setOptions) // one for each: pmacct reads one options template of a set
		m.buf = appendTemplate(m.buf, a.id, optionScopes, a.fields)
		m.open(a.id)
		const process = 1 // the only one of an observation domain
		m.buf = be.AppendUint32(be.AppendUint32(m.buf, domain), process)
		for _, n := range a.numbers {
			m.buf = be.AppendUint64(m.buf, n)
		}
	}
	m.records += 2
}

// Bytes returns the message with its header. seconds is the time since the epoch.
func (m *Message) Bytes(seconds int64) []byte {
	const version = 10
	m.close()
	h := m.buf[:messageHeader]
	be.PutUint16(h, version)
	be.PutUint16(h[2:], uint16(len(m.buf)))
	be.PutUint32(h[4:], uint32(seconds))
	be.PutUint32(h[8:], m.session.sequence)
	be.PutUint32(h[12:], m.session.domain)
	return m.buf
}

// Done counts the message as sent, and empties it.
func (m *Message) Done() {
	s := m.session
	s.sequence += m.records
	for _, id := range m.templates {
		s.learn(id)
	}
	m.clear()
}
