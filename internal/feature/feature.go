// Package feature has a constant for each part that can be left out of the build, with
// `make minimal` or the build tags no_json, no_metrics, no_export, no_match, no_top,
// no_allnetns, no_cluster and no_helpers; docs/size.md has their sizes. With a false constant in a condition,
// compiler and linker drop everything that only that branch needs.
//
// The tags no_conntrackd, no_nfct and no_doctor leave out applets; see package applets.
package feature
