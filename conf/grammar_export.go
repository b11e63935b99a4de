package conf

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// exportGroup is the Export clause: a new exporter each time.
func exportGroup() *group {
	b := &block{title: "Export", syntax: "ipfix | json { ... }", clauses: exportClauses}
	return &group{
		block:     b,
		instances: true,
		enter: func(p *parser, s scope, at Pos) (scope, *Error) {
			i, err := p.oneOf(false, exportFormatNames[:]...)
			if err != nil {
				return s, err
			}
			s.export = &Export{Format: ExportFormat(i)}
			p.cfg.pos[s.export] = at
			b.reset(s)
			s.cfg.Exports = append(s.cfg.Exports, s.export)
			return s, nil
		},
		each: func(s scope) (all []instance) {
			for _, e := range s.cfg.Exports {
				all = append(all, instance{"Export " + e.Format.String(), scope{cfg: s.cfg, export: e}, e})
			}
			return all
		},
		always: true,
	}
}

var exportFormatNames = [...]string{ExportIPFIX: "ipfix", ExportJSON: "json"}

// String returns the format's name.
func (f ExportFormat) String() string { return exportFormatNames[f] }

var exportClauses = []clause{
	{
		name:  "Collector",
		value: hostAddress(func(e *Export) *netip.Addr { return &e.Collector }),
		doc:   "ipfix: the collector's address.",
	},
	{
		name:  "File",
		value: exportFile,
		doc: "json: the file to append to, created with mode 0600; - is standard output. SIGHUP opens it again, so that logrotate can " +
			"rename it.",
	},
	{
		name: "Socket",
		value: &path{
			at: func(s scope) *string { return &s.export.Socket }, most: 107, tooLong: "Socket is longer than 107 characters",
		},
		doc: "json: the Unix socket of the program that takes the records: datagram, a record each, or stream.",
	},
	{
		name:  "Syslog",
		value: hostAddress(func(e *Export) *netip.Addr { return &e.Syslog }),
		doc:   "json: the address of a logger that takes messages of RFC 5424; each has a record as its text.",
	},
	{
		name:  "Port",
		value: &number[uint16]{at: func(s scope) *uint16 { return &s.export.Port }, max: 65535},
		doc:   "The port of the Collector or the Syslog. Without it, or as 0, it is 4739 or 514.",
	},
	{
		name:  "Transport",
		value: exportTransport,
		doc:   "How the Collector or the Syslog is reached.",
	},
	{
		name:  "Domain",
		value: &number[uint32]{at: func(s scope) *uint32 { return &s.export.Domain }, max: maxInt, def: 1},
		doc:   "ipfix: the observation domain, by which a collector tells the exporters of an address apart.",
	},
	{
		name:  "EnterpriseNumber",
		value: &number[uint32]{at: func(s scope) *uint32 { return &s.export.Enterprise }, max: maxInt},
		doc: "ipfix: your private enterprise number (IANA). With it records also have the elements 1 to 5 of that number: how the " +
			"record came about (0 an event, 1 found at the start, 2 made up after a loss), mark, status, TCP state, labels.",
	},
	{
		name:  "Records",
		value: exportRecords,
		doc: "What is recorded, as a word or as several in braces. nat: the begin and the end of each translated flow. flow: the end " +
			"of each flow with its counters; as JSON its begin, too.",
	},
	{
		name:  "Destinations",
		value: &boolean{at: func(s scope) *bool { return &s.export.Destinations }, def: true},
		doc: "off leaves the destinations out of records of translations (RFC 6888, REQ-12). Flows of which only the destination " +
			"is translated are not recorded then.",
	},
	{
		name:  "TemplateRefresh",
		value: &seconds{at: func(s scope) *time.Duration { return &s.export.TemplateRefresh }, def: time.Minute},
		doc:   "ipfix: how often templates are sent again over UDP.",
	},
	{
		name:  "ActiveTimeout",
		value: &seconds{at: func(s scope) *time.Duration { return &s.export.ActiveTimeout }, def: 0},
		doc: "A flow that goes on is recorded with its counters each time this time has passed. Without it, or as 0, only its end is. " +
			"It is for Records flow.",
	},
	{
		name:  "QueueLimit",
		value: &number[uint32]{at: func(s scope) *uint32 { return &s.export.QueueLimit }, max: 1 << 24, def: 65536},
		doc: "Records that wait for a destination that is slow or down. Beyond it the oldest give way. A record takes about 100 bytes " +
			"as ipfix, 500 as json.",
	},
	{
		name:  "Filter",
		value: &filter{&block{title: "Filter", syntax: "[From Userspace | From Kernelspace] { ... }", clauses: filterClauses}},
		doc:   "Selects the flows to record, as the Filter of General does for replication. That one does not count here.",
	},
}

// exportValue is a value of one word, or of several in braces. text returns the operand.
type exportValue struct {
	at    func(s scope) any // the pointer to the field
	parse func(p *parser, s scope) *Error
	text  func(s scope) string
	clear func(s scope)
	def   string // as text returns it; "" for none
	form  string
}

func (v *exportValue) field(s scope) any { return v.at(s) }
func (v *exportValue) reset(s scope)     { v.clear(s) }
func (v *exportValue) syntax() string    { return v.form }
func (v *exportValue) standard() string  { return v.def }

func (v *exportValue) read(p *parser, c *clause, s scope, at Pos) *Error {
	err := v.parse(p, s)
	if err == nil {
		p.mark(v.at(s), c, at)
	}
	return err
}

func (v *exportValue) print(w *printer, c *clause, s scope) {
	if text := v.text(s); text != "" && (w.all || text != v.def) {
		w.line(c.name, text)
	}
}

// hostAddress is an address of either family.
func hostAddress(at func(*Export) *netip.Addr) *exportValue {
	return &exportValue{
		at: func(s scope) any { return at(s.export) },
		parse: func(p *parser, s scope) *Error {
			const expected = "an address"
			t, err := p.word(expected)
			if err != nil {
				return err
			}
			addr, bad := netip.ParseAddr(t.text)
			if bad != nil || addr.Zone() != "" || addr.IsUnspecified() {
				return p.mismatch(t, expected)
			}
			*at(s.export) = addr.Unmap()
			return nil
		},
		text: func(s scope) string {
			if addr := *at(s.export); addr.IsValid() {
				return addr.String()
			}
			return ""
		},
		clear: func(s scope) { *at(s.export) = netip.Addr{} },
		form:  "ADDRESS",
	}
}

// exportFile is a path, or "-".
var exportFile = &exportValue{
	at: func(s scope) any { return &s.export.File },
	parse: func(p *parser, s scope) (err *Error) {
		if p.tok.kind == tokenWord && p.tok.text == "-" {
			s.export.File = p.next().text
			return nil
		}
		name, err := p.path(maxLogPath, "File path is longer than 256 characters")
		if err == nil {
			s.export.File = name
		} else if err.Text == "" {
			err.Expected = "- or " + err.Expected
		}
		return err
	},
	text:  func(s scope) string { return s.export.File },
	clear: func(s scope) { s.export.File = "" },
	form:  "/PATH | -",
}

var transportNames = [...]string{"udp", "tcp"}

// exportTransport is udp or tcp, in any letter case.
var exportTransport = &exportValue{
	at: func(s scope) any { return &s.export.TCP },
	parse: func(p *parser, s scope) *Error {
		i, err := p.oneOf(true, transportNames[:]...)
		s.export.TCP = i == 1
		return err
	},
	text: func(s scope) string {
		if s.export.TCP {
			return transportNames[1]
		}
		return transportNames[0]
	},
	clear: func(s scope) { s.export.TCP = false },
	def:   transportNames[0],
	form:  "udp | tcp",
}

var exportRecordNames = []string{"nat", "flow"}

// String returns the words for a file.
func (r ExportRecords) String() string {
	var words []string
	for i, name := range exportRecordNames {
		if r&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	if len(words) == 1 {
		return words[0]
	}
	return "{ " + strings.Join(append(words, "}"), " ")
}

// exportRecords is a word or several in braces.
var exportRecords = &exportValue{
	at: func(s scope) any { return &s.export.Records },
	parse: func(p *parser, s scope) *Error {
		field := &s.export.Records
		expected := alternatives(exportRecordNames)
		add := func(t token) *Error {
			i := slices.Index(exportRecordNames, t.text)
			if i < 0 {
				return p.mismatch(t, expected, exportRecordNames...)
			}
			*field |= 1 << i
			return nil
		}
		*field = 0
		switch p.tok.kind {
		case tokenWord:
			return add(p.next())
		case tokenOpen:
			return p.items("Records", expected, add)
		}
		return p.unexpected(expected + ` or "{"`)
	},
	text:  func(s scope) string { return s.export.Records.String() },
	clear: func(s scope) { s.export.Records = ExportFlows },
	def:   "flow",
	form:  "nat | flow | { nat flow }",
}

// Destination returns the address and port of the collector or logger; ok is false for other
// destinations.
func (e *Export) Destination() (at netip.AddrPort, ok bool) {
	const ipfixPort, syslogPort = 4739, 514
	switch {
	case e.Format == ExportIPFIX && e.Collector.IsValid():
		return netip.AddrPortFrom(e.Collector, cmp.Or(e.Port, ipfixPort)), true
	case e.Format == ExportJSON && e.Syslog.IsValid():
		return netip.AddrPortFrom(e.Syslog, cmp.Or(e.Port, syslogPort)), true
	}
	return at, false
}

// Problem returns why the exporter cannot work anywhere, or "".
func (e *Export) Problem() string {
	given := 0
	for _, is := range []bool{e.Collector.IsValid(), e.File != "", e.Socket != "", e.Syslog.IsValid()} {
		if is {
			given++
		}
	}
	switch {
	case e.Format == ExportIPFIX && !e.Collector.IsValid():
		return "Export ipfix has no Collector"
	case e.Format == ExportIPFIX && given > 1:
		return "Export ipfix goes to a Collector only; File, Socket and Syslog are for json"
	case e.Format == ExportJSON && e.Collector.IsValid():
		return "Export json goes to a File, Socket or Syslog; Collector is for ipfix"
	case e.Format == ExportJSON && given != 1:
		return "Export json needs one of File, Socket and Syslog, and has " + strconv.Itoa(given)
	case e.Records == 0:
		return "Export " + e.Format.String() + " has an empty list of Records"
	}
	return ""
}

// destination returns where the records go, as a message names it.
func (e *Export) destination() string {
	if at, ok := e.Destination(); ok {
		return at.String()
	}
	return cmp.Or(e.File, e.Socket)
}

// Equal reports whether two clauses say the same.
func (e *Export) Equal(f *Export) bool {
	text := func(e *Export) string {
		w := printer{all: true}
		w.line(e.Format.String())
		w.clauses(&block{clauses: exportClauses}, scope{export: e})
		return string(w.dst)
	}
	return text(e) == text(f)
}
