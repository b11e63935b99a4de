package nfct

import (
	"strconv"

	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/cttimeout"
	"ctbox/nl/format"
)

// The JSON form: one object on one line for each policy or helper. Names and
// meanings are a promise to programs and stand in docs/nfct.md. What the kernel
// did not send is absent.

// member begins a member of an object in dst that is still open.
func member(dst []byte, name string) []byte {
	if last := dst[len(dst)-1]; last != '{' && last != '[' {
		dst = append(dst, ',')
	}
	return append(append(append(dst, '"'), name...), '"', ':')
}

func memberUint(dst []byte, name string, v uint64) []byte {
	return strconv.AppendUint(member(dst, name), v, 10)
}

func memberText(dst []byte, name, v string) []byte {
	return format.AppendJSONString(member(dst, name), []byte(v))
}

// appendPolicyJSON has every timeout that the kernel sent and the protocol has
// a name for.
func appendPolicyJSON(dst []byte, p *cttimeout.Policy) []byte {
	dst = append(dst, '{')
	if p.Has&cttimeout.HasName != 0 {
		dst = memberText(dst, "name", p.Name)
	}
	if p.Has&cttimeout.HasFamily != 0 {
		dst = memberFamily(dst, p.Family)
	}
	if p.Has&cttimeout.HasProto != 0 {
		dst = memberProto(dst, p.Proto)
	}
	if p.Has&cttimeout.HasUse != 0 {
		dst = memberUint(dst, "use", uint64(p.Use))
	}
	dst = append(member(dst, "timeouts"), '{')
	for i, name := range cttimeout.StateNames(p.Proto) {
		if seconds, ok := p.Timeouts.Get(cttimeout.State(i + 1)); ok {
			dst = memberUint(dst, name, uint64(seconds))
		}
	}
	return append(dst, "}}\n"...)
}

func appendHelperJSON(dst []byte, h *cthelper.Helper) []byte {
	dst = memberText(append(dst, '{'), "name", h.Name)
	dst = memberProto(memberFamily(dst, h.Family), h.Proto)
	dst = memberUint(dst, "queue", uint64(h.Queue))
	if h.Has&cthelper.HasPrivDataLen != 0 {
		dst = memberUint(dst, "priv_data_len", uint64(h.PrivDataLen))
	}
	dst = memberText(dst, "status", statusName(h.Status))
	dst = append(member(dst, "policies"), '[')
	for i, p := range h.Policies {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = memberText(append(dst, '{'), "name", p.Name)
		dst = memberUint(dst, "expect_max", uint64(p.ExpectMax))
		dst = append(memberUint(dst, "expect_timeout", uint64(p.ExpectTimeout)), '}')
	}
	return append(dst, "]}\n"...)
}

func memberFamily(dst []byte, family uint16) []byte {
	if name := ctnetlink.FamilyName(uint8(family)); family <= 0xff && name != "unknown" {
		return memberText(dst, "family", name)
	}
	return dst
}

func memberProto(dst []byte, proto uint8) []byte {
	dst = memberUint(dst, "proto", uint64(proto))
	if name := protocolName(proto); name != "" {
		dst = memberText(dst, "proto_name", name)
	}
	return dst
}

// protocolName is ctnetlink.ProtoName with the name for all other protocols, and ""
// for one without a name.
func protocolName(proto uint8) string {
	if proto == cttimeout.Generic {
		return "generic"
	}
	if name := ctnetlink.ProtoName(proto); name != "unknown" {
		return name
	}
	return ""
}

// familyName is the family as the command line has it.
func familyName(family uint16) string {
	for name, number := range families {
		if number == family {
			return name
		}
	}
	return strconv.Itoa(int(family))
}
