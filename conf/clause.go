package conf

// A clause is an entry of the grammar's table: a keyword and what follows it.
type clause struct {
	name    string
	aliases []string // old keywords, still accepted
	value   value
	doc     string // a sentence or two for the reference

	// warning is said, when it is set, each time the clause is found; notice says
	// the same to those who check a file only.
	warning, notice string

	// live says that conntrackd --reload can change it. Of a live block everything
	// can be changed; of another one, the clauses that are live.
	live bool

	// ours marks a clause that conntrack-tools does not have. The tests that compare
	// with its conntrackd leave it out, and docs/differences.md lists it.
	ours bool

	// unless, when set, tells the printer that the clause has a better place in
	// this Config: some may stand in two blocks.
	unless func(scope) bool
}

// A block is a list of clauses in braces, or the whole file.
type block struct {
	title   string // as messages and the reference name it: "Mode FTFW"
	syntax  string // for the reference: "Multicast [Default] { ... }"
	doc     string
	clauses []clause
}

// value is what may follow a keyword, and how it is kept in a Config.
type value interface {
	// read parses it and stores it. at is the place of the keyword.
	read(p *parser, c *clause, s scope, at Pos) *Error
	// reset stores the default.
	reset(s scope)
	// field is the pointer that Config.Where knows it by; nil for none.
	field(s scope) any
	// print writes the clause with its keyword, unless it has its default and
	// the printer writes only what differs from that.
	print(w *printer, c *clause, s scope)
	// syntax and standard describe it and its default in the reference.
	syntax() string
	standard() string
}

// nested is a value that is in braces.
type nested interface {
	value
	blocks() []*block
}

// scope is what the accessors of a clause's field work on: the Config and the
// instance of each repeatable block that the clause is in.
type scope struct {
	cfg    *Config
	link   *Link
	helper *HelperType
	policy *policyDraft
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

// group is a block whose clauses keep their values in one place, or in one
// instance each time the block is opened.
type group struct {
	block *block

	// enter, if set, parses what stands between the keyword and the brace, and
	// returns the scope of the body.
	enter func(p *parser, s scope, at Pos) (scope, *Error)
	// leave, if set, is called behind the closing brace with that scope.
	leave func(p *parser, s scope, at Pos) *Error

	// each, if set, returns what is to be printed: none, or several instances.
	each func(s scope) []instance
	// instances says that enter makes a new one with its own defaults.
	instances bool
	// always says that it is printed even if nothing is in it.
	always bool
}

// instance is a block to print.
type instance struct {
	head  string // with the keyword
	scope scope
	at    any // what Config.Where knows it by
}

func (g group) blocks() []*block { return []*block{g.block} }
func (g group) field(scope) any  { return g.block }
func (g group) syntax() string   { return g.block.syntax }
func (g group) standard() string { return "" }

func (g group) reset(s scope) {
	if !g.instances {
		g.block.reset(s)
	}
}

func (g group) read(p *parser, c *clause, s scope, at Pos) *Error {
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

func (g group) print(w *printer, c *clause, s scope) {
	for _, i := range g.all(c, s) {
		w.block(i.head, g.always, func() { w.clauses(g.block, i.scope) })
	}
}

// all returns the instances that there are.
func (g group) all(c *clause, s scope) []instance {
	if g.each != nil {
		return g.each(s)
	}
	return []instance{{c.name, s, g.block}}
}
