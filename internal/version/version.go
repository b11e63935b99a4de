// Package version is the one place where ctbox's version number stands. It is
// a constant and not a linker flag, so that every build of one commit, by make
// or by a plain go build, says the same and is the same.
package version

// Number is the version without a leading v, as in "0.1.0".
const Number = "0.1.0"
