package nfct

import (
	"strconv"

	"ctbox/internal/jsonout"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/cttimeout"
)

// The JSON form is one object on one line for each policy or helper. docs/nfct.md
// specifies names and meanings, which do not change. What the kernel did not send is
// absent.

// object writes the members of JSON objects.
type object struct{ jsonout.Object }

// appendPolicyJSON has every timeout that the kernel sent and the protocol has
// a name for.
func appendPolicyJSON(dst []byte, p *cttimeout.Policy) []byte {
	o := object{jsonout.Object{Dst: dst}}
	o.Begin()
	if p.Has&cttimeout.HasName != 0 {
		o.Text("name", p.Name)
	}
	if p.Has&cttimeout.HasFamily != 0 {
		o.family(p.Family)
	}
	if p.Has&cttimeout.HasProto != 0 {
		o.proto(p.Proto)
	}
	if p.Has&cttimeout.HasUse != 0 {
		o.Uint("use", uint64(p.Use))
	}
	o.Open("timeouts")
	for i, name := range cttimeout.StateNames(p.Proto) {
		if seconds, ok := p.Timeouts.Get(cttimeout.State(i + 1)); ok {
			o.Uint(name, uint64(seconds))
		}
	}
	o.End()
	o.Line()
	return o.Dst
}

func appendHelperJSON(dst []byte, h *cthelper.Helper) []byte {
	o := object{jsonout.Object{Dst: dst}}
	o.Begin()
	o.Text("name", h.Name)
	o.family(h.Family)
	o.proto(h.Proto)
	o.Uint("queue", uint64(h.Queue))
	if h.Has&cthelper.HasPrivDataLen != 0 {
		o.Uint("priv_data_len", uint64(h.PrivDataLen))
	}
	o.Text("status", statusName(h.Status))
	o.List("policies", len(h.Policies), func(i int) {
		p := &h.Policies[i]
		o.Text("name", p.Name)
		o.Uint("expect_max", uint64(p.ExpectMax))
		o.Uint("expect_timeout", uint64(p.ExpectTimeout))
	})
	o.Line()
	return o.Dst
}

func (o *object) family(family uint16) {
	if name := ctnetlink.FamilyName(uint8(family)); family <= 0xff && name != "unknown" {
		o.Text("family", name)
	}
}

func (o *object) proto(proto uint8) {
	o.Uint("proto", uint64(proto))
	if name := protocolName(proto); name != "" {
		o.Text("proto_name", name)
	}
}

// protocolName returns ctnetlink.ProtoName, "generic" for cttimeout.Generic, or "" for a
// protocol without a name.
func protocolName(proto uint8) string {
	if proto == cttimeout.Generic {
		return "generic"
	}
	if name := ctnetlink.ProtoName(proto); name != "unknown" {
		return name
	}
	return ""
}

// familyName returns the family as it is written on the command line.
func familyName(family uint16) string {
	for name, number := range families {
		if number == family {
			return name
		}
	}
	return strconv.Itoa(int(family))
}

// appendPolicy appends a timeout policy as nfct(8) prints it: a line for each attribute
// that is present, and a line for each timeout of the protocol, 0 for one that the
// kernel did not send.
func appendPolicy(dst []byte, p *cttimeout.Policy) []byte {
	if p.Has&cttimeout.HasName != 0 {
		dst = append(append(append(dst, '.'), p.Name...), " = {\n"...)
	}
	if p.Has&cttimeout.HasFamily != 0 {
		dst = appendLine(dst, ".l3proto", uint64(p.Family))
	}
	if p.Has&cttimeout.HasProto != 0 {
		dst = appendLine(dst, ".l4proto", uint64(p.Proto))
	}
	if p.Timeouts != (cttimeout.Timeouts{}) {
		dst = append(dst, "\t.policy = {\n"...)
		names := cttimeout.StateNames(p.Proto)
		if names == nil {
			names = cttimeout.StateNames(cttimeout.Generic)
		}
		for i, name := range names {
			seconds, _ := p.Timeouts.Get(cttimeout.State(i + 1))
			dst = append(append(dst, "\t\t."...), name...)
			dst = append(strconv.AppendUint(append(dst, " = "...), uint64(seconds), 10), ",\n"...)
		}
		dst = append(dst, "\t},\n"...)
	}
	return append(dst, "};\n"...)
}

// appendHelper appends a helper as nfct(8) prints it.
func appendHelper(dst []byte, h *cthelper.Helper) []byte {
	dst = append(append(append(dst, "{\n\t.name = "...), h.Name...), ",\n"...)
	dst = appendLine(dst, ".queuenum", uint64(h.Queue))
	dst = appendLine(dst, ".l3protonum", uint64(h.Family))
	dst = appendLine(dst, ".l4protonum", uint64(h.Proto))
	dst = appendLine(dst, ".priv_data_len", uint64(h.PrivDataLen))
	return append(append(append(dst, "\t.status = "...), statusName(h.Status)...), ",\n};\n"...)
}

func appendLine(dst []byte, name string, v uint64) []byte {
	dst = append(append(append(dst, '\t'), name...), " = "...)
	return append(strconv.AppendUint(dst, v, 10), ",\n"...)
}

func statusName(status uint32) string {
	if status == cthelper.Disabled {
		return "disabled"
	}
	return "enabled"
}
