package conf

import "strings"

// path is an absolute path.
type path struct {
	at      func(scope) *string
	def     string
	most    int    // bytes
	tooLong string // the error's text
}

func (v *path) read(p *parser, c *clause, s scope, at Pos) *Error {
	t, err := p.path(v.most, v.tooLong)
	if err != nil {
		return err
	}
	field := v.at(s)
	p.mark(field, c, at)
	*field = t
	return nil
}

// path parses an absolute path of at most most bytes.
func (p *parser) path(most int, tooLong string) (string, *Error) {
	const expected = "an absolute path"
	t, err := p.word(expected)
	switch {
	case err != nil:
		return "", err
	case t.text[0] != '/' || strings.IndexByte(t.text, 0) >= 0:
		return "", p.mismatch(t, expected)
	case len(t.text) > most:
		return "", &Error{Pos: t.pos, Text: tooLong}
	}
	return t.text, nil
}

func (v *path) field(s scope) any { return v.at(s) }
func (v *path) reset(s scope)     { *v.at(s) = v.def }

func (v *path) print(w *printer, c *clause, s scope) {
	if path := *v.at(s); path != "" && (w.all || path != v.def) {
		w.line(c.name, path)
	}
}

func (v *path) syntax() string   { return "/PATH" }
func (v *path) standard() string { return v.def }

// logFile is a log file: on for the default path, off, or a path. As in conntrack-tools, off
// does not undo an earlier clause.
type logFile struct {
	at      func(scope) *string
	usual   string
	tooLong string
}

// maxLogPath is the longest path of a log or lock file.
const maxLogPath = 256

func (v *logFile) read(p *parser, c *clause, s scope, at Pos) *Error {
	field := v.at(s)
	if p.tok.kind == tokenWord {
		if on, ok := switches[strings.ToLower(p.tok.text)]; ok {
			p.next()
			switch {
			case on:
				p.mark(field, c, at)
				*field = v.usual
			case *field != "":
				p.warn(at, OnCheck, c.name+" off does not undo the "+c.name+" before it")
			}
			return nil
		}
	}
	name, err := p.path(maxLogPath, v.tooLong)
	if err != nil {
		if err.Text == "" {
			err.Expected = "on, off or " + err.Expected
		}
		return err
	}
	p.mark(field, c, at)
	*field = name
	return nil
}

func (v *logFile) field(s scope) any { return v.at(s) }
func (v *logFile) reset(s scope)     { *v.at(s) = "" }

func (v *logFile) print(w *printer, c *clause, s scope) {
	switch path := *v.at(s); {
	case path != "":
		w.line(c.name, path)
	case w.all:
		w.line(c.name, "off")
	}
}

func (v *logFile) syntax() string   { return "on | off | /PATH" }
func (v *logFile) standard() string { return "off" }

// facility is a syslog facility: on for the default one, off, or a name.
type facility struct {
	at      func(scope) *Facility
	usual   func(scope) Facility
	unknown string // what follows "'X' is not a known syslog facility, "
}

var facilityNames = []string{"daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// String returns the facility's name, or off.
func (f Facility) String() string {
	switch {
	case f == FacilityDaemon:
		return facilityNames[0]
	case f >= FacilityLocal0 && f <= FacilityLocal7 && f%8 == 0:
		return facilityNames[1+(f-FacilityLocal0)/8]
	}
	return "off"
}

func (v *facility) read(p *parser, c *clause, s scope, at Pos) *Error {
	expected := "on, off or a syslog facility: " + alternatives(facilityNames)
	t, err := p.word(expected, facilityNames...)
	if err != nil {
		return err
	}
	field := v.at(s)
	if on, ok := switches[strings.ToLower(t.text)]; ok {
		p.mark(field, c, at)
		if *field = FacilityOff; on {
			*field = v.usual(s)
		}
		return nil
	}
	for i, name := range facilityNames {
		if name == t.text {
			p.mark(field, c, at)
			if *field = FacilityDaemon; i > 0 {
				*field = FacilityLocal0 + Facility(i-1)*8
			}
			return nil
		}
	}
	if !p.isName(t.text) {
		return p.mismatch(t, expected)
	}
	p.warn(t.pos, Always, "'"+t.text+"' is not a known syslog facility, "+v.unknown)
	return nil
}

func (v *facility) field(s scope) any { return v.at(s) }
func (v *facility) reset(s scope)     { *v.at(s) = FacilityOff }

func (v *facility) print(w *printer, c *clause, s scope) {
	if f := *v.at(s); w.all || f != FacilityOff {
		w.line(c.name, f.String())
	}
}

func (v *facility) syntax() string   { return "on | off | daemon | local0 ... local7" }
func (v *facility) standard() string { return "off" }

// logFormat is the format of a log, in any letter case.
type logFormat struct {
	at func(scope) *LogFormat
}

var logFormatNames = [...]string{LogText: "text", LogJSON: "json"}

// String returns the format's name.
func (f LogFormat) String() string { return logFormatNames[f] }

func (v *logFormat) read(p *parser, c *clause, s scope, at Pos) *Error {
	i, err := p.oneOf(true, logFormatNames[:]...)
	if err != nil {
		return err
	}
	field := v.at(s)
	p.mark(field, c, at)
	*field = LogFormat(i)
	return nil
}

func (v *logFormat) field(s scope) any { return v.at(s) }
func (v *logFormat) reset(s scope)     { *v.at(s) = LogText }

func (v *logFormat) print(w *printer, c *clause, s scope) {
	if f := *v.at(s); w.all || f != LogText {
		w.line(c.name, f.String())
	}
}

func (v *logFormat) syntax() string   { return "text | json" }
func (v *logFormat) standard() string { return LogText.String() }

// scheduler is a real-time policy, in any letter case.
type scheduler struct {
	at func(scope) *SchedulerType
}

// String returns the policy's name.
func (t SchedulerType) String() string {
	if t == SchedulerFIFO {
		return "FIFO"
	}
	return "RR"
}

func (v *scheduler) read(p *parser, c *clause, s scope, at Pos) *Error {
	t, err := p.word("RR or FIFO", "RR", "FIFO")
	if err != nil {
		return err
	}
	field := v.at(s)
	switch {
	case strings.EqualFold(t.text, "RR"):
		*field = SchedulerRR
	case strings.EqualFold(t.text, "FIFO"):
		*field = SchedulerFIFO
	case p.isName(t.text):
		return &Error{Pos: t.pos, Text: "unknown scheduler `" + abbreviated(t.text) + "'"}
	default:
		return p.mismatch(t, "RR or FIFO", "RR", "FIFO")
	}
	p.mark(field, c, at)
	return nil
}

func (v *scheduler) field(s scope) any { return v.at(s) }
func (v *scheduler) reset(s scope)     { *v.at(s) = SchedulerRR }

func (v *scheduler) print(w *printer, c *clause, s scope) {
	if t := *v.at(s); w.all || t != SchedulerRR {
		w.line(c.name, t.String())
	}
}

func (v *scheduler) syntax() string   { return "RR | FIFO" }
func (v *scheduler) standard() string { return "RR" }

// isName reports whether s can be the name of a protocol, helper or facility: letters,
// digits, dots, dashes and underscores, at least one letter, and neither a dot nor a dash in
// front. A keyword is not accepted: it means that the name is missing.
func (p *parser) isName(s string) bool {
	letter := false
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			letter = true
		case '0' <= c && c <= '9', c == '_', i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	if p.keywords == nil {
		p.keywords = make(map[string]bool)
		p.top.collect(p.keywords)
	}
	return letter && !p.keywords[s]
}

// collect adds the keywords of all blocks in b to the set.
func (b *block) collect(set map[string]bool) {
	for i := range b.clauses {
		if n, ok := b.clauses[i].value.(nested); ok {
			for _, sub := range n.blocks() {
				for _, keyword := range sub.keywords() {
					set[keyword] = true
				}
				sub.collect(set)
			}
		}
	}
}
