package conntrack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
)

// checkedPart is the least of a load file that is worth a processor of its own.
const checkedPart = 512 << 10

// Check parses every line, as Each does, and returns the number of commands. A
// long file is parsed by all processors at once: nothing is carried out before
// all of it has been found right, so that is time that the user waits. The error
// is the one that Each would find first; warnings come in the file's order.
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

// parts cuts the file into at most n parts of whole lines.
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
	// The last one ends where the file does then, whatever its size was said to be.
	return append(parts, io.NewSectionReader(l.source, from, math.MaxInt64-from)), nil
}

// size is the offset of the end.
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

// lineEnd returns the offset behind the first newline at or after an offset; a
// line is never longer than what it looks at.
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
