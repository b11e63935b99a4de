package conf

import "strconv"

// token is a word or a brace, or the end of the file.
type token struct {
	kind tokenKind
	text string // the bytes of the file
	pos  Pos
}

type tokenKind uint8

const (
	tokenWord tokenKind = iota
	tokenOpen
	tokenClose
	tokenQuote // a double quote, which nothing in the grammar has
	tokenEOF
)

// String returns the token as an error message names it.
func (t token) String() string {
	if t.kind == tokenEOF {
		return "end of file"
	}
	return strconv.Quote(abbreviated(t.text))
}

// abbreviated returns a word of the file as a message names it: a word may be as long as the file.
func abbreviated(word string) string {
	const most = 60
	if len(word) > most {
		return word[:most] + "..."
	}
	return word
}

// lexer cuts the file into tokens. Words are separated by blanks; braces, a number sign and
// a double quote also end a word. A path (a word that starts with a slash) can contain
// number signs and braces, except for closing braces at its end.
type lexer struct {
	src       []byte // the rest of the file
	line, col int    // of src[0]
}

// advance skips n bytes, none of them a newline.
func (l *lexer) advance(n int) {
	l.src = l.src[n:]
	l.col += n
}

// next returns the next token, at the end of the file always tokenEOF.
func (l *lexer) next() token {
	l.skip()
	t := token{kind: tokenWord, pos: Pos{l.line, l.col}}
	if len(l.src) == 0 {
		t.kind = tokenEOF
		return t
	}
	n := 1
	switch l.src[0] {
	case '{':
		t.kind = tokenOpen
	case '}':
		t.kind = tokenClose
	case '"':
		t.kind = tokenQuote
	case '/':
		n = pathLen(l.src)
	default:
		n = wordLen(l.src)
	}
	t.text = string(l.src[:n])
	l.advance(n)
	return t
}

// skip skips blanks, line ends and comments.
func (l *lexer) skip() {
	for len(l.src) > 0 {
		switch c := l.src[0]; {
		case c == '\n':
			l.src = l.src[1:]
			l.line, l.col = l.line+1, 1
		case isBlank(c):
			l.advance(1)
		case c == '#':
			n := 1
			for n < len(l.src) && l.src[n] != '\n' {
				n++
			}
			l.advance(n)
		default:
			return
		}
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func wordLen(src []byte) int {
	for n, c := range src {
		if isBlank(c) || c == '{' || c == '}' || c == '#' || c == '"' {
			return n
		}
	}
	return len(src)
}

func pathLen(src []byte) int {
	n := len(src)
	for i, c := range src {
		if isBlank(c) || c == '"' {
			n = i
			break
		}
	}
	for src[n-1] == '}' {
		n--
	}
	return n
}
