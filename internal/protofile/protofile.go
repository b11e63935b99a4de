// Package protofile parses protocols(5) and services(5), the system's lists of protocols and
// ports by name.
package protofile

import (
	"math"
	"strings"

	"ctbox/internal/cnum"
)

// File is the path of protocols(5). Small systems do not have it.
const File = "/etc/protocols"

// Parse parses lines of a name, a number and aliases, with comments after #, and returns the
// numbers by name and alias. As for getprotobyname(3), names are case-sensitive and the first
// line with a name counts. Lines with a number of more than 8 bits are ignored: it is not a
// protocol of an IP header (mptcp's 262 is for sockets only).
func Parse(text string) map[string]uint8 {
	names := make(map[string]uint8)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, rest, ok := cnum.Int(fields[1])
		if !ok || rest != "" || number < 0 || number > math.MaxUint8 {
			continue
		}
		fields[1] = fields[0]
		for _, name := range fields[1:] {
			if _, taken := names[name]; !taken {
				names[name] = uint8(number)
			}
		}
	}
	return names
}
