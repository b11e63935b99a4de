package conf

import "strings"

// Change is a clause that says another thing in one configuration than in another.
type Change struct {
	// File and Pos are where the new file has the clause; where it has none, they
	// are those of the block that it is missing in. Pos may be no place.
	File string
	Pos  Pos

	// Path is the clause's keyword behind those of the blocks that it is in:
	// "General Filter", "Sync UDP Port".
	Path string

	// Old and New are the clauses as a file has them, in one line; "" where there
	// is none. Of a block that comes or goes they are what stands before the brace.
	Old, New string

	// Live says that a running daemon can change it.
	Live bool
}

// String says in one line, with the place in front, what cannot be done to a
// running daemon: it is for changes that are not Live.
func (c *Change) String() string {
	const running = " while the daemon runs"
	text := string(appendPlace(nil, c.File, c.Pos))
	switch {
	case c.Old == "":
		return text + c.New + " cannot be added" + running
	case c.New == "":
		return text + c.Old + " cannot be taken away" + running
	}
	return text + c.New + " cannot replace " + c.Old + running
}

// Changes returns in what next differs from c, in the order of the grammar's
// table. A clause that is left out is compared as its default.
func (c *Config) Changes(next *Config) []Change {
	d := differ{next: next}
	d.block(&grammar, scope{cfg: c}, scope{cfg: next}, Pos{}, "")
	return d.found
}

// LiveClauses returns the clauses that a running daemon can change, as Change.Path has
// them, but for a clause of a mode, which has the mode's name: "General Filter",
// "Sync Mode FTFW CommitTimeout".
func LiveClauses() []string { return appendLive(nil, &grammar, "") }

func appendLive(dst []string, b *block, path string) []string {
	for i := range b.clauses {
		c := &b.clauses[i]
		switch v := c.value.(type) {
		case group:
			if !c.live {
				dst = appendLive(dst, v.block, path+c.name+" ")
				continue
			}
		case mode:
			for m := range v {
				dst = appendLive(dst, &v[m], path+"Mode "+modeNames[m]+" ")
			}
			continue
		}
		if c.live && c.unless == nil { // otherwise it is one of another block's
			dst = append(dst, path+c.name)
		}
	}
	return dst
}

// differ is the state of one Changes.
type differ struct {
	next  *Config
	found []Change
}

// block compares the clauses of a block that both have. at is its place in the
// new file, path its keywords.
func (d *differ) block(b *block, old, new scope, at Pos, path string) {
	for i := range b.clauses {
		c := &b.clauses[i]
		if c.unless != nil && (c.unless(old) || c.unless(new)) {
			continue
		}
		switch v := c.value.(type) {
		case group:
			if !c.live {
				d.instances(c, v.all(c, old), v.all(c, new), at, path)
				continue
			}
		case mode:
			if m := new.cfg.Sync.Mode; m == old.cfg.Sync.Mode {
				d.block(&v[m], old, new, d.place(&new.cfg.Sync.Mode, at), path+"Mode ")
			} else {
				d.add(c, "Mode "+old.cfg.Sync.Mode.String(), "Mode "+m.String(), d.place(&new.cfg.Sync.Mode, at), path)
			}
			continue
		}
		d.add(c, text(c, old), text(c, new), d.place(c.value.field(new), at), path)
	}
}

// instances compares the blocks of one clause, each with the one at its place.
func (d *differ) instances(c *clause, old, new []instance, at Pos, path string) {
	for i := range max(len(old), len(new)) {
		switch {
		case i >= len(new):
			d.add(c, old[i].head, "", at, path)
		case i >= len(old):
			d.add(c, "", new[i].head, d.place(new[i].at, at), path)
		case old[i].head != new[i].head:
			d.add(c, old[i].head, new[i].head, d.place(new[i].at, at), path)
		default:
			v := c.value.(group)
			d.block(v.block, old[i].scope, new[i].scope, d.place(new[i].at, at), path+c.name+" ")
		}
	}
}

func (d *differ) add(c *clause, old, new string, at Pos, path string) {
	if old != new {
		d.found = append(d.found, Change{File: d.next.File, Pos: at, Path: path + c.name, Old: old, New: new, Live: c.live})
	}
}

// place is where the new file set a field, or else where the block around it is.
func (d *differ) place(field any, around Pos) Pos {
	if at, ok := d.next.pos[field]; ok {
		return at
	}
	return around
}

// text is a clause as the file has it, in one line, also where it has its default.
func text(c *clause, s scope) string {
	w := printer{all: true}
	c.value.print(&w, c, s)
	return strings.Join(strings.Fields(string(w.dst)), " ")
}
