package conf

import (
	"os"
	"strconv"
	"sync"

	"ctbox/internal/protofile"
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
		text, _ := os.ReadFile(protofile.File)
		f.numbers = protofile.Parse(string(text))
	})
	number, ok := f.numbers[name]
	return number, ok
}
