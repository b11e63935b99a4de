//go:build no_nfct

package applets

var policies []Applet
