// Package version has ctbox's version number. It is a constant and not a linker flag, so that
// every build of a commit, by make or by go build, is identical.
package version

// Number is the version without a leading v, as in "0.1.0".
const Number = "0.1.0"

// ConntrackTools is the release of conntrack-tools whose command lines, texts and formats
// ctbox implements. Messages and -V of conntrack, conntrackd and nfct begin with it, because
// scripts parse it there; they would take ctbox's own version for a very old release.
const ConntrackTools = "1.4.9"
