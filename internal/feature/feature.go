// Package feature says what was built in. `make minimal` and the build tags
// no_json, no_metrics and no_helpers leave things out; docs/size.md has what each
// of them costs. A false constant in a condition is enough for the compiler and
// the linker to drop everything that only that branch needs.
//
// no_conntrackd, no_nfct and no_doctor leave out applets, where their table is: in
// package applets.
package feature
