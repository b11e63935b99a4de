package nfct

import (
	"math"
	"os"
	"strconv"

	"ctbox/internal/cnum"
	"ctbox/internal/feature"
	"ctbox/internal/protofile"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/cttimeout"

	"golang.org/x/sys/unix"
)

const (
	errTooMany = argError("too many arguments")
	errFamily  = argError("unknown layer 3 protocol")

	errNoPolicyName  = argError("missing timeout policy name")
	syntaxAddTimeout = argError("missing parameters\nsyntax: nfct add timeout name family protocol state1 timeout1 ...")
	syntaxDefaultSet = argError("missing parameters\nsyntax: nfct default-set timeout family protocol state1 timeout1...")
	syntaxDefaultGet = argError("missing parameters\nsyntax: nfct default-get timeout family protocol")
)

// timeout carries out a command on timeout policies.
func (s *session) timeout(argv0 string, inv invocation) error {
	switch inv.command {
	case cmdList:
		if len(inv.args) > 0 {
			return errTooMany
		}
		return s.timeoutRefusal(inv, nil, cttimeout.List(s.ctx, s.conn, s.showPolicy))
	case cmdAdd:
		if len(inv.args) < 3 {
			return syntaxAddTimeout
		}
		p, err := s.parsePolicy(inv.args[1:])
		if err != nil {
			return err
		}
		p.Has |= cttimeout.HasName
		p.Name = inv.args[0]
		if err := wholeName(p.Name, cttimeout.NameMax); err != nil {
			return err
		}
		return s.timeoutRefusal(inv, p, cttimeout.Add(s.ctx, s.conn, p))
	case cmdDelete, cmdGet:
		if len(inv.args) < 1 {
			return errNoPolicyName
		}
		if len(inv.args) > 1 {
			return errTooMany
		}
		named := &cttimeout.Policy{Has: cttimeout.HasName, Name: inv.args[0]}
		if err := wholeName(named.Name, cttimeout.NameMax); err != nil {
			return err
		}
		if inv.command == cmdDelete {
			return s.timeoutRefusal(inv, named, cttimeout.Delete(s.ctx, s.conn, named.Name))
		}
		p, err := cttimeout.Get(s.ctx, s.conn, named.Name)
		if err != nil {
			return s.timeoutRefusal(inv, named, err)
		}
		return s.showPolicy(p)
	case cmdFlush:
		if len(inv.args) > 0 {
			return errTooMany
		}
		return s.timeoutRefusal(inv, nil, cttimeout.Flush(s.ctx, s.conn))
	case cmdDefaultSet:
		if len(inv.args) < 3 {
			return syntaxDefaultSet
		}
		p, err := s.parsePolicy(inv.args)
		if err != nil {
			return err
		}
		return s.timeoutRefusal(inv, p, cttimeout.SetDefault(s.ctx, s.conn, p))
	case cmdDefaultGet:
		if len(inv.args) < 2 {
			return syntaxDefaultGet
		}
		if len(inv.args) > 2 {
			return errTooMany
		}
		want, err := s.parsePolicy(inv.args[:2])
		if err != nil {
			return err
		}
		p, err := cttimeout.Default(s.ctx, s.conn, want.Family, want.Proto)
		if err != nil {
			return s.timeoutRefusal(inv, want, err)
		}
		return s.showPolicy(p)
	default: // disable
		return argError("Missing command\n" + argv0 +
			" <list|add|delete|get|default-set|default-get|flush> timeout [<parameters>, ...]")
	}
}

func (s *session) showPolicy(p *cttimeout.Policy) error {
	if feature.JSON && s.json {
		s.buf = appendPolicyJSON(s.buf[:0], p)
	} else {
		s.buf = appendPolicy(s.buf[:0], p)
	}
	s.out.Write(s.buf) // the Writer keeps an error until Flush
	return nil
}

// parsePolicy reads FAMILY PROTOCOL [STATE SECONDS]..., at least the first two. It
// returns the first mistake from the left; a last state without seconds comes last.
func (s *session) parsePolicy(args []string) (*cttimeout.Policy, error) {
	family, ok := families[args[0]]
	if !ok {
		return nil, errFamily
	}
	proto, ok := protocolNamed(s.protocols, args[1])
	if !ok {
		return nil, argError("unknown layer 4 protocol")
	}
	p := &cttimeout.Policy{Has: cttimeout.HasFamily | cttimeout.HasProto, Family: family, Proto: proto}
	pairs := args[2:]
	for ; len(pairs) >= 2; pairs = pairs[2:] {
		state, ok := cttimeout.StateNamed(proto, pairs[0])
		if !ok {
			return nil, argError("Wrong state name: `" + pairs[0] + "' for protocol `" + args[1] + "'")
		}
		seconds, err := parseSeconds(pairs[1], s.longest)
		if err != nil {
			return nil, argError("Wrong timeout: `" + pairs[1] + "' for state `" + pairs[0] + "': " + err.Error())
		}
		p.Timeouts.Set(state, seconds)
	}
	if len(pairs) > 0 {
		return nil, argError("missing value for this timeout")
	}
	return p, nil
}

// families are the layer-3 protocols, in their only spelling.
var families = map[string]uint16{"inet": nl.FamilyIPv4, "inet6": nl.FamilyIPv6}

// trackedNames are names of the protocols with a connection tracking of their
// own, as Debian's protocols(5) has them, for systems without that file; and two
// names that only nfct has.
var trackedNames = map[string]uint8{
	"icmp": ctnetlink.ProtoICMP, "ICMP": ctnetlink.ProtoICMP,
	"tcp": ctnetlink.ProtoTCP, "TCP": ctnetlink.ProtoTCP,
	"udp": ctnetlink.ProtoUDP, "UDP": ctnetlink.ProtoUDP,
	"dccp": ctnetlink.ProtoDCCP, "DCCP": ctnetlink.ProtoDCCP,
	"gre": ctnetlink.ProtoGRE, "GRE": ctnetlink.ProtoGRE,
	"ipv6-icmp": ctnetlink.ProtoICMPv6, "IPv6-ICMP": ctnetlink.ProtoICMPv6, "icmpv6": ctnetlink.ProtoICMPv6,
	"sctp": ctnetlink.ProtoSCTP, "SCTP": ctnetlink.ProtoSCTP,
	"udplite": ctnetlink.ProtoUDPLite, "UDPLite": ctnetlink.ProtoUDPLite,
	"generic": cttimeout.Generic,
}

// protocolNamed looks name up in protocols(5), then in trackedNames. It takes no numbers.
func protocolNamed(file, name string) (uint8, bool) {
	if text, err := os.ReadFile(file); err == nil {
		if number, ok := protofile.Parse(string(text))[name]; ok {
			return number, true
		}
	}
	number, ok := trackedNames[name]
	return number, ok
}

// parseSeconds reads a timeout. conntrack-tools accepts anything that begins with a
// number and reads anything else as 0, so that a typing error makes a policy that ends
// flows at once. It also accepts seconds that overflow in the kernel.
func parseSeconds(arg string, longest uint32) (uint32, error) {
	v, rest, ok := cnum.Int(arg)
	if !ok || rest != "" {
		return 0, argError("not a number of seconds")
	}
	if v < 0 || v > int64(longest) {
		return 0, argError("not between 0 and " + strconv.FormatUint(uint64(longest), 10) + " seconds")
	}
	return uint32(v), nil
}

// longestTimeout returns the largest timeout in seconds that does not overflow in the
// kernel, which multiplies it by its ticks per second in 32 bits. The resolution of the
// coarse clock is one tick.
func longestTimeout() uint32 {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil || tick.Nano() <= 0 {
		return math.MaxUint32
	}
	ticks := (1_000_000_000 + tick.Nano()/2) / tick.Nano()
	return uint32(math.MaxUint32 / max(ticks, 1))
}

// wholeName refuses a name that the kernel's object cannot have. conntrack-tools cuts
// it, and so deletes or shows an object of another name.
func wholeName(name string, limit int) error {
	if len(name) > limit {
		return argError("name `" + name + "' is longer than " + strconv.Itoa(limit) + " bytes")
	}
	return nil
}
