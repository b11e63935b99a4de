// Package screen paints a terminal's whole screen repeatedly, with single letters as
// commands, like top(1). It uses the few sequences of ECMA-48 and xterm that every
// terminal emulator and the kernel's console know, and reads no terminal database.
package screen

import (
	"os"
	"os/signal"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Screen is a terminal that Open has taken. Paint is for one goroutine; Close
// may come from any.
type Screen struct {
	in, out *os.File // in is nil where it is no terminal
	saved   *term.State
	events  chan byte
	signals chan os.Signal

	mu    sync.Mutex // of what is written, and taken
	taken bool
	buf   []byte
}

// Events other than letters. Redraw comes when the terminal has a new size, or is taken
// again after a stop; the others are keys.
const (
	Redraw byte = iota
	KeyUp
	KeyDown
	KeyEnter
	KeyBack // backspace, or escape
)

const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[2J" // the other screen, without cursor
	leave = "\x1b[?25h\x1b[?1049l"
)

// IsTerminal reports whether f is a terminal that can be painted.
func IsTerminal(f *os.File) bool {
	if kind := os.Getenv("TERM"); kind == "" || kind == "dumb" {
		return false
	}
	return term.IsTerminal(int(f.Fd()))
}

// Open takes the terminal until Close: letters typed arrive at once and are not echoed,
// and the alternate screen is shown. If in is nil or no terminal, no letters arrive.
//
// The terminal is given back before a signal stops or ends the process. The caller
// handles SIGINT and SIGTERM and must call Close.
func Open(in, out *os.File) (*Screen, error) {
	s := &Screen{in: in, out: out, events: make(chan byte, 16), signals: make(chan os.Signal, 16)}
	if in == nil || !term.IsTerminal(int(in.Fd())) {
		s.in = nil
	}
	signal.Notify(s.signals, unix.SIGWINCH, unix.SIGTSTP, unix.SIGCONT, unix.SIGHUP, unix.SIGQUIT)
	if err := s.take(); err != nil {
		signal.Stop(s.signals)
		return nil, err
	}
	go s.watch()
	if s.in != nil {
		go s.read()
	}
	return s, nil
}

// Events are the letters typed, Redraw and the keys that have names.
func (s *Screen) Events() <-chan byte { return s.events }

// Size returns columns and lines; 80 and 24 if the terminal's size is unknown.
func (s *Screen) Size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width == 0 || height == 0 {
		return 80, 24
	}
	return width, height
}

// Paint shows lines, from the top. They must fit into Size and have no control
// characters other than Bold and Plain.
func (s *Screen) Paint(lines [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.taken {
		return nil
	}
	b := append(s.buf[:0], "\x1b[H"...)
	for i, line := range lines {
		if i > 0 {
			b = append(b, "\r\n"...)
		}
		b = append(append(b, line...), "\x1b[K"...)
	}
	b = append(b, "\x1b[J"...)
	s.buf = b
	_, err := s.out.Write(b)
	return err
}

// Bold and Plain begin and end text in reverse video.
const (
	Bold  = "\x1b[7m"
	Plain = "\x1b[0m"
)

// Close gives the terminal back. It may be called twice.
func (s *Screen) Close() {
	signal.Stop(s.signals)
	s.giveBack()
}

func (s *Screen) take() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in != nil {
		saved, err := term.MakeRaw(int(s.in.Fd()))
		if err != nil {
			return err
		}
		s.saved = saved
	}
	s.taken = true
	_, err := s.out.WriteString(enter)
	return err
}

func (s *Screen) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.taken {
		return
	}
	s.taken = false
	_, _ = s.out.WriteString(leave)
	if s.in != nil {
		_ = term.Restore(int(s.in.Fd()), s.saved)
	}
}

// watch handles signals.
func (s *Screen) watch() {
	for sig := range s.signals {
		switch sig {
		case unix.SIGTSTP:
			s.giveBack()
			_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		case unix.SIGCONT:
			if s.isGivenBack() && s.take() != nil {
				return
			}
			s.send(Redraw)
		case unix.SIGWINCH:
			s.send(Redraw)
		default:
			s.giveBack()
			signal.Reset(sig)
			_ = unix.Kill(os.Getpid(), sig.(unix.Signal))
		}
	}
}

func (s *Screen) isGivenBack() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.taken
}

// send drops the event if the channel is full: the next event causes the same redraw.
func (s *Screen) send(event byte) {
	select {
	case s.events <- event:
	default:
	}
}

// keySignals are the keys for which a terminal sends signals to its foreground process
// group. In raw mode they arrive as bytes.
var keySignals = [' ']unix.Signal{'C' & 0x1f: unix.SIGINT, 'Z' & 0x1f: unix.SIGTSTP, '\\' & 0x1f: unix.SIGQUIT}

// read passes on what is typed until the process or the terminal ends.
func (s *Screen) read() {
	var b [64]byte
	for {
		n, err := s.in.Read(b[:])
		if n == 0 || err != nil {
			return
		}
		for typed := b[:n]; len(typed) > 0; {
			event, size := key(typed)
			if c := typed[0]; size == 1 && c < ' ' && keySignals[c] != 0 {
				_ = unix.Kill(0, keySignals[c])
			} else if event != Redraw {
				s.send(event)
			}
			typed = typed[size:]
		}
	}
}

// key returns the event of the first key of what was typed, Redraw for a key without one,
// and how many bytes the key has sent. A terminal sends the bytes of one key at once:
// for an arrow ESC [ A or ESC O A, and for other such keys ESC [ parameters and a letter
// (ECMA-48).
func key(typed []byte) (event byte, size int) {
	switch c := typed[0]; {
	case c == '\r' || c == '\n':
		return KeyEnter, 1
	case c == '\b' || c == 0x7f:
		return KeyBack, 1
	case c == 0x1b && (len(typed) == 1 || typed[1] != '[' && typed[1] != 'O'):
		return KeyBack, 1
	case c == 0x1b:
		for size = 2; size < len(typed) && typed[size] >= '0' && typed[size] <= '?'; size++ {
		}
		if size < len(typed) {
			size++
			switch typed[size-1] {
			case 'A':
				event = KeyUp
			case 'B':
				event = KeyDown
			}
		}
		return event, size
	case c > ' ' && c < 0x7f:
		return c, 1
	}
	return Redraw, 1
}

// AppendRight appends text, right-aligned so that it ends at column end.
//
//go:noinline
func AppendRight(dst, text []byte, end int) []byte {
	dst = append(dst, ' ')
	for len(dst)+len(text) < end {
		dst = append(dst, ' ')
	}
	return append(dst, text...)
}

// AppendNumber appends a count exactly, and a rate shortened: 0.5, 12, 3400, 34.0k, 1.2M.
func AppendNumber(dst []byte, n float64, exact bool) []byte {
	unit := 0
	for ; !exact && unit < 4 && (n >= 10000 || unit > 0 && n >= 1000); unit++ {
		n /= 1000
	}
	decimals := 0
	if !exact && (unit > 0 || n < 10 && n > 0) {
		decimals = 1
	}
	dst = strconv.AppendFloat(dst, n, 'f', decimals, 64)
	if unit > 0 {
		dst = append(dst, " kMGT"[unit])
	}
	return dst
}
