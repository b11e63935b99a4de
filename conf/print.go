package conf

// AppendConfig appends a file that Parse reads as the same Config: a clause per line, in a
// fixed order, with current keywords, without defaults. A Config that does not come from
// Parse must satisfy the comments of its fields.
func AppendConfig(dst []byte, c *Config) []byte { return appendFile(dst, c, false) }

// AppendEffective is AppendConfig with defaults, which shows the settings in force.
func AppendEffective(dst []byte, c *Config) []byte { return appendFile(dst, c, true) }

func appendFile(dst []byte, c *Config, all bool) []byte {
	w := printer{dst: dst, all: all}
	w.clauses(&grammar, scope{cfg: c})
	return w.dst
}

// printer writes clauses with the indentation of their depth.
type printer struct {
	dst   []byte
	depth int
	all   bool // print defaults, too
}

func (w *printer) clauses(b *block, s scope) {
	for i := range b.clauses {
		c := &b.clauses[i]
		if c.unless == nil || !c.unless(s) {
			c.value.print(w, c, s)
		}
	}
}

// line writes words on a line of their own.
func (w *printer) line(words ...string) {
	for range w.depth {
		w.dst = append(w.dst, '\t')
	}
	for i, word := range words {
		if i > 0 {
			w.dst = append(w.dst, ' ')
		}
		w.dst = append(w.dst, word...)
	}
	w.dst = append(w.dst, '\n')
}

// block writes a block with the lines that body writes. Without lines it writes nothing
// unless always is set.
func (w *printer) block(head string, always bool, body func()) {
	before := len(w.dst)
	w.line(head, "{")
	empty := len(w.dst)
	w.depth++
	body()
	w.depth--
	if len(w.dst) == empty && !always {
		w.dst = w.dst[:before]
		return
	}
	w.line("}")
}
