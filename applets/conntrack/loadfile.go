package conntrack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of a load file. The words' are conntrack-tools'.
const (
	maxLoadLine = 64 << 10 // bytes, the newline included
	maxLoadWord = 1023
	maxWords    = 253
)

// spoolInMemory is how much of a pipe is kept in memory; more goes to a file.
const spoolInMemory = 1 << 20

// LoadFile is a file of commands, one per line, that can be read more than once: to
// check every line before the first is carried out, and to carry them out. A regular
// file is read in place, anything else is spooled. Memory does not grow with the file.
type LoadFile struct {
	name   string
	source io.ReaderAt
	start  int64
	files  []*os.File // to be closed
}

// OpenLoadFile opens the file called name; "-" is stdin. The error is a
// *UsageError when the file cannot be opened.
func OpenLoadFile(name string, stdin io.Reader) (*LoadFile, error) {
	l := &LoadFile{name: name}
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, errUsage("Failed to open file " + name + " for reading")
		}
		l.files = append(l.files, f)
		from = f
	}
	if err := l.makeSeekable(from); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// hold makes the input readable at any offset, as often as needed.
func (l *LoadFile) makeSeekable(from io.Reader) error {
	if f, ok := from.(*os.File); ok {
		info, err := f.Stat()
		if err != nil {
			return l.readError(err)
		}
		if info.IsDir() {
			return errUsage("Failed to open file " + l.name + " for reading")
		}
		if info.Mode().IsRegular() {
			if l.start, err = f.Seek(0, io.SeekCurrent); err != nil {
				return l.readError(err)
			}
			l.source = f
			return nil
		}
	}
	head, err := io.ReadAll(io.LimitReader(from, spoolInMemory))
	if err != nil {
		return l.readError(err)
	}
	l.source = bytes.NewReader(head)
	if len(head) < spoolInMemory {
		return nil
	}
	spool, err := newSpool()
	if err != nil {
		return l.readError(err)
	}
	l.files = append(l.files, spool)
	l.source = spool
	if _, err := spool.Write(head); err != nil {
		return l.readError(err)
	}
	if _, err := io.Copy(spool, from); err != nil {
		return l.readError(err)
	}
	return nil
}

func (l *LoadFile) readError(err error) error { return fmt.Errorf("read %s: %w", l.name, err) }

// newSpool creates a file without a name, in memory where no directory is writable.
func newSpool() (*os.File, error) {
	f, err := os.CreateTemp("", "conntrack-load-")
	if err == nil {
		return f, os.Remove(f.Name())
	}
	fd, err := unix.MemfdCreate("conntrack-load", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "conntrack-load"), nil
}

// Close closes what OpenLoadFile opened.
func (l *LoadFile) Close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	l.files = nil
	return errors.Join(errs...)
}

// ReadJSON turns a line that begins with { into a command. The line is valid
// during the call only.
type ReadJSON func(line []byte, cmd *Command) error

// Each parses every line from the first and calls do with its number, counted
// from 1, and its command, which is valid until do returns. Blank lines and
// lines that begin with # are skipped. It ends with the first error: a
// *UsageError that names file and line when a line is wrong or its command not
// allowed in a load file, or what do returned. readJSON must not be nil.
//
// The parser's warnings come with every reading: discard those of the second.
func (l *LoadFile) Each(p *Parser, program string, readJSON ReadJSON, do func(line int, cmd *Command) error) error {
	_, err := l.eachOf(io.NewSectionReader(l.source, l.start, math.MaxInt64-l.start), p, program, readJSON, do)
	return err
}

// eachOf is Each for a part of the file, whose lines it counts from 1 and whose
// number of newlines it returns.
func (l *LoadFile) eachOf(part io.Reader, p *Parser, program string, readJSON ReadJSON, do func(line int, cmd *Command) error) (int, error) {
	in := bufio.NewReaderSize(part, maxLoadLine)
	var cmd Command
	var words wordSplitter
	for line := 1; ; line++ {
		text, err := in.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			return line, l.at(line, errUsage("Line too long"))
		}
		if err != nil && err != io.EOF {
			return line, l.readError(err)
		}
		last := err == io.EOF
		if text = bytes.TrimLeft(bytes.TrimSuffix(text, []byte("\n")), " \t"); len(text) > 0 && text[0] != '#' {
			if text[0] == '{' {
				err = readJSON(text, &cmd)
			} else {
				err = p.parseLine(&words, program, text, &cmd)
			}
			if err != nil {
				return line, l.at(line, err)
			}
			if err := do(line, &cmd); err != nil {
				return line, err
			}
		}
		if last {
			return line - 1, nil
		}
	}
}

// at names the line that err is about.
func (l *LoadFile) at(line int, err error) error {
	var bad *UsageError
	if !errors.As(err, &bad) {
		bad = errUsage(err.Error())
	}
	bad.File, bad.Line = l.name, line
	return bad
}

// parseLine parses one line, whose words it takes for the arguments of program.
func (p *Parser) parseLine(words *wordSplitter, program string, text []byte, cmd *Command) error {
	argv, err := words.split(program, text)
	if err != nil {
		return err
	}
	if len(argv) > 1 && argv[1] == "conntrack" {
		argv = argv[1:] // a line may be a whole command line
	}
	cmd.Reset()
	p.loading = true
	if err := p.parse(argv, cmd); err != nil {
		return err
	}
	if !loadable(cmd) {
		return errUsage("Cannot use command `" + commandName(cmd) + "' with --load-file")
	}
	// Words behind a # are a comment; options in it count, as for conntrack-tools.
	if rest := p.scan.Words(); len(rest) > 0 && rest[0][:min(1, len(rest[0]))] != "#" {
		return surplus(rest[0])
	}
	return nil
}

// loadable reports whether a load file may contain the command.
func loadable(c *Command) bool {
	switch c.Op {
	case OpCreate, OpAdd, OpUpdate, OpDelete, OpFlush:
		return c.Table == TableConntrack
	}
	return false
}

// commandName returns the name of a command in messages about load files.
func commandName(c *Command) string {
	for _, d := range commands {
		if d.op != c.Op {
			continue
		}
		name := "-" + string(rune(d.short))
		if d.short == 0 {
			name = "--" + d.long[0]
		}
		if c.Table == TableExpect {
			name += " expect"
		}
		return name
	}
	return "unknown"
}

// wordSplitter splits lines into words. It reuses its memory: the words of a line are
// valid until the next.
type wordSplitter struct {
	words    []string
	unquoted []byte // the text of words that had quotes
}

// split returns program and the words of line, which must not change while
// they are used. Blanks separate words. A double quote begins a quoted piece,
// in which a backslash takes the next byte as it is; the closing quote ends the
// word.
func (w *wordSplitter) split(program string, line []byte) ([]string, error) {
	w.words = append(w.words[:0], program)
	w.unquoted = w.unquoted[:0]
	for i := 0; i < len(line); {
		if isBlank(line[i]) {
			i++
			continue
		}
		start := i
		for i < len(line) && (line[i] > '"' || !isBlank(line[i]) && line[i] != '"') {
			i++
		}
		word := line[start:i]
		if i < len(line) && line[i] == '"' {
			from := len(w.unquoted)
			w.unquoted = append(w.unquoted, word...)
			i = w.quoted(line, i+1)
			word = w.unquoted[from:]
		}
		if len(word) > maxLoadWord {
			return nil, errUsage("Parameter too long!")
		}
		if len(w.words) > maxWords {
			return nil, errUsage("too many arguments")
		}
		w.words = append(w.words, unsafe.String(unsafe.SliceData(word), len(word)))
	}
	return w.words, nil
}

// quoted appends a quoted piece that begins at line[i] to w.unquoted and
// returns the place behind its closing quote. Without one it runs to the end.
func (w *wordSplitter) quoted(line []byte, i int) int {
	for ; i < len(line); i++ {
		switch {
		case line[i] == '"':
			return i + 1
		case line[i] == '\\' && i+1 < len(line):
			i++
		}
		w.unquoted = append(w.unquoted, line[i])
	}
	return i
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// checkedPart is the smallest part of a load file that is worth a separate goroutine.
const checkedPart = 512 << 10

// Check parses every line, as Each does, and returns the number of commands. A long file
// is parsed by all processors at once, since the user waits for the check before the
// first line is carried out. The error is the one that Each would find first; warnings
// come in the file's order.
func (l *LoadFile) Check(ctx context.Context, p *Parser, program string, newJSON func() ReadJSON) (int, error) {
	type part struct {
		section  *io.SectionReader
		warnings bytes.Buffer
		lines    int
		commands int
		err      error
	}
	sections, err := l.parts(runtime.GOMAXPROCS(0))
	if err != nil {
		return 0, err
	}
	parts := make([]part, len(sections))
	check := func(t *part, p *Parser) {
		t.lines, t.err = l.eachOf(t.section, p, program, newJSON(), func(int, *Command) error {
			t.commands++
			return ctx.Err()
		})
	}
	var others sync.WaitGroup
	for i := range parts {
		t := &parts[i]
		t.section = sections[i]
		if i > 0 {
			q := NewParser(&t.warnings, p.Posix)
			q.ProtocolsFile, q.ServicesFile, q.LabelFile = p.ProtocolsFile, p.ServicesFile, p.LabelFile
			others.Go(func() { check(t, q) })
		}
	}
	check(&parts[0], p)
	others.Wait()

	commands, lines := 0, 0
	for i := range parts {
		t := &parts[i]
		_, _ = t.warnings.WriteTo(p.Warnings)
		if t.err != nil {
			var bad *UsageError
			if errors.As(t.err, &bad) {
				bad.Line += lines
			}
			return 0, t.err
		}
		commands += t.commands
		lines += t.lines
	}
	return commands, nil
}

// parts divides the file into at most n parts of whole lines.
func (l *LoadFile) parts(n int) ([]*io.SectionReader, error) {
	size, err := l.size()
	if err != nil {
		return nil, err
	}
	n = int(max(1, min(int64(n), (size-l.start)/checkedPart)))
	var parts []*io.SectionReader
	from := l.start
	for i := 1; i < n; i++ {
		to, err := l.lineEnd(l.start + (size-l.start)/int64(n)*int64(i))
		if err != nil {
			return nil, err
		}
		if to <= from || to >= size {
			continue
		}
		parts = append(parts, io.NewSectionReader(l.source, from, to-from))
		from = to
	}
	// The last part ends where the file ends when it is read, which may have grown.
	return append(parts, io.NewSectionReader(l.source, from, math.MaxInt64-from)), nil
}

// size returns the offset of the end.
func (l *LoadFile) size() (int64, error) {
	switch f := l.source.(type) {
	case *bytes.Reader:
		return f.Size(), nil
	case *os.File:
		info, err := f.Stat()
		if err != nil {
			return 0, l.readError(err)
		}
		return info.Size(), nil
	}
	return 0, l.readError(errors.New("of unknown size"))
}

// lineEnd returns the offset behind the first newline at or after an offset. It reads
// maxLoadLine bytes, the length of the longest line.
func (l *LoadFile) lineEnd(at int64) (int64, error) {
	buf := make([]byte, maxLoadLine)
	n, err := l.source.ReadAt(buf, at)
	if err != nil && err != io.EOF {
		return 0, l.readError(err)
	}
	if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
		return at + int64(i) + 1, nil
	}
	return at + int64(n), nil
}
