//go:build no_conntrackd

package applets

var daemon []Applet
