// Package builtin lists the helpers that ctbox has. A new one is a folder with a
// helper.Helper, and its line here.
package builtin

import (
	"slices"

	"ctbox/helpers/amanda"
	"ctbox/helpers/dhcpv6"
	"ctbox/helpers/ftp"
	"ctbox/helpers/helper"
	"ctbox/helpers/mdns"
	"ctbox/helpers/rpc"
	"ctbox/helpers/sane"
	"ctbox/helpers/slp"
	"ctbox/helpers/ssdp"
	"ctbox/helpers/tftp"
	"ctbox/helpers/tns"
)

// all are the helpers in the order of their names.
var all = []*helper.Helper{
	amanda.Helper,
	dhcpv6.Helper,
	ftp.Helper,
	mdns.Helper,
	rpc.Helper,
	sane.Helper,
	slp.Helper,
	ssdp.Helper,
	tftp.Helper,
	tns.Helper,
}

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
