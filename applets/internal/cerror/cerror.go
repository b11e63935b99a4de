// Package cerror words the kernel's errors as the C library does, because
// scripts look for those words in what the C programs print.
package cerror

import (
	"strconv"
	"strings"
	"syscall"
)

// Text is strerror(3) in the C locale: "No such file or directory" where
// Errno.Error has it without the capital. A number that has no text, one of the
// kernel's own such as ENOTSUPP, is "Unknown error 524".
func Text(errno syscall.Errno) string {
	// Go's texts are the C library's with the first letter in lower case.
	text := errno.Error()
	if strings.HasPrefix(text, "errno ") {
		return "Unknown error " + strconv.Itoa(int(errno))
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
