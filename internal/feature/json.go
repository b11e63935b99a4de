//go:build !no_json

package feature

// JSON reports whether flows, statistics and policies can be written and read as JSON.
const JSON = true
