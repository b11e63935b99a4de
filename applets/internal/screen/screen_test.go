package screen

import "testing"

func TestKeys(t *testing.T) {
	for typed, want := range map[string][]byte{
		"q": {'q'}, "\r": {KeyEnter}, "\n": {KeyEnter}, "\x7f": {KeyBack}, "\b": {KeyBack}, "\x1b": {KeyBack},
		"\x1b[A": {KeyUp}, "\x1bOB": {KeyDown}, "\x1b[1;5A": {KeyUp}, "\x1b[A\x1b[Bx": {KeyUp, KeyDown, 'x'},
		"\x1b[C": {Redraw}, "\x1b[3~": {Redraw}, "\x1b[": {Redraw}, "\x1b[12": {Redraw}, "\x1b\x1b": {KeyBack, KeyBack}, " ": {Redraw},
		"\x01": {Redraw}, "\xc3\xa4": {Redraw, Redraw}, "\x1bx": {KeyBack, 'x'},
	} {
		var got []byte
		for rest := []byte(typed); len(rest) > 0; {
			event, size := key(rest)
			got = append(got, event)
			rest = rest[size:]
		}
		if string(got) != string(want) {
			t.Errorf("%q: %v, want %v", typed, got, want)
		}
	}
}

// FuzzKeys reads whatever a terminal could send: every byte belongs to one key.
func FuzzKeys(f *testing.F) {
	f.Add([]byte("q\x1b[A\x1bOB\x1b[1;5A\x1b"))
	f.Fuzz(func(t *testing.T, typed []byte) {
		for len(typed) > 0 {
			event, size := key(typed)
			if size < 1 || size > len(typed) || event > '~' || event > KeyBack && event <= ' ' {
				t.Fatalf("%q: event %d, %d bytes", typed, event, size)
			}
			typed = typed[size:]
		}
	})
}
