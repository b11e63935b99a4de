package doctor

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/internal/nftrules"
	"ctbox/internal/nlattr"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Attributes of nf_tables (enum nft_rule_attributes and the like).
const (
	ruleExpressions = 4
	exprName        = 1
	exprData        = 2
	xtName          = 1 // of a match or a target of iptables-nft

	chainTable  = 1
	chainName   = 3
	chainHook   = 4
	chainPolicy = 5
	hookNum     = 1

	hookLocalIn = 1 // NF_INET_LOCAL_IN
	policyDrop  = 0 // NF_DROP
)

// trackers are the expressions, matches and targets that enable connection tracking in a network
// namespace. Without such a rule the kernel does not track connections there.
const trackers = " ct nat masq redir synproxy connlimit flow_offload" +
	" conntrack state connmark connlabel connbytes helper cluster" +
	" CT CONNMARK CONNSECMARK MASQUERADE SNAT DNAT REDIRECT NETMAP SYNPROXY "

func isTracker(name string) bool { return strings.Contains(trackers, " "+name+" ") }

// tracks reports whether a rule, from its attributes, needs connection tracking.
func tracks(rule []byte) bool {
	found, compat := false, false
	nlattr.Nested(rule, ruleExpressions, func(_ uint16, expression []byte) {
		nlattr.Each(expression, func(typ uint16, value []byte) {
			switch typ {
			case exprName: // comes before the data
				name := unix.ByteSliceToString(value)
				compat = name == "match" || name == "target"
				found = found || isTracker(name)
			case exprData:
				if compat {
					nlattr.Nested(expression, exprData, func(typ uint16, value []byte) {
						found = found || typ == xtName && isTracker(unix.ByteSliceToString(value))
					})
				}
			}
		})
	})
	return found
}

// number32 decodes a 32-bit value in network byte order.
func number32(value []byte) int {
	if len(value) != 4 {
		return -1
	}
	return int(binary.BigEndian.Uint32(value))
}

// ruleset summarises the rules of this network namespace.
type ruleset struct {
	known         bool // nf_tables could be read
	rules, tracks int
	input         []string // base chains at the input hook, with their policy
	legacy        []string // tables of iptables-legacy, whose rules are not read
}

func (h *host) ruleset() (s ruleset, err error) {
	for _, file := range [...]string{"ip_tables_names", "ip6_tables_names"} {
		if names, err := h.file("proc/thread-self/net/" + file); err == nil {
			s.legacy = append(s.legacy, strings.Fields(names)...)
		}
	}
	if h.conn == nil {
		return s, unix.ENOTCONN
	}
	_, err = h.conn.Dump(h.ctx, ctnetlink.Dump{Type: nftrules.DumpRules}.Request(), func(m *nl.Message) error {
		s.rules++
		if tracks(m.Attrs) {
			s.tracks++
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	_, err = h.conn.Dump(h.ctx, ctnetlink.Dump{Type: nftrules.DumpChains}.Request(), func(m *nl.Message) error {
		if text := inputChain(m.Attrs); text != "" {
			s.input = append(s.input, text)
		}
		return nil
	})
	s.known = err == nil
	return s, err
}

// inputChain returns table and name of a base chain at the input hook, or "" for other chains.
func inputChain(chain []byte) string {
	hook := -1
	nlattr.Nested(chain, chainHook, func(typ uint16, value []byte) {
		if typ == hookNum {
			hook = number32(value)
		}
	})
	if hook != hookLocalIn {
		return ""
	}
	var table, name, policy string
	nlattr.Each(chain, func(typ uint16, value []byte) {
		switch typ {
		case chainTable:
			table = unix.ByteSliceToString(value)
		case chainName:
			name = unix.ByteSliceToString(value)
		case chainPolicy:
			policy = " (policy accept)"
			if number32(value) == policyDrop {
				policy = dropped
			}
		}
	})
	return table + " " + name + policy
}

const dropped = " (policy drop)"

const noRules = "the kernel tracks connections only if a rule needs it (ct in nft, -m conntrack or NAT in iptables): packets create no flows"

func checkRules(h *host, r *report) {
	if !h.found {
		return
	}
	s, err := h.ruleset()
	flows, countErr := h.count()
	seen := ""
	if countErr == nil {
		seen = "; " + decimal(flows) + " flows in the table"
	}
	switch {
	case s.tracks > 0:
		r.ok(decimal(uint64(s.tracks)) + " of " + decimal(uint64(s.rules)) + " rules use connection tracking" + seen)
	case len(s.legacy) > 0:
		r.add(Note, "iptables-legacy has the tables "+strings.Join(s.legacy, ", ")+", whose rules are not read here"+seen, noRules,
			"iptables-legacy-save | grep -E 'conntrack|state|nat'")
	case err != nil && !s.known:
		r.add(Note, "the rules of nf_tables cannot be read: "+err.Error()+seen, noRules, "")
	default:
		r.add(Warning, "no rule uses connection tracking"+seen, noRules,
			`nft 'add table inet track; add chain inet track pre { type filter hook prerouting priority 0; }; add rule inet track pre ct state new accept'`)
	}
}

// checkFirewall reports the chains that the peer's packets traverse. It does not test them with a
// packet.
func checkFirewall(h *host, r *report) {
	if !h.replicates() {
		return
	}
	s, err := h.ruleset()
	if err != nil && len(s.legacy) == 0 {
		return
	}
	var ports []string
	for _, l := range h.cfg.Sync.Links {
		proto := "udp"
		if l.Transport == conf.TCP {
			proto = "tcp"
		}
		rule := "iifname " + l.Interface + " " + proto + " dport " + decimal(uint64(l.Port)) + " accept"
		if l.Transport == conf.Multicast {
			rule += ", and ip protocol igmp"
		}
		ports = append(ports, rule)
	}
	drops := false
	for _, chain := range s.input {
		drops = drops || strings.HasSuffix(chain, dropped)
	}
	switch {
	case drops:
		r.add(Note, "the peer's packets pass through "+strings.Join(s.input, ", "),
			"packets that no rule accepts are dropped; whether a rule accepts them was not tested", strings.Join(ports, "; "))
	case len(s.input) > 0 || len(s.legacy) > 0:
		r.ok("no chain at input has the policy drop: " + strings.Join(append(s.input, s.legacy...), ", "))
	default:
		r.ok("no chain at input can drop the peer's packets")
	}
}
