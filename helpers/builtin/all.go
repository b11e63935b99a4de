//go:build !no_helpers

package builtin

import (
	"ctbox/helpers/amanda"
	"ctbox/helpers/dhcpv6"
	"ctbox/helpers/ftp"
	"ctbox/helpers/helper"
	"ctbox/helpers/mdns"
	"ctbox/helpers/rpc"
	"ctbox/helpers/rtsp"
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
	rtsp.Helper,
	sane.Helper,
	slp.Helper,
	ssdp.Helper,
	tftp.Helper,
	tns.Helper,
}
