package conf

import "strings"

// Change is a clause that differs between two configurations.
type Change struct {
	// File and Pos are the clause's place in the new file; if the new file lacks the
	// clause, the place of the block that would contain it. Pos can be the zero Pos.
	File string
	Pos  Pos

	// Path is the keywords of the enclosing blocks and of the clause:
	// "General Filter", "Sync UDP Port".
	Path string

	// Old and New are the clause as written in each file, in one line; "" if the file
	// lacks it. For an added or removed block they are the words before its brace.
	Old, New string

	// Live is set if a running daemon can apply the change.
	Live bool
}

// String returns one line, with the place in front, for a change that is not Live: it says
// what a running daemon cannot do.
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

// Changes returns the differences between c and next, in the order of the grammar's table.
// A missing clause is compared as its default.
func (c *Config) Changes(next *Config) []Change {
	d := differ{next: next}
	d.block(&grammar, scope{cfg: c}, scope{cfg: next}, Pos{}, "")
	return d.found
}

// LiveClauses returns the clauses that a running daemon can change, in the form of
// Change.Path; the path of a mode's clause contains the mode: "General Filter", "Sync Mode
// FTFW CommitTimeout".
func LiveClauses() []string { return appendLive(nil, &grammar, "") }

func appendLive(dst []string, b *block, path string) []string {
	for i := range b.clauses {
		c := &b.clauses[i]
		switch v := c.value.(type) {
		case *group:
			if !c.live {
				dst = appendLive(dst, v.block, path+c.name+" ")
				continue
			}
		case *mode:
			for m := range v {
				dst = appendLive(dst, &v[m], path+"Mode "+modeNames[m]+" ")
			}
			continue
		}
		if c.live && c.unless == nil { // with unless the clause belongs to another block
			dst = append(dst, path+c.name)
		}
	}
	return dst
}

// differ is the state of one call of Changes.
type differ struct {
	next  *Config
	found []Change
}

// block compares the clauses of a block that both files have. at is its place in the new
// file, path its keywords.
func (d *differ) block(b *block, old, new scope, at Pos, path string) {
	for i := range b.clauses {
		c := &b.clauses[i]
		if c.unless != nil && (c.unless(old) || c.unless(new)) {
			continue
		}
		switch v := c.value.(type) {
		case *group:
			if !c.live {
				d.instances(c, v.all(c, old), v.all(c, new), at, path)
				continue
			}
		case *mode:
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

// instances compares the blocks of one clause pairwise, in the files' order.
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
			v := c.value.(*group)
			d.block(v.block, old[i].scope, new[i].scope, d.place(new[i].at, at), path+c.name+" ")
		}
	}
}

func (d *differ) add(c *clause, old, new string, at Pos, path string) {
	if old != new {
		d.found = append(d.found, Change{File: d.next.File, Pos: at, Path: path + c.name, Old: old, New: new, Live: c.live})
	}
}

// place returns where the new file sets a field, or else the place of the block around it.
func (d *differ) place(field any, around Pos) Pos {
	if at, ok := d.next.pos[field]; ok {
		return at
	}
	return around
}

// text returns a clause as written in a file, in one line, also if it has its default.
func text(c *clause, s scope) string {
	w := printer{all: true}
	c.value.print(&w, c, s)
	return strings.Join(strings.Fields(string(w.dst)), " ")
}
