// Package builtin lists the helpers that ctbox has. A new one is a folder with a
// helper.Helper, and its line in all.go.
package builtin

import (
	"slices"

	"ctbox/helpers/helper"
)

// All returns the helpers in the order of their names.
func All() []*helper.Helper { return slices.Clone(all) }

// Find returns the helper of that name for that layer-4 protocol, or nil.
func Find(name string, protocol uint8) *helper.Helper {
	for _, h := range all {
		if h.Name == name && slices.Contains(h.Protocols, protocol) {
			return h
		}
	}
	return nil
}
