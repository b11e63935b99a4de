//go:build !no_conntrackd && !no_export && !no_json

package applets

import "ctbox/applets/flows"

var records = []Applet{{Name: "flows", Command: flows.Command}}
