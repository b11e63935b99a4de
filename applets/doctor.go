//go:build !no_doctor

package applets

import "ctbox/applets/doctor"

var checkup = []Applet{{Name: "doctor", Run: doctor.Run, NoLink: true}}
