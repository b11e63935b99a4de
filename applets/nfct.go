//go:build !no_nfct

package applets

import "ctbox/applets/nfct"

var policies = []Applet{{Name: "nfct", Run: nfct.Run, Help: "help",
	Summary: "manage timeout policies and user-space helpers"}}
