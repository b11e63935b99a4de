// Package protofile reads protocols(5), the system's list of protocols by name
// and number.
package protofile

import (
	"math"
	"strings"

	"ctbox/internal/cnum"
)

// File is where the system keeps the list. Small systems have none.
const File = "/etc/protocols"

// Parse reads lines of a name, a number and aliases, with # beginning a comment,
// into the numbers by name and alias. As for getprotobyname(3) case counts, and
// so does the first line with a name. A number of more than 8 bits is no
// protocol of an IP header (mptcp's 262 is one of the socket interface) and its
// line is left out.
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
