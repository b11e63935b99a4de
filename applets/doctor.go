//go:build !no_doctor

package applets

import "ctbox/applets/doctor"

var checkup = []Applet{{Name: "doctor", Command: doctor.Command}}
