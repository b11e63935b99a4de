package format

import (
	"strconv"

	"ctbox/nl/ctnetlink"
)

// saveStatus are the status bits that a command line can name with -u.
var saveStatus = maskedBits{
	{ctnetlink.StatusExpected, "EXPECTED"},
	{ctnetlink.StatusSeenReply, "SEEN_REPLY"},
	{ctnetlink.StatusAssured, "ASSURED"},
	{ctnetlink.StatusFixedTimeout, "FIXED_TIMEOUT"},
}

// appendFlowSave writes the conntrack(8) options that create, change or delete the flow.
// As in conntrack-tools it omits mark, labels and helper; JSON has them.
func appendFlowSave(dst []byte, f *ctnetlink.Flow, s *Style, e *Event) []byte {
	has := f.Has &^ s.Without
	switch {
	case e.Type == Destroy || s.Delete:
		dst = append(dst, "-D "...)
	case e.Type == Update:
		dst = append(dst, "-U "...)
	default:
		dst = append(dst, "-A "...)
	}
	if has&ctnetlink.HasTimeout != 0 {
		dst = appendNumber(dst, "-t ", uint64(f.Timeout))
	}
	if has&ctnetlink.HasStatus != 0 {
		var any bool
		if dst, any = saveStatus.appendBits(append(dst, "-u "...), f.Status); !any {
			dst = append(dst, "UNSET"...)
		}
		dst = append(dst, ' ')
	}
	if has&ctnetlink.HasSecmark != 0 {
		dst = appendNumber(dst, "-c ", uint64(f.Secmark))
	}
	if has&ctnetlink.HasZone != 0 {
		dst = appendNumber(dst, "-w ", uint64(f.Zone))
	}
	if f.Orig.Has&ctnetlink.TupleZone != 0 {
		dst = appendNumber(dst, "--orig-zone ", uint64(f.Orig.Zone))
	}
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		dst = appendNumber(dst, "--reply-zone ", uint64(f.Reply.Zone))
	}
	dst = appendSaveAddrs(dst, f, has)

	proto, known := f.Proto()
	if !known {
		return trimSpace(dst)
	}
	dst = append(dst, "-p "...)
	if name := ctnetlink.ProtoName(proto); name != "unknown" {
		dst = append(dst, name...)
	} else {
		dst = strconv.AppendUint(dst, uint64(proto), 10)
	}
	dst = append(dst, ' ')
	switch {
	case ctnetlink.HasPorts(proto):
		dst = appendSavePorts(dst, f, "--sport ", "--dport ", "--reply-port-src ", "--reply-port-dst ")
		dst = appendSaveState(dst, f, has)
	case proto == ctnetlink.ProtoGRE:
		dst = appendSavePorts(dst, f, "--srckey ", "--dstkey ", "--reply-key-src ", "--reply-key-dst ")
	case proto == ctnetlink.ProtoICMP:
		dst = appendSaveICMP(dst, &f.Orig, "--icmp-type ", "--icmp-code ", "--icmp-id ")
	case proto == ctnetlink.ProtoICMPv6:
		dst = appendSaveICMP(dst, &f.Orig, "--icmpv6-type ", "--icmpv6-code ", "--icmpv6-id ")
	}
	return trimSpace(dst)
}

// appendSaveAddrs writes the addresses. One that NAT has changed is written as a NAT
// option.
func appendSaveAddrs(dst []byte, f *ctnetlink.Flow, has ctnetlink.Attr) []byte {
	option := func(name string, family uint8, a *ctnetlink.Addr) {
		dst = append(AppendAddr(append(dst, name...), family, a), ' ')
	}
	if f.Orig.Has&ctnetlink.TupleSrc != 0 {
		option("-s ", f.Orig.Family, &f.Orig.Src)
	}
	if f.Orig.Has&ctnetlink.TupleDst != 0 {
		option("-d ", f.Orig.Family, &f.Orig.Dst)
	}
	status := f.Status
	if has&ctnetlink.HasStatus == 0 {
		status = 0
	}
	if f.Reply.Has&ctnetlink.TupleSrc != 0 {
		name := "-r "
		if status&ctnetlink.StatusDstNATDone != 0 && f.Reply.Src != f.Orig.Dst {
			name = "-g "
		}
		option(name, f.Reply.Family, &f.Reply.Src)
	}
	if f.Reply.Has&ctnetlink.TupleDst != 0 {
		name := "-q "
		if status&ctnetlink.StatusSrcNATDone != 0 && f.Reply.Dst != f.Orig.Src {
			name = "-n "
		}
		option(name, f.Reply.Family, &f.Reply.Dst)
	}
	return dst
}

func appendSavePorts(dst []byte, f *ctnetlink.Flow, names ...string) []byte {
	for i, t := range [...]*ctnetlink.Tuple{&f.Orig, &f.Reply} {
		if t.Has&ctnetlink.TupleSrcPort != 0 {
			dst = appendNumber(dst, names[2*i], uint64(t.SrcPort))
		}
		if t.Has&ctnetlink.TupleDstPort != 0 {
			dst = appendNumber(dst, names[2*i+1], uint64(t.DstPort))
		}
	}
	return dst
}

func appendSaveICMP(dst []byte, t *ctnetlink.Tuple, typ, code, id string) []byte {
	if t.Has&ctnetlink.TupleICMPType != 0 {
		dst = appendNumber(dst, typ, uint64(t.ICMPType))
	}
	if t.Has&ctnetlink.TupleICMPCode != 0 {
		dst = appendNumber(dst, code, uint64(t.ICMPCode))
	}
	if t.Has&ctnetlink.TupleICMPID != 0 {
		dst = appendNumber(dst, id, uint64(t.ICMPID))
	}
	return dst
}

func appendSaveState(dst []byte, f *ctnetlink.Flow, has ctnetlink.Attr) []byte {
	if name, ok := stateName(f, has); ok {
		dst = append(append(append(dst, "--state "...), name...), ' ')
	}
	if has&ctnetlink.HasSCTPVtagOrig != 0 {
		dst = appendNumber(dst, "--orig-vtag ", uint64(ctnetlink.CommandVtag(f.SCTPVtagOrig)))
	}
	if has&ctnetlink.HasSCTPVtagReply != 0 {
		dst = appendNumber(dst, "--reply-vtag ", uint64(ctnetlink.CommandVtag(f.SCTPVtagReply)))
	}
	if has&ctnetlink.HasDCCPRole != 0 {
		role := "--role client "
		if f.DCCPRole != 0 {
			role = "--role server "
		}
		dst = append(dst, role...)
	}
	return dst
}
