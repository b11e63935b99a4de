package process

import (
	"errors"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Strerror is the text of err's error number as strerror(3) has it: with a capital
// letter, where Go has a small one. Without a number in it, it is err's own text.
func Strerror(err error) string {
	var errno unix.Errno
	text := err.Error()
	if errors.As(err, &errno) {
		text = errno.Error()
		first, size := utf8.DecodeRuneInString(text)
		text = string(unicode.ToUpper(first)) + text[size:]
	}
	return text
}
