package conntrack

import (
	"io"
	"strings"

	"ctbox/internal/feature"
	"ctbox/nl/ctnetlink"
)

// Words of -u, -e and -o. A word on the command line is taken as the first one
// of its list that begins with it, whatever its case.

type statusWord struct {
	name string
	bit  uint32
}

var statusWords = [...]statusWord{
	{"ASSURED", ctnetlink.StatusAssured},
	{"SEEN_REPLY", ctnetlink.StatusSeenReply},
	{"UNSET", 0},
	{"FIXED_TIMEOUT", ctnetlink.StatusFixedTimeout},
	{"EXPECTED", ctnetlink.StatusExpected},
	{"OFFLOAD", ctnetlink.StatusOffload},
	{"HW_OFFLOAD", ctnetlink.StatusHWOffload},
}

type eventWord struct {
	name   string
	events Events
}

var eventWords = [...]eventWord{
	{"ALL", EventAll},
	{"NEW", EventNew},
	{"UPDATES", EventUpdate},
	{"DESTROY", EventDestroy},
}

type outputWord struct {
	name   string
	output Output
}

var outputWords = [...]outputWord{
	{"xml", OutXML},
	{"extended", OutExtended},
	{"timestamp", OutTimestamp},
	{"id", OutID},
	{"ktimestamp", OutKTimestamp},
	{"labels", OutLabels},
	{"userspace", OutUserspace},
	{"save", OutSave},
	{"json", OutJSON},
}

// unreplied is the status word for flows without SEEN_REPLY. It must be written
// in full and in capitals.
const unreplied = "UNREPLIED"

// ignoredWords were status words once. They still go before all others, which
// is why S and D never abbreviate SEEN_REPLY, save or DESTROY.
var ignoredWords = [...]struct{ name, warning string }{
	{"SRC_NAT", "WARNING: ignoring SRC_NAT, use --src-nat instead\n"},
	{"DST_NAT", "WARNING: ignoring DST_NAT, use --dst-nat instead\n"},
}

func abbreviates(word, name string) bool {
	return word != "" && len(word) <= len(name) && strings.EqualFold(word, name[:len(word)])
}

// ignored reports whether word is one that is dropped with a warning.
func (p *Parser) ignored(word string) bool {
	for _, w := range ignoredWords {
		if abbreviates(word, w.name) {
			p.warn(w.warning)
			p.dropped = w.name
			return true
		}
	}
	return false
}

func (p *Parser) warn(line string) { _, _ = io.WriteString(p.Warnings, line) }

func badParameter(rest string) error { return usage("Bad parameter `" + rest + "'") }

// setStatus adds up what must be set and, after a !, what must be clear.
func (p *Parser) setStatus(_ *option, arg string, _ bool) error {
	for rest, more := arg, true; more; {
		word, tail, comma := strings.Cut(rest, ",")
		value, ok := uint32(0), true
		not := strings.HasPrefix(word, "!")
		if not {
			word, rest = word[1:], rest[1:]
		}
		switch {
		case p.ignored(word):
		case not:
			value, ok = statusBit(word)
			p.notStatus |= value
		case word == unreplied:
			p.notStatus |= ctnetlink.StatusSeenReply
		default:
			value, ok = statusBit(word)
			p.cmd.Flow.Status |= value
		}
		if !ok {
			return badParameter(rest)
		}
		rest, more = tail, comma
	}
	p.cmd.Flow.Has |= ctnetlink.HasStatus
	return nil
}

func statusBit(word string) (uint32, bool) {
	for _, w := range statusWords {
		if abbreviates(word, w.name) {
			return w.bit, true
		}
	}
	return 0, false
}

func (p *Parser) setEvents(_ *option, arg string, _ bool) error {
	return p.eachWord(arg, func(word string) bool {
		for _, w := range eventWords {
			if abbreviates(word, w.name) {
				p.cmd.Events |= w.events
				return true
			}
		}
		return false
	})
}

const withoutJSON = "this ctbox was built without JSON"

func (p *Parser) setOutput(_ *option, arg string, _ bool) error {
	err := p.eachWord(arg, func(word string) bool {
		for _, w := range outputWords {
			if abbreviates(word, w.name) {
				p.cmd.Output |= w.output
				return true
			}
		}
		return false
	})
	out := p.cmd.Output
	switch {
	case err != nil:
		return err
	case out&OutSave != 0 && out != OutSave:
		return refused("cannot combine save output with any other output type, use -o save only")
	case out&OutJSON != 0 && !feature.JSON:
		return refused(withoutJSON)
	case out&OutJSON != 0 && out&OutXML != 0:
		return refused("cannot combine json output with xml output")
	}
	return nil
}

// eachWord gives the words of a comma list to take, but for the ignored ones.
func (p *Parser) eachWord(arg string, take func(word string) bool) error {
	for rest, more := arg, true; more; {
		word, tail, comma := strings.Cut(rest, ",")
		if !p.ignored(word) && !take(word) {
			return badParameter(rest)
		}
		rest, more = tail, comma
	}
	return nil
}
