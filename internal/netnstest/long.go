//go:build long

package netnstest

// Long is true with the build tag long, in `make test-all` and in CI: every case runs.
// Without it, in `make test`, tests of many cases run a choice of them, and files with
// that tag are left out.
const Long = true
