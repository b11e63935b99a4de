//go:build no_conntrackd || no_export || no_json

package applets

var records []Applet
