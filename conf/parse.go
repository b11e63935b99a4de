package conf

import (
	"slices"
	"strconv"
	"strings"

	"ctbox/internal/nearest"
)

// parser is the state of one call of Parse. Its methods return nil or an *Error, and leave p.tok at
// the first token that they have not consumed.
type parser struct {
	top      *block // the grammar
	lex      lexer
	tok      token // the current one
	cfg      *Config
	ext      Parser
	warnings []Warning

	keywords map[string]bool     // of all clauses, made on first use
	helpers  map[string]struct{} // those of ExpectationSync

	loose    *HelperType    // clauses of a Type given in Helper itself, for the next Type
	policies []*policyDraft // of that Type, or of the current one
	shared   map[helperObject][]HelperPolicy
}

// maxSize is the largest size of a file in bytes, far above that of any real configuration.
const maxSize = 16 << 20

// file parses the whole file.
func (p *parser) file(size int) *Error {
	if size > maxSize {
		return &Error{Text: "the file is larger than 16 MiB"}
	}
	s := scope{cfg: p.cfg}
	p.top.reset(s)
	p.next()
	for p.tok.kind != tokenEOF {
		if err := p.clause(p.top, s); err != nil {
			return err
		}
	}
	return p.finish()
}

// body parses a block from its opening to its closing brace.
func (p *parser) body(b *block, s scope) *Error {
	open, err := p.open()
	if err != nil {
		return err
	}
	for p.tok.kind != tokenClose {
		if p.tok.kind == tokenEOF {
			return p.unclosed(b.title, open)
		}
		if err := p.clause(b, s); err != nil {
			return err
		}
	}
	p.next()
	return nil
}

// clause parses one clause of the block.
func (p *parser) clause(b *block, s scope) *Error {
	word := p.tok
	var c *clause
	if word.kind == tokenWord {
		c = b.find(word.text)
	}
	if c == nil {
		return p.unknown(b)
	}
	p.next()
	if err := c.value.read(p, c, s, word.pos); err != nil {
		return err
	}
	if c.warning != "" {
		p.warn(word.pos, Always, c.warning)
	}
	switch {
	case c.notice != "":
		p.warn(word.pos, OnCheck, c.notice)
	case word.text != c.name:
		p.warn(word.pos, OnCheck, word.text+" is an old name of "+c.name)
	}
	return nil
}

// next returns the current token and advances to the next one.
func (p *parser) next() token {
	t := p.tok
	p.tok = p.lex.next()
	return t
}

// open expects an opening brace.
func (p *parser) open() (token, *Error) {
	if p.tok.kind != tokenOpen {
		return token{}, p.unexpected(`"{"`)
	}
	return p.next(), nil
}

// word expects a word. expected describes it; candidates are for the suggestion.
func (p *parser) word(expected string, candidates ...string) (token, *Error) {
	if p.tok.kind != tokenWord {
		return token{}, p.unexpected(expected, candidates...)
	}
	return p.next(), nil
}

// oneOf expects one of the words and returns its index. fold ignores case.
func (p *parser) oneOf(fold bool, words ...string) (int, *Error) {
	if p.tok.kind == tokenWord {
		for i, w := range words {
			if p.tok.text == w || fold && strings.EqualFold(p.tok.text, w) {
				p.next()
				return i, nil
			}
		}
	}
	return 0, p.unexpected(alternatives(words), words...)
}

// mark records where a field was set. If it was set before, --check warns.
func (p *parser) mark(field any, c *clause, at Pos) {
	if before, twice := p.cfg.pos[field]; twice {
		p.warn(at, OnCheck, c.name+" is given again and replaces the one in line "+strconv.Itoa(before.Line))
	}
	p.cfg.pos[field] = at
}

func (p *parser) warn(at Pos, when When, text string) {
	p.warnings = append(p.warnings, Warning{Pos: at, When: when, Text: text})
}

// unexpected returns the error for a current token that is not what is expected.
func (p *parser) unexpected(expected string, candidates ...string) *Error {
	return p.mismatch(p.tok, expected, candidates...)
}

// mismatch returns the error for a token t that is not what is expected.
func (p *parser) mismatch(t token, expected string, candidates ...string) *Error {
	err := &Error{Pos: t.pos, Found: t.String(), Expected: expected}
	if t.kind == tokenWord {
		if near := nearest.Word(t.text, candidates); near != "" {
			err.Suggestion = "did you mean " + near + "?"
		}
	}
	return err
}

// unclosed returns the error for a file that ends within a block.
func (p *parser) unclosed(title string, open token) *Error {
	return p.unexpected(`"}" for the ` + title + " block that was opened in line " + strconv.Itoa(open.pos.Line))
}

// unknown returns the error for a current token that is not a clause of the block.
func (p *parser) unknown(b *block) *Error {
	keywords := b.keywords()
	expected := "a clause of " + b.title
	if b == p.top {
		expected = alternatives(keywords)
	} else {
		expected += ` or "}"`
	}
	err := p.unexpected(expected)
	if p.tok.kind != tokenWord {
		return err
	}
	if places := p.top.belongs(p.tok.text, nil); len(places) > 0 {
		err.Suggestion = p.tok.text + " belongs in " + alternatives(places)
		return err
	}
	return p.unexpected(expected, keywords...)
}

// belongs appends the titles of the blocks in b that have the clause.
func (b *block) belongs(keyword string, titles []string) []string {
	for i := range b.clauses {
		n, ok := b.clauses[i].value.(nested)
		if !ok {
			continue
		}
		for _, sub := range n.blocks() {
			if c := sub.find(keyword); c != nil {
				if _, stray := c.value.(*forNext); !stray {
					titles = append(titles, sub.title)
				}
			}
			titles = sub.belongs(keyword, titles)
		}
	}
	return titles
}

// alternatives returns "a, b or c".
func alternatives(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// finish checks and settles combinations of clauses.
func (p *parser) finish() *Error {
	c := p.cfg
	if c.Stats != nil && c.Stats.Syslog != FacilityOff && c.General.Syslog != FacilityOff &&
		c.Stats.Syslog != c.General.Syslog {
		p.warn(c.pos[&c.Stats.Syslog], Always, "conflicting Syslog facility values, defaulting to General")
		c.Stats.Syslog = c.General.Syslog
	}
	if c.Sync != nil {
		p.finishSync(c.Sync)
		if c.Sync.Cluster != nil {
			if err := p.finishCluster(c.Sync); err != nil {
				return err
			}
		}
	}
	if c.Helper != nil {
		for _, t := range c.Helper.Types {
			t.Policies = slices.Clone(p.shared[t.object()])
		}
	}
	if p.loose != nil || len(p.policies) > 0 {
		p.warn(c.pos[c.Helper], OnCheck, "Helper has clauses of a Type after its last Type; they count for none")
	}
	return nil
}

func (p *parser) finishSync(s *Sync) {
	c := p.cfg
	if _, ok := c.pos[&s.Mode]; !ok {
		p.warn(c.pos[s], AtStart, "No synchronization mode specified. Defaulting to FT-FW mode.")
	}
	if s.Mode != ModeNOTRACK {
		p.otherMode(&s.DisableInternalCache, "DisableInternalCache", s.Mode)
	}
	if s.Mode == ModeALARM {
		p.otherMode(&s.DisableExternalCache, "DisableExternalCache", s.Mode)
		p.otherMode(&s.StartupResync, "StartupResync", s.Mode)
	}
	if s.Mode != ModeFTFW {
		// Other modes do not have them: values from the block of an unused mode are
		// not kept.
		s.ResendQueueSize, s.ACKWindowSize = defaultResendQueueSize, defaultACKWindowSize
	}
	if s.CommitTimeout != 0 && s.DisableExternalCache {
		p.warn(c.pos[&s.CommitTimeout], Always, "`CommitTimeout' can't be combined with `DisableExternalCache', "+
			"ignoring this option. Fix your configuration file.")
		s.CommitTimeout = 0
	}
	if len(s.Links) > 0 {
		for _, l := range s.Links {
			if l.Default {
				return
			}
		}
		s.Links[0].Default = true
	}
}

// otherMode clears a flag that was set in the block of an unused mode.
func (p *parser) otherMode(flag *bool, name string, used Mode) {
	if *flag {
		*flag = false
		p.warn(p.cfg.pos[flag], Always, name+" was set for another mode than "+used.String()+", which is used, ignoring")
	}
}
