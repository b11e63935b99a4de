// Package version is the one place where ctbox's version number stands. It is
// a constant and not a linker flag, so that every build of one commit, by make
// or by a plain go build, says the same and is the same.
package version

// Number is the version without a leading v, as in "0.1.0".
const Number = "0.1.0"

// ConntrackTools is the release of conntrack-tools whose command lines, texts and
// formats ctbox speaks. Messages and -V of conntrack, conntrackd and nfct begin
// with it, since that is the text that scripts and programs look for; a version of
// ctbox in that place would be read as an ancient release.
const ConntrackTools = "1.4.9"
