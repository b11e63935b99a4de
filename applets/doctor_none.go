//go:build no_doctor

package applets

var checkup []Applet
