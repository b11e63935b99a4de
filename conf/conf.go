// Package conf is conntrackd.conf(5): it reads the file into a typed Config,
// prints a Config back as a file, and checks one against the host.
//
// One table, grammar (grammar.go and the grammar_ files), declares the clauses: the place,
// value, default, range and old names of each, its warning, and a sentence of documentation.
// The parser, the printer, the suggestions in error messages and the reference pages are
// driven by it or generated from it (make generate), so a new clause is one entry there and
// one field in Config. An entry for a clause that conntrack-tools does not have sets ours. A
// new type of value also needs operands in the tests' randomOperand.
//
// The files that conntrack-tools 1.4.9 accepts are accepted here with the same meaning.
// docs/differences.md lists the exceptions.
package conf

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// Load reads and parses the named file. The error of a file that cannot be read
// wraps the fs error; any other is an *Error.
func Load(name string) (*Config, []Warning, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	defer file.Close()
	src, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg, warnings, err := Parse(name, src)
	if text := exposed(file); text != "" {
		warnings = append(warnings, Warning{File: name, Text: name + " " + text, When: AtStart})
	}
	return cfg, warnings, err
}

// Parse parses src with the zero Parser. name is the file's name in messages.
func Parse(name string, src []byte) (*Config, []Warning, error) {
	return new(Parser).Parse(name, src)
}

// A Parser parses configuration files. The zero value knows the built-in helpers and the
// protocol names of the host; the fields replace these. Several goroutines may use a Parser
// if they may use its functions.
type Parser struct {
	// Helper returns the policies of the user-space helper with that name and
	// layer 4 protocol number, with their default values, or nil if there is no
	// such helper.
	Helper func(name string, protocol uint8) []HelperPolicy

	// Protocol returns the number of a layer 4 protocol name, as
	// getprotobyname(3) does. It is called for names that are not well known.
	Protocol func(name string) (number uint8, ok bool)
}

// Parse parses the bytes of a file; name is the file's name in messages. Warnings are in the
// order of the file, those about several clauses last, and are returned with an error, too.
// An error is always an *Error, and the Config is nil then.
func (ps *Parser) Parse(name string, src []byte) (*Config, []Warning, error) {
	return ps.parse(&grammar, name, src)
}

func (ps *Parser) parse(top *block, name string, src []byte) (*Config, []Warning, error) {
	p := &parser{
		top: top,
		lex: lexer{src: bytes.TrimPrefix(src, []byte("\xef\xbb\xbf")), line: 1, col: 1},
		cfg: &Config{File: name, pos: make(map[any]Pos)},
		ext: *ps,

		helpers: make(map[string]struct{}),
		shared:  make(map[helperObject][]HelperPolicy),
	}
	if p.ext.Helper == nil {
		p.ext.Helper = builtinHelper
	}
	if p.ext.Protocol == nil {
		p.ext.Protocol = new(protocolsFile).lookup
	}
	err := p.file(len(src))
	for i := range p.warnings {
		p.warnings[i].File = name
	}
	if err != nil {
		err.File = name
		return nil, p.warnings, err
	}
	return p.cfg, p.warnings, nil
}
