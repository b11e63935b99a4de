// Package conf is conntrackd.conf(5): it reads the file into a typed Config,
// prints a Config back as a file, and checks one against the host.
//
// One table, grammar (grammar.go and the clause files beside it), declares what
// may stand in the file: for each clause its place, its value, its default and
// range, its old names, the warning that it earns, and a sentence that says what
// it does. The parser, the printer, the suggestions in error messages and the
// reference in docs/conntrackd.conf.md are all drawn from it, so a new clause is
// one entry there and one field in Config.
//
// The files that conntrack-tools 1.4.9 accepts are accepted here, with the same
// meaning, save for those nobody can have meant; docs/differences.md lists them.
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

// A Parser parses configuration files. The zero value knows the ten helpers and
// the protocol names of the host; the fields replace that. A Parser may be used
// by several goroutines if its functions may.
type Parser struct {
	// Helper returns the policies of the user-space helper with that name and
	// layer 4 protocol number, with their default values; none if there is no
	// such helper.
	Helper func(name string, protocol uint8) []HelperPolicy

	// Protocol returns the number of a layer 4 protocol name, as
	// getprotobyname(3) does. It is asked for names only that are not among
	// the well-known ones.
	Protocol func(name string) (number uint8, ok bool)
}

// Parse parses the bytes of a file; name is the file's name in messages. The
// warnings come in the order of the file, those about several clauses last, and
// also with an error. An error is always an *Error and ends the parse: the Config
// is nil then.
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
