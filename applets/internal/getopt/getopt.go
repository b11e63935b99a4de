// Package getopt scans command lines by the rules of GNU getopt_long(3) in its
// quiet mode: options and words mixed, bundles of short options, long options
// abbreviated, optional arguments. Scripts depend on these rules down to which
// word an error names, and no flag package of Go has them.
//
// A Set declares the options; a Scanner walks one command line after another
// and allocates nothing while doing so.
package getopt

import "strings"

// Kind says whether an option takes an argument.
type Kind uint8

// The kinds of options. An Optional argument must be attached to its option:
// -xARG or --name=ARG.
const (
	None Kind = iota
	Required
	Optional
)

// Option is one way to write an option. Several with the same Code mean the
// same thing; an abbreviation that fits several long names is understood when
// they agree in Code and Kind.
type Option struct {
	Short byte   // the letter, or 0 for a long option
	Long  string // the name without dashes, or "" for a short option
	Kind  Kind
	Code  int // what Scanner.Next returns; at least 0
	// Added marks a long option that the original program lacks. Abbreviations of it
	// are understood only if they abbreviate none of the others, so that each
	// abbreviation of those keeps its meaning.
	Added bool
}

// Set is a collection of options. It is not changed after New and may be used
// by any number of Scanners.
type Set struct {
	letters [256]uint8 // one more than the index in short, or 0
	short   []Option
	long    []Option
	byName  map[string]int // index in long
}

// New makes a Set. When two options are spelled the same, the first counts.
func New(options []Option) *Set {
	s := &Set{
		short: make([]Option, 0, len(options)), long: make([]Option, 0, len(options)),
		byName: make(map[string]int, len(options)),
	}
	for _, o := range options {
		// A colon or semicolon is syntax in getopt's option string.
		if o.Short != 0 && s.letters[o.Short] == 0 && o.Short != ':' && o.Short != ';' {
			s.short = append(s.short, o)
			s.letters[o.Short] = uint8(len(s.short))
		}
		if o.Long == "" {
			continue
		}
		if _, seen := s.byName[o.Long]; !seen {
			s.byName[o.Long] = len(s.long)
			s.long = append(s.long, o)
		}
	}
	return s
}

// Error is an unknown option, or an option whose argument is missing.
//
// Word is the element before the scan position, which C programs print: the wrong
// element or, for an unknown letter inside a bundle, the element before the bundle.
type Error struct {
	Word    string
	Missing bool // the argument is missing; else the option is unknown
}

func (e *Error) Error() string {
	if e.Missing {
		return "option `" + e.Word + "' requires an argument"
	}
	return "unknown option `" + e.Word + "'"
}

// End is the Code that ends a command line.
const End = -1

// Match is one option found on the command line.
type Match struct {
	Code   int
	Arg    string
	HasArg bool // false if an Optional argument is absent
}

// maxSets bounds the sets in use on one command line.
const maxSets = 12

// Scanner finds the options of one command line after another. The zero value
// is ready for Start; it is for one goroutine.
type Scanner struct {
	args  []string // argv as permuted so far; args[0] is the program
	next  int      // index of the element to look at next
	rest  string   // letters of a bundle not yet looked at
	posix bool

	// args[firstWord:lastWord] are the words skipped so far, which move behind all
	// options.
	firstWord, lastWord int

	sets  [maxSets]*Set
	nsets int
}

// Start begins with argv, whose first element is the program's name. The
// elements are not copied and argv is not changed. With posix (POSIXLY_CORRECT
// in the environment) the first word ends the options.
func (s *Scanner) Start(set *Set, argv []string, posix bool) {
	s.args = append(s.args[:0], argv...)
	s.next = min(1, len(argv))
	s.firstWord, s.lastWord = s.next, s.next
	s.rest = ""
	s.posix = posix
	s.sets[0], s.nsets = set, 1
}

// Add adds the options of set to those known from the scan position on. Of equal names
// the one in the later set counts. It reports whether the set is known now: at most
// maxSets are.
func (s *Scanner) Add(set *Set) bool {
	for _, have := range s.sets[:s.nsets] {
		if have == set {
			return true
		}
	}
	if s.nsets == maxSets {
		return false
	}
	s.sets[s.nsets] = set
	s.nsets++
	return true
}

// Operand returns the element at the scan position, if one is left, for options with
// special rules about the next word; Take steps over it. Inside a bundle the position is
// that of the bundle.
func (s *Scanner) Operand() (string, bool) {
	if s.next >= len(s.args) {
		return "", false
	}
	return s.args[s.next], true
}

// Take steps over the element that Operand returned.
func (s *Scanner) Take() { s.next++ }

// Index returns the position in argv of the last element that was looked at, for messages
// about it. It is right with posix only: otherwise words change places.
func (s *Scanner) Index() int {
	if s.rest != "" {
		return s.next // inside a bundle
	}
	return s.next - 1
}

// Words returns the elements that are neither options nor their arguments, in the
// order of the command line. It is complete once Next has returned End, and valid
// until Start.
func (s *Scanner) Words() []string { return s.args[min(s.next, len(s.args)):] }

// Next returns the next option, or a Match with Code End.
func (s *Scanner) Next() (Match, error) {
	if s.rest == "" {
		if !s.advance() {
			return Match{Code: End}, nil
		}
		word := s.args[s.next]
		if word[1] == '-' {
			return s.longOption(word[2:])
		}
		s.rest = word[1:]
	}
	return s.shortOption()
}

func isWord(arg string) bool { return len(arg) < 2 || arg[0] != '-' }

// advance moves the scan position to the next element with options, and the
// words before it behind what has been scanned. It returns false at the end.
func (s *Scanner) advance() bool {
	s.lastWord = min(s.lastWord, s.next)
	s.firstWord = min(s.firstWord, s.next)
	if !s.posix {
		s.permute()
		for s.next < len(s.args) && isWord(s.args[s.next]) {
			s.next++
		}
		s.lastWord = s.next
	}
	if s.next < len(s.args) && s.args[s.next] == "--" {
		s.next++
		if s.firstWord == s.lastWord {
			s.firstWord = s.next
		} else {
			s.permute()
		}
		s.lastWord = len(s.args)
		s.next = len(s.args)
	}
	if s.next >= len(s.args) {
		if s.firstWord != s.lastWord {
			s.next = s.firstWord
		}
		return false
	}
	return !isWord(s.args[s.next])
}

// permute exchanges the skipped words with the options scanned after them.
func (s *Scanner) permute() {
	if s.lastWord == s.next {
		return
	}
	if s.firstWord == s.lastWord {
		s.firstWord = s.next
		return
	}
	words, options := s.args[s.firstWord:s.lastWord], s.args[s.lastWord:s.next]
	n := len(options)
	both := s.args[s.firstWord:s.next]
	reverse(words)
	reverse(options)
	reverse(both)
	s.firstWord += n
	s.lastWord = s.next
}

func reverse(a []string) {
	for i, j := 0, len(a)-1; i < j; i, j = i+1, j-1 {
		a[i], a[j] = a[j], a[i]
	}
}

func (s *Scanner) shortOption() (Match, error) {
	c := s.rest[0]
	s.rest = s.rest[1:]
	last := s.rest == ""
	if last {
		s.next++
	}
	o, ok := s.letter(c)
	if !ok {
		return Match{}, s.fail(false)
	}
	m := Match{Code: o.Code}
	switch {
	case o.Kind == None:
		return m, nil
	case !last:
		m.Arg, m.HasArg = s.rest, true
		s.rest = ""
		s.next++
	case o.Kind == Required:
		return s.separate(m)
	}
	return m, nil
}

func (s *Scanner) letter(c byte) (Option, bool) {
	for _, set := range s.sets[:s.nsets] {
		if i := set.letters[c]; i != 0 {
			return set.short[i-1], true
		}
	}
	return Option{}, false
}

// separate gives m the next element as its argument.
func (s *Scanner) separate(m Match) (Match, error) {
	if s.next >= len(s.args) {
		return Match{}, s.fail(true)
	}
	m.Arg, m.HasArg = s.args[s.next], true
	s.next++
	return m, nil
}

func (s *Scanner) longOption(word string) (Match, error) {
	s.next++
	name, arg, attached := strings.Cut(word, "=")
	o, ok := s.find(name)
	if !ok || attached && o.Kind == None {
		return Match{}, s.fail(false)
	}
	m := Match{Code: o.Code}
	switch {
	case attached:
		m.Arg, m.HasArg = arg, true
	case o.Kind == Required:
		return s.separate(m)
	}
	return m, nil
}

// find returns the long option that name is, or abbreviates.
func (s *Scanner) find(name string) (Option, bool) {
	// The sets added last come first: they most likely have the next option.
	for n := s.nsets - 1; n >= 0; n-- {
		set := s.sets[n]
		if i, ok := set.byName[name]; ok {
			return set.long[i], true
		}
	}
	found, n := s.abbreviated(name, false)
	if n == 0 {
		found, n = s.abbreviated(name, true)
	}
	return found, n == 1
}

// abbreviated returns the option that name abbreviates, among those that are added or
// among the others, and how many it abbreviates: 0, 1, or 2 for more.
func (s *Scanner) abbreviated(name string, added bool) (found Option, n int) {
	for _, set := range s.sets[:s.nsets] {
		for _, o := range set.long {
			if o.Added != added || !strings.HasPrefix(o.Long, name) {
				continue
			}
			if n == 0 {
				found, n = o, 1
			} else if o.Code != found.Code || o.Kind != found.Kind {
				return Option{}, 2
			}
		}
	}
	return found, n
}

func (s *Scanner) fail(missing bool) error {
	word := ""
	if i := s.next - 1; i >= 0 && i < len(s.args) {
		word = s.args[i]
	}
	return &Error{Word: word, Missing: missing}
}
