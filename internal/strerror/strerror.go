// Package strerror words the kernel's errors as the C library's strerror(3) does,
// because scripts and people look for those texts: conntrack-tools prints and logs them.
package strerror

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
)

// Text returns what strerror(3) returns for errno in the C locale: "No such file or
// directory", where Errno.Error begins with a small letter. A number without a text, such
// as the kernel's internal ENOTSUPP, is "Unknown error 524".
func Text(errno syscall.Errno) string {
	// Go's texts are the C library's with the first letter in lower case.
	text := errno.Error()
	if strings.HasPrefix(text, "errno ") {
		return "Unknown error " + strconv.Itoa(int(errno))
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// Of returns the Text of the error number that err wraps, without what it is wrapped in,
// or err's own text if it wraps none.
func Of(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return Text(errno)
	}
	return err.Error()
}
