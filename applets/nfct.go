//go:build !no_nfct

package applets

import "ctbox/applets/nfct"

var policies = []Applet{{Name: "nfct", Run: nfct.Run}}
