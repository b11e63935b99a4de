package conf

// A clause is an entry of the grammar's table: a keyword and its value.
type clause struct {
	name    string
	aliases []string // old keywords, still accepted
	value   value
	doc     string // a sentence or two for the reference

	// warning, if not empty, is issued each time the clause is read; notice likewise, but
	// by conntrackd --check only.
	warning, notice string

	// live marks a clause that conntrackd --reload can change, and a block in which it can
	// change every clause.
	live bool

	// ours marks a clause that conntrack-tools does not have. The tests that compare
	// with its conntrackd leave it out, and docs/differences.md lists it.
	ours bool

	// unless, if not nil, reports whether the printer omits the clause here: a clause that
	// is allowed in two blocks is printed in one.
	unless func(scope) bool
}

// A block is a list of clauses in braces, or the whole file.
type block struct {
	title   string // as messages and the reference name it: "Mode FTFW"
	syntax  string // for the reference: "Multicast [Default] { ... }"
	doc     string
	clauses []clause
}

// value is the type of a clause's operands, and their place in a Config.
type value interface {
	// read parses the operands and stores them. at is the place of the keyword.
	read(p *parser, c *clause, s scope, at Pos) *Error
	// reset stores the default.
	reset(s scope)
	// field is the pointer to pass to Config.Where; nil for none.
	field(s scope) any
	// print writes the clause with its keyword. It omits defaults unless w.all is set.
	print(w *printer, c *clause, s scope)
	// syntax and standard are the operands and the default in the reference.
	syntax() string
	standard() string
}

// nested is a value in braces.
type nested interface {
	value
	blocks() []*block
}

// scope is the Config, and the instance of each repeatable block, in which the accessors of a
// clause find its field.
type scope struct {
	cfg    *Config
	link   *Link
	helper *HelperType
	policy *policyDraft
	export *Export
	peer   *ClusterPeer
}

func (b *block) find(keyword string) *clause {
	for i := range b.clauses {
		c := &b.clauses[i]
		if c.name == keyword {
			return c
		}
		for _, alias := range c.aliases {
			if alias == keyword {
				return c
			}
		}
	}
	return nil
}

// keywords returns the current keywords of the block, then the old ones.
func (b *block) keywords() []string {
	var names, old []string
	for i := range b.clauses {
		names = append(names, b.clauses[i].name)
		old = append(old, b.clauses[i].aliases...)
	}
	return append(names, old...)
}

func (b *block) reset(s scope) {
	for i := range b.clauses {
		b.clauses[i].value.reset(s)
	}
}

// group is a block. Its clauses store into the same fields each time it is opened, or into a
// new instance.
type group struct {
	block *block

	// enter, if not nil, parses the words before the opening brace, and returns the scope
	// of the body.
	enter func(p *parser, s scope, at Pos) (scope, *Error)
	// leave, if not nil, is called after the closing brace with that scope.
	leave func(p *parser, s scope, at Pos) *Error

	// each, if not nil, returns the instances to print.
	each func(s scope) []instance
	// instances is set if enter creates a new instance with its own defaults.
	instances bool
	// always is set if the block is printed even when it is empty.
	always bool
}

// instance is a block to print.
type instance struct {
	head  string // with the keyword
	scope scope
	at    any // the pointer to pass to Config.Where
}

func (g *group) blocks() []*block { return []*block{g.block} }
func (g *group) field(scope) any  { return g.block }
func (g *group) syntax() string   { return g.block.syntax }
func (g *group) standard() string { return "" }

func (g *group) reset(s scope) {
	if !g.instances {
		g.block.reset(s)
	}
}

func (g *group) read(p *parser, c *clause, s scope, at Pos) *Error {
	if g.enter != nil {
		var err *Error
		if s, err = g.enter(p, s, at); err != nil {
			return err
		}
	}
	p.cfg.pos[g.block] = at
	if err := p.body(g.block, s); err != nil {
		return err
	}
	if g.leave != nil {
		return g.leave(p, s, at)
	}
	return nil
}

func (g *group) print(w *printer, c *clause, s scope) {
	for _, i := range g.all(c, s) {
		w.block(i.head, g.always, func() { w.clauses(g.block, i.scope) })
	}
}

// all returns the instances of the block.
func (g *group) all(c *clause, s scope) []instance {
	if g.each != nil {
		return g.each(s)
	}
	return []instance{{c.name, s, g.block}}
}
