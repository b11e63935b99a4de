//go:build !no_conntrackd

package applets

import "ctbox/applets/conntrackd"

var daemon = []Applet{{Name: "conntrackd", Run: conntrackd.Run, Help: "-h", Daemon: true,
	Summary: "replicate flows to other firewalls; user-space helpers; statistics"}}
