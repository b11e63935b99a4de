package netnstest

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Sent runs a program in the namespace under strace(1) and returns, beside its
// result, the netlink messages that it sent, in the order of their sequence
// numbers. What strace itself prints stays out of the result.
func (ns *NS) Sent(name string, args ...string) (Result, [][]byte) {
	ns.t.Helper()
	dir := ns.t.TempDir()
	// A file a thread: in a common one their calls would be interleaved.
	r := ns.Run("", "strace", append([]string{"-ff", "-o", filepath.Join(dir, "trace"), "-yy",
		"-e", "trace=sendto,sendmsg,write", "-e", "write=all", name}, args...)...)
	files, err := os.ReadDir(dir)
	if err != nil {
		ns.t.Fatalf("netnstest: %v", err)
	}
	var sent [][]byte
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			ns.t.Fatalf("netnstest: %v", err)
		}
		sent = append(sent, netlinkMessages(string(text))...)
	}
	const seqOffset = 8 // of nlmsg_seq in struct nlmsghdr
	slices.SortStableFunc(sent, func(a, b []byte) int {
		return int(int32(binary.NativeEndian.Uint32(a[seqOffset:]) - binary.NativeEndian.Uint32(b[seqOffset:])))
	})
	return r, sent
}

// traceDump is a line of strace's dump of what a call sent: an offset, a column
// of up to 16 bytes, the same as text.
var traceDump = regexp.MustCompile(`^ \| [0-9a-f]{5}  ([0-9a-f ]{49})`)

// netlinkMessages picks from one thread's trace the messages sent on netlink
// sockets.
func netlinkMessages(trace string) [][]byte {
	var all []byte
	netlink := false
	for line := range strings.Lines(trace) {
		m := traceDump.FindStringSubmatch(line)
		if m == nil {
			netlink = strings.Contains(line, "<NETLINK:")
			continue
		}
		if netlink {
			b, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
			if err != nil {
				return nil // the pattern lets only digits in pairs through
			}
			all = append(all, b...)
		}
	}
	var sent [][]byte
	const headerLen = 16 // struct nlmsghdr
	for len(all) >= headerLen {
		n := int(binary.NativeEndian.Uint32(all))
		if n < headerLen || n > len(all) {
			break
		}
		sent = append(sent, all[:n])
		all = all[min((n+3)&^3, len(all)):]
	}
	return sent
}
