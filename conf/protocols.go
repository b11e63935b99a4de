package conf

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// wellKnownProtocols are the IANA names and numbers that every protocols(5) has,
// so that a host without that file reads the same configuration. The kernel
// tracks the ports and states of the first eight.
var wellKnownProtocols = []struct {
	name, alias string
	number      uint8
}{
	{"tcp", "TCP", 6}, {"udp", "UDP", 17}, {"icmp", "ICMP", 1}, {"ipv6-icmp", "IPv6-ICMP", 58},
	{"sctp", "SCTP", 132}, {"dccp", "DCCP", 33}, {"udplite", "UDPLite", 136}, {"gre", "GRE", 47},
	{"ip", "IP", 0}, {"igmp", "IGMP", 2}, {"ipencap", "IP-ENCAP", 4}, {"egp", "EGP", 8}, {"igp", "IGP", 9},
	{"rdp", "RDP", 27}, {"ipv6", "IPv6", 41}, {"rsvp", "RSVP", 46}, {"esp", "IPSEC-ESP", 50}, {"ah", "IPSEC-AH", 51},
	{"eigrp", "EIGRP", 88}, {"ospf", "OSPFIGP", 89}, {"ipip", "IPIP", 94}, {"etherip", "ETHERIP", 97},
	{"encap", "ENCAP", 98}, {"pim", "PIM", 103}, {"ipcomp", "IPCOMP", 108}, {"vrrp", "VRRP", 112},
	{"l2tp", "L2TP", 115}, {"isis", "ISIS", 124}, {"hip", "HIP", 139},
}

// protocolName returns the word that is printed for a protocol: TCP and UDP have
// keywords of their own in capitals, and the others go along; or the number.
func protocolName(number uint8) string {
	for _, w := range wellKnownProtocols {
		if w.number == number {
			return w.alias
		}
	}
	return strconv.Itoa(int(number))
}

// protocol returns the number for a word of the Protocol block: a name or,
// other than in conntrack-tools, a number.
func (p *parser) protocol(word string) (uint8, bool) {
	for _, w := range wellKnownProtocols {
		if w.name == word || w.alias == word {
			return w.number, true
		}
	}
	if n, err := strconv.ParseUint(word, 10, 8); err == nil {
		return uint8(n), true
	}
	return p.ext.Protocol(word)
}

// protocolsFile is the host's protocols(5), read when a name is asked for that
// is not well known. A missing file has no names.
type protocolsFile struct {
	once    sync.Once
	numbers map[string]uint8
}

func (f *protocolsFile) lookup(name string) (uint8, bool) {
	f.once.Do(func() {
		text, err := os.ReadFile("/etc/protocols")
		if err != nil {
			return
		}
		f.numbers = make(map[string]uint8)
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			number, err := strconv.ParseUint(fields[1], 10, 8)
			if err != nil {
				continue
			}
			f.numbers[fields[0]] = uint8(number)
			for _, alias := range fields[2:] {
				f.numbers[alias] = uint8(number)
			}
		}
	})
	number, ok := f.numbers[name]
	return number, ok
}
