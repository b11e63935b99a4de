//go:build !no_conntrackd

package applets

import "ctbox/applets/conntrackd"

var daemon = []Applet{{Name: "conntrackd", Run: conntrackd.Run, Daemon: true}}
